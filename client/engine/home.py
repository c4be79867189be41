"""A region's home folder: where each of its files lies, and how its keys are opened.

One folder holds everything a region owns. Nothing in it leaves the region but what the privacy
engine seals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError
from common.key_store import KeyStore
from common.keys import Registry, Signer
from common.registry_install import registry_envelopes

_IDENTITY_VERSION = "fedpref-home/1"
#: The home's name in the folder of a region that was installed, beside its ``region.toml``.
HOME_NAME = "home"
KEY_ROLES = ("log", "consent", "trainer", "permit", "controller", "witness")


@dataclass(frozen=True)
class RegionHome:
    """Paths inside one region's home folder.

    Args:
        root: The folder itself.
        region: The region's party name, as the key registry spells it.
        federation: The federation's name; it begins the origin of the region's log.
    """

    root: Path
    region: str
    federation: str

    @property
    def origin(self) -> str:
        """The log's origin (C2SP ``tlog-checkpoint``)."""
        return f"{self.federation}/{self.region}"

    @property
    def keys(self) -> Path:
        """The folder of encrypted private keys."""
        return self.root / "keys"

    @property
    def registry(self) -> Path:
        """The folder of key registry versions, ``1.json`` and on."""
        return self.root / "registry"

    @property
    def log(self) -> Path:
        """The audit log's database."""
        return self.root / "log.sqlite"

    @property
    def ledger(self) -> Path:
        """The budget ledger's database."""
        return self.root / "ledger.sqlite"

    @property
    def subjects(self) -> Path:
        """The deletable table of customers' pseudonym keys."""
        return self.root / "subjects.sqlite"

    @property
    def witness(self) -> Path:
        """What the region has witnessed of others' logs, and who cosigned its own."""
        return self.root / "witness.sqlite"

    @property
    def seals(self) -> Path:
        """The folder of sealed updates."""
        return self.root / "seals"

    @property
    def masking(self) -> Path:
        """The folder of the keys that sealed updates are masked with, each for one round."""
        return self.root / "masking"

    @property
    def permits(self) -> Path:
        """The folder of signed permits, one file a run."""
        return self.root / "permits"

    @property
    def queries(self) -> Path:
        """The folder of signed queries and of their sealed answers."""
        return self.root / "queries"

    @property
    def prepared(self) -> Path:
        """The folder of what is kept of the store, encrypted; it can be made again at any time."""
        return self.root / "prepared"

    @property
    def columns(self) -> Path:
        """The folder of the tables that are kept column by column, sensitive ones encrypted."""
        return self.root / "columns"

    @property
    def columns_key(self) -> Path:
        """The key that wraps the keys of encrypted columns."""
        return self.keys / "columns.key"

    @property
    def policy(self) -> Path:
        """The region's policy."""
        return self.root / "policy.json"

    @property
    def source(self) -> Path:
        """The declaration of the region's store and its column mapping."""
        return self.root / "data" / "source.toml"

    @property
    def catalogue(self) -> Path:
        """The public catalogue."""
        return self.root / "catalogue.parquet"

    @property
    def stored_key(self) -> Path:
        """The key that encrypts the subjects' table at rest."""
        return self.keys / "storage.key"

    @property
    def identity(self) -> Path:
        """The file that says whose home this is."""
        return self.root / "home.json"

    def write_identity(self) -> None:
        """Writes who this home belongs to."""
        record: dict[str, JsonValue] = {
            "v": _IDENTITY_VERSION,
            "federation": self.federation,
            "region": self.region,
        }
        write_durably(self.identity, canonical_json.encode(record))

    @classmethod
    def read(cls, root: Path) -> RegionHome:
        """Opens an existing home folder.

        Args:
            root: The home, or the folder of a region that has it in ``home``.

        Raises:
            InputError: ``root`` is not a region's home.
        """
        if not (root / "home.json").exists() and (root / HOME_NAME / "home.json").exists():
            root = root / HOME_NAME
        path = root / "home.json"
        try:
            record = canonical_json.decode(path.read_bytes())
        except (OSError, FormatError) as error:
            raise InputError(
                f"{root} is not a region's home: its home.json cannot be read ({error}).",
                remedy="Name the folder that holds the region's keys, log and ledger.",
            ) from error
        if not isinstance(record, dict) or record.get("v") != _IDENTITY_VERSION:
            raise InputError(f"{path} is not a region's identity ({_IDENTITY_VERSION}).")
        return cls(root=root, region=str(record["region"]), federation=str(record["federation"]))

    @property
    def key_store(self) -> KeyStore:
        """The region's private keys, in files or elsewhere."""
        return KeyStore(self.keys, self.region)

    def passphrase(self) -> bytes:
        """The passphrase of the private keys.

        Raises:
            InputError: If the passphrase file is missing, empty or readable by others.
        """
        return self.key_store.passphrase()

    def signer(self, role: str) -> Signer:
        """Opens the private key of one role, wherever `common.key_store` says it is kept.

        Args:
            role: One of `KEY_ROLES`.
        """
        return self.key_store.signer(role)

    def read_registry(self) -> Registry:
        """Reads and verifies the chain of key registry versions.

        Raises:
            InputError: If there is none.
            VerificationError: If a version does not verify.
        """
        return read_registry(self.registry)


def read_registry(folder: Path) -> Registry:
    """Reads and verifies the key registry versions in ``folder``, oldest first."""
    versions = registry_envelopes(folder)
    if not versions:
        raise InputError(
            f"There is no key registry in {folder}.",
            remedy="Copy the federation's registry/*.json there.",
        )
    return Registry.from_envelopes(versions, root_key_ids=None)
