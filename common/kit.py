"""A region's start-up kit: what a federation gives a region to join by, in one signed archive.

A kit (``REGION.kit``, a gzipped tar of one folder) has the CA's certificate, the public catalogue,
an example configuration, a README, the checksums of all of it, and a manifest (``fedpref-kit/1``)
that the federation's officers signed. It has no private key: a region makes its own. Its one secret
is the *enrolment token*, by which an enrolment shows that it answers this very kit.

The manifest's root keys are the region's trust anchor. That they are the federation's, no archive
can show by itself: the region compares their ids with what the officers told it by another way.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO

from common.canonical_json import JsonValue
from common.envelope import Envelope, sign_record, verify_envelope
from common.errors import FormatError, VerificationError
from common.key_entry import parse_public_key
from common.signatures import Signer
from common.validate import (
    array,
    exact_fields,
    line,
    matching,
    party,
    sha256_hex,
    timestamp,
    whole_number,
)

SUFFIX = ".kit"
MANIFEST = "kit.json"
CHECKSUMS = "SHA256SUMS"
CA_CERTIFICATE = "ca.crt"
CATALOGUE = "catalogue.parquet"
TOKEN = "enrolment.token"  # noqa: S105 - the name of a file
README = "README.md"
EXAMPLE = "region.toml.example"
#: What a manifest covers: these files, no more and no fewer.
COVERED = frozenset({CA_CERTIFICATE, CATALOGUE, EXAMPLE, README, TOKEN})
TOKEN_BYTES = 32
#: ISO 3166-1 alpha-2.
JURISDICTION = re.compile(r"[A-Z]{2}")
MAX_KIT_BYTES = 256 << 20

_VERSION = "fedpref-kit/1"
_FIELDS = frozenset(
    {
        "v",
        "federation",
        "region",
        "jurisdiction",
        "issued_at",
        "coordinator",
        "root",
        "witness_quorum",
        "catalogue",
        "app",
        "protocol",
        "files",
    }
)
_COORDINATOR_FIELDS = frozenset({"address", "server_name"})
_ROOT_FIELDS = frozenset({"threshold", "keys"})
_ROOT_KEY_FIELDS = frozenset({"key_id", "public_key"})
_CATALOGUE_FIELDS = frozenset({"sha256", "n_items"})
_FILE_FIELDS = frozenset({"sha256", "bytes"})


@dataclass(frozen=True)
class KitFacts:
    """What a kit's manifest says.

    Attributes:
        federation: The federation's name.
        region: Whose kit it is.
        jurisdiction: The region's country code, ISO 3166-1 alpha-2.
        issued_at: When it was made.
        address: Where regions connect, ``host:port``.
        server_name: The name that the coordinator's certificate must have.
        root_keys: The root's public keys by key id: the trust anchor.
        root_threshold: How many of them must sign.
        witness_quorum: How many other parties must cosign a checkpoint.
        catalogue_sha256: The public catalogue's digest (`common.catalogue.Catalogue.digest`).
        n_items: Its number of items.
        app_sha256: SHA-256 of the app bundle that the coordinator ships.
        protocol: The version of the protocol that the coordinator speaks.
    """

    federation: str
    region: str
    jurisdiction: str
    issued_at: str
    address: str
    server_name: str
    root_keys: Mapping[str, bytes]
    root_threshold: int
    witness_quorum: int
    catalogue_sha256: str
    n_items: int
    app_sha256: str
    protocol: int

    def to_record(self, files: Mapping[str, bytes]) -> dict[str, JsonValue]:
        """The manifest for these files."""
        return {
            "v": _VERSION,
            "federation": self.federation,
            "region": self.region,
            "jurisdiction": self.jurisdiction,
            "issued_at": self.issued_at,
            "coordinator": {"address": self.address, "server_name": self.server_name},
            "root": {
                "threshold": self.root_threshold,
                "keys": [
                    {"key_id": key_id, "public_key": public_key.hex()}
                    for key_id, public_key in self.root_keys.items()
                ],
            },
            "witness_quorum": self.witness_quorum,
            "catalogue": {"sha256": self.catalogue_sha256, "n_items": self.n_items},
            "app": self.app_sha256,
            "protocol": self.protocol,
            "files": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                for name, data in sorted(files.items())
            },
        }


@dataclass(frozen=True)
class Kit:
    """A verified kit.

    Attributes:
        facts: What its manifest says.
        manifest: The signed manifest's bytes.
        files: The other files, by name.
    """

    facts: KitFacts
    manifest: bytes
    files: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """What an enrolment names the kit by: the digest of its manifest, in hex."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def token(self) -> bytes:
        """The secret by which an enrolment shows that it answers this kit."""
        return bytes.fromhex(self.files[TOKEN].decode("ascii").strip())


def make_kit(facts: KitFacts, files: Mapping[str, bytes], signers: Iterable[Signer]) -> bytes:
    """Makes a kit's archive.

    Args:
        facts: What it says.
        files: The files of `COVERED`.
        signers: Root keys, at least as many as the threshold.

    Raises:
        FormatError: A file is missing or too many, or a fact is malformed.
        VerificationError: Too few root keys sign.
    """
    manifest = sign_record(facts.to_record(files), *signers)
    everything = {**files, MANIFEST: manifest}
    everything[CHECKSUMS] = _checksums(everything)
    open_files(everything, root_key_ids=())
    packed = io.BytesIO()
    # Without times and owners the same content has the same bytes.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in sorted(everything.items()):
            member = tarfile.TarInfo(f"{facts.region}/{name}")
            member.size, member.mode = len(data), 0o600 if name == TOKEN else 0o644
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def open_kit(data: bytes, *, root_key_ids: Collection[str]) -> Kit:
    """Unpacks and verifies a kit; nothing is written anywhere.

    Args:
        data: The archive.
        root_key_ids: The ids of the federation's root keys, known from elsewhere; they must be
            exactly those. Without them the kit's own are taken, which shows that it is whole, not
            whose it is.

    Raises:
        FormatError: It is no kit, or is larger than one may be.
        VerificationError: A file, a signature or a root key is not what it should be.
    """
    return open_files(_unpack(data), root_key_ids=root_key_ids)


def open_files(files: Mapping[str, bytes], *, root_key_ids: Collection[str]) -> Kit:
    """Verifies the files of an unpacked kit; see `open_kit`."""
    if set(files) != COVERED | {MANIFEST, CHECKSUMS}:
        raise FormatError(
            f"A kit has the files {', '.join(sorted(COVERED))}, {MANIFEST} and {CHECKSUMS}, and no "
            "others.",
            remedy="Ask for the kit anew.",
        )
    manifest = files[MANIFEST]
    envelope = Envelope.decode(manifest)
    facts, stated = _parse(envelope.record())
    verify_envelope(envelope, facts.root_keys, threshold=facts.root_threshold)
    if root_key_ids and set(root_key_ids) != set(facts.root_keys):
        raise VerificationError(
            f"The kit of {facts.region} is signed by other root keys than those you name.",
            remedy="Do not install it; ask the federation's officers.",
        )
    covered = {name: files[name] for name in COVERED}
    for name, data in covered.items():
        if stated[name] != (hashlib.sha256(data).hexdigest(), len(data)):
            raise VerificationError(
                f"The kit's {name} is not the file that its manifest was signed for.",
                remedy="Ask for the kit anew; do not install this one.",
            )
    if files[CHECKSUMS] != _checksums({**covered, MANIFEST: manifest}):
        raise VerificationError(f"The kit's {CHECKSUMS} is not that of its files.")
    kit = Kit(facts, manifest, MappingProxyType(covered))
    _check_token(files[TOKEN])
    return kit


def _checksums(files: Mapping[str, bytes]) -> bytes:
    """What ``sha256sum --check`` reads."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
    return "".join(sorted(lines, key=lambda text: text[66:])).encode("ascii")


def _check_token(data: bytes) -> None:
    text = data.decode("ascii", "replace")
    sha256_hex(text.strip(), "The kit's enrolment token")
    if text != f"{text.strip()}\n":
        raise FormatError("The kit's enrolment token is not one line.")


def manifest_facts(envelope: Envelope) -> KitFacts:
    """What a manifest says that was verified when its kit was opened."""
    return _parse(envelope.record())[0]


def _parse(record: JsonValue) -> tuple[KitFacts, dict[str, tuple[str, int]]]:
    fields = exact_fields(record, _FIELDS, "A kit's manifest")
    if fields["v"] != _VERSION:
        raise FormatError(f"The file is not a kit's manifest ({_VERSION}).")
    coordinator = exact_fields(fields["coordinator"], _COORDINATOR_FIELDS, "coordinator")
    root = exact_fields(fields["root"], _ROOT_FIELDS, "root")
    root_keys: dict[str, bytes] = {}
    for item in array(root["keys"], "root.keys"):
        key = exact_fields(item, _ROOT_KEY_FIELDS, "A root key")
        identity, public_key = parse_public_key(key["key_id"], key["public_key"])
        root_keys[identity] = public_key
    threshold = whole_number(root["threshold"], "root.threshold", least=1)
    if not len(root_keys) < 2 * threshold <= 2 * len(root_keys):
        raise FormatError(
            "The root threshold is not more than half of the kit's root keys, or too high."
        )
    catalogue = exact_fields(fields["catalogue"], _CATALOGUE_FIELDS, "catalogue")
    files = exact_fields(fields["files"], COVERED, "files")
    stated = {}
    for name, value in files.items():
        entry = exact_fields(value, _FILE_FIELDS, f"files.{name}")
        size = whole_number(entry["bytes"], f"files.{name}.bytes", least=0)
        stated[name] = (sha256_hex(entry["sha256"], f"files.{name}.sha256"), size)
    facts = KitFacts(
        federation=line(fields["federation"], "federation"),
        region=party(fields["region"], "region"),
        jurisdiction=matching(
            fields["jurisdiction"], JURISDICTION, "jurisdiction", "a country code such as DE"
        ),
        issued_at=timestamp(fields["issued_at"], "issued_at")[0],
        address=line(coordinator["address"], "coordinator.address"),
        server_name=line(coordinator["server_name"], "coordinator.server_name"),
        root_keys=MappingProxyType(root_keys),
        root_threshold=threshold,
        witness_quorum=whole_number(fields["witness_quorum"], "witness_quorum", least=0),
        catalogue_sha256=sha256_hex(catalogue["sha256"], "catalogue.sha256"),
        n_items=whole_number(catalogue["n_items"], "catalogue.n_items", least=1),
        app_sha256=sha256_hex(fields["app"], "app"),
        protocol=whole_number(fields["protocol"], "protocol", least=1),
    )
    return facts, stated


def _unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive's one folder; what is no plain file there is refused."""
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate(data)), mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                opened = archive.extractfile(member) if member.isreg() else None
                if opened is None or not name or "/" in name or name in files:
                    raise FormatError(f"The kit has {member.name[:80]!r}, which no kit has.")
                folders.add(folder)
                files[name] = _read(opened)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise FormatError(
            "The file is no start-up kit: it is not a whole gzipped archive.",
            remedy="Ask for the kit anew.",
        ) from error
    if len(folders) != 1:
        raise FormatError("A kit has exactly one folder.")
    return files


def _inflate(data: bytes) -> bytes:
    """Unzips as much as a kit may have, and not a byte more of what may be a bomb."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        archive = inflater.decompress(data, MAX_KIT_BYTES)
    except zlib.error as error:
        raise FormatError(
            "The file is no start-up kit: it is not gzipped.", remedy="Ask for the kit anew."
        ) from error
    if inflater.unconsumed_tail:
        raise FormatError(f"The kit is larger than {MAX_KIT_BYTES} bytes.")
    return archive


def _read(opened: IO[bytes]) -> bytes:
    with opened:
        return opened.read()
