"""One entry of a bundle's log, for a person to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.merkle import leaf_hash
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.partial import ENTRIES
from common.audit.verify.tiles import log_folder, read_tiles
from common.envelope import Envelope
from common.errors import InputError


@dataclass(frozen=True)
class ShownEntry:
    """An entry as it stands in the log, unverified.

    Attributes:
        size: How many entries the log has.
        leaf: The entry's leaf hash, in hex.
        key_ids: The keys that claim to have signed it.
        record: Its fields.
    """

    size: int
    leaf: str
    key_ids: tuple[str, ...]
    record: Record


def read_entry(path: Path, party: str, index: int) -> ShownEntry:
    """Reads one entry without verifying anything.

    Args:
        path: The run folder or the bundle folder.
        party: Whose log.
        index: The entry's index, from 0.

    Raises:
        InputError: There is no such bundle, log or entry, or it is malformed.
    """
    folder = BundleFolder(path)
    parties = folder.list_folder("logs")
    if party not in parties:
        raise InputError(
            f"The bundle has no log of {party!r}.", remedy=f"It has those of {', '.join(parties)}."
        )
    note = parse_note(folder.read(f"{log_folder(party)}/checkpoint"))
    size = Checkpoint.parse(note.text).size
    if not 0 <= index < size:
        raise InputError(
            f"The log of {party} has no entry {index}.", remedy=f"It has entries 0 to {size - 1}."
        )
    data = _entry(folder, party, index, size)
    envelope = Envelope.decode(data)
    return ShownEntry(
        size=size,
        leaf=leaf_hash(data).hex(),
        key_ids=tuple(signature.key_id for signature in envelope.signatures),
        record=envelope.record(),
    )


def _entry(folder: BundleFolder, party: str, index: int, size: int) -> bytes:
    place = f"{log_folder(party)}/{ENTRIES}"
    if not folder.list_folder(place):
        _, first, entries = next(read_tiles(folder, party, size, start=index))
        return entries[index - first]
    if not folder.has(f"{place}/{index}"):
        raise InputError(
            f"This bundle does not hold entry {index} of the log of {party}.",
            remedy=f"It holds no consents of {party}; its regional bundle does.",
        )
    return folder.read(f"{place}/{index}")
