"""A federation's key registry as a reader of single proofs needs it: keys, and quorums by time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError, InputError, VerificationError
from common.keys import MAX_REGISTRY_BYTES, Registry
from common.timestamps import parse_time

_REMEDY = "Name a folder with the registry's versions: 1.json, 2.json and so on."
_VERSION_FILE = re.compile(r"[1-9][0-9]{0,5}\.json")


@dataclass(frozen=True)
class FederationKeys:
    """A verified key registry; made by `from_envelopes` or `read_federation_keys`.

    Attributes:
        registry: All keys, as the newest version has them.
        quorums: Of each version, oldest first: when it was issued, in milliseconds since the
            epoch, and how many other parties must cosign a checkpoint since then.
    """

    registry: Registry
    quorums: tuple[tuple[int, int], ...]

    @classmethod
    def from_envelopes(
        cls, envelopes: Sequence[bytes], *, root_key_ids: Collection[str] | None = None
    ) -> FederationKeys:
        """Verifies all versions of a registry, oldest first.

        Args:
            envelopes: The bytes of versions 1, 2, … without a gap.
            root_key_ids: Ids of root keys that the reader trusts, in hex: enough of them must
                have signed the newest version. None or empty trusts the registry as it is found.

        Raises:
            FormatError: A version is malformed.
            VerificationError: A version does not verify, or not with enough trusted keys.
        """
        registry = Registry.from_envelopes(envelopes, root_key_ids=None)
        if root_key_ids:
            _check_trusted(envelopes[-1], registry, root_key_ids)
        quorums = tuple(_quorum(data) for data in envelopes)
        return cls(registry, quorums)

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.registry.federation

    def quorum_at(self, time_ms: int) -> int:
        """How many other parties had to cosign a checkpoint at a time.

        What was logged under an earlier version is judged by that version: a federation that adds
        a witness does not thereby undo its history.
        """
        issued = [quorum for issued_ms, quorum in self.quorums if issued_ms <= time_ms]
        return issued[-1] if issued else self.quorums[0][1]


def read_federation_keys(
    folder: Path, *, root_key_ids: Collection[str] | None = None
) -> FederationKeys:
    """Reads and verifies a key registry from a folder.

    Args:
        folder: A folder with ``1.json``, ``2.json`` …, or one with such a folder ``registry``.
        root_key_ids: As for `FederationKeys.from_envelopes`.

    Raises:
        InputError: There is no registry there, or a version is missing or unreadable.
        VerificationError: A version does not verify.
    """
    inner = folder / "registry"
    place = inner if inner.is_dir() else folder
    try:
        names = {path.name for path in place.iterdir() if _VERSION_FILE.fullmatch(path.name)}
        versions = [_read(place / f"{number}.json") for number in range(1, len(names) + 1)]
    except OSError as error:
        raise InputError(
            f"The key registry in {folder} cannot be read: {error.strerror}.", remedy=_REMEDY
        ) from error
    if not versions:
        raise InputError(f"There is no key registry in {folder}.", remedy=_REMEDY)
    return FederationKeys.from_envelopes(versions, root_key_ids=root_key_ids)


def _check_trusted(newest: bytes, registry: Registry, trusted: Collection[str]) -> None:
    # The registry has verified all its signatures already.
    signatures = Envelope.decode(newest, max_bytes=MAX_REGISTRY_BYTES).signatures
    signers = {each.key_id for each in signatures} & registry.root_key_ids
    if len(signers & set(trusted)) < registry.root_threshold:
        raise VerificationError(
            f"Of the root keys you named, {len(signers & set(trusted))} signed the newest "
            f"registry; {registry.root_threshold} must."
        )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_REGISTRY_BYTES + 1)


def _quorum(data: bytes) -> tuple[int, int]:
    record = Envelope.decode(data, max_bytes=MAX_REGISTRY_BYTES).record()
    issued_at: JsonValue = record["issued_at"]
    quorum: JsonValue = record["witness_quorum"]
    if not isinstance(issued_at, str) or not isinstance(quorum, int):
        raise FormatError("A registry version states no time of issue or witness quorum.")
    return parse_time(issued_at), quorum
