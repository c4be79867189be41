"""A log's entries as C2SP ``tlog-tiles`` entry bundles, and where each file of a bundle lies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from common.audit.verify.files import MANIFEST_NAME, BundleFolder
from common.audit.verify.verdict import MANIFEST, Findings
from common.errors import FormatError

PLAN_NAME = "plan.json"
WITNESSES = "witnesses"
ENTRIES_PER_TILE = 256
_LENGTH_BYTES = 2


def log_folder(party: str) -> str:
    """The folder of one party's log, inside the bundle."""
    return f"logs/{party}"


def conflict_files(folder: BundleFolder, witness: str, party: str) -> Iterator[tuple[str, str]]:
    """The two files of each conflict about a party's log that a witness keeps."""
    place = f"{WITNESSES}/{witness}/evidence"
    for name in folder.list_folder(place):
        number, _, rest = name.partition("-")
        if number.isascii() and number.isdigit() and rest in (f"{party}-a", f"{party}-b"):
            stem = f"{place}/{number}-{party}"
            # Of a lone half, the missing one is named when it is read.
            if rest.endswith("-a") or not folder.has(f"{stem}-a"):
                yield f"{stem}-a", f"{stem}-b"


def tile_name(party: str, index: int, size: int) -> str:
    """The file that holds an entry of a log of ``size`` entries."""
    number, width = index // ENTRIES_PER_TILE, size % ENTRIES_PER_TILE
    name = f"{number % 1000:03d}"
    rest = number // 1000
    while rest:
        name = f"x{rest % 1000:03d}/{name}"
        rest //= 1000
    partial = f".p/{width}" if number == size // ENTRIES_PER_TILE else ""
    return f"{log_folder(party)}/tile/entries/{name}{partial}"


def read_tiles(
    folder: BundleFolder, party: str, size: int, *, start: int = 0
) -> Iterator[tuple[str, int, list[bytes]]]:
    """Reads a log's entries, a file at a time.

    Yields:
        The file's name, the index of its first entry, and its entries.

    Raises:
        InputError: A file is missing or unreadable.
        FormatError: A file does not hold exactly its entries.
    """
    for first in range(start - start % ENTRIES_PER_TILE, size, ENTRIES_PER_TILE):
        name = tile_name(party, first, size)
        expected = min(ENTRIES_PER_TILE, size - first)
        yield name, first, read_tile(folder, name, expected)


def read_tile(folder: BundleFolder, name: str, expected: int) -> list[bytes]:
    """Reads the entries of one file.

    Raises:
        InputError: The file is missing or unreadable.
        FormatError: It does not hold exactly ``expected`` entries.
    """
    return _entries(folder.read(name), name, expected)


def _entries(data: bytes, name: str, expected: int) -> list[bytes]:
    entries: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH_BYTES
        stop = start + int.from_bytes(data[position:start], "big")
        if start > len(data) or stop > len(data):
            raise FormatError(f"{name} ends within entry {len(entries)} of its own.")
        entries.append(data[start:stop])
        position = stop
    if len(entries) != expected:
        raise FormatError(f"{name} holds {len(entries)} entries, {expected} are expected.")
    return entries


def check_names(
    folder: BundleFolder,
    sizes: Mapping[str, int],
    parts: Mapping[str, Collection[str]],
    witnesses: Collection[str],
    findings: Findings,
) -> None:
    """Checks that every file has a place in the format, so that nothing is carried along unread.

    Args:
        folder: The bundle.
        sizes: Every verified log's size, by party.
        parts: The files that were read of logs that are not whole, by party.
        witnesses: The parties that have a witness key.
        findings: Where failures go.
    """
    expected = {MANIFEST_NAME, PLAN_NAME}
    expected |= {f"registry/{name}" for name in folder.list_folder("registry")}
    for party, size in sizes.items():
        expected.add(f"{log_folder(party)}/checkpoint")
        earlier = f"{log_folder(party)}/checkpoints"
        expected |= {f"{earlier}/{name}" for name in folder.list_folder(earlier)}
        tiles = (tile_name(party, n, size) for n in range(0, size, ENTRIES_PER_TILE))
        expected.update(parts.get(party, tiles))
        for witness in witnesses:
            expected.add(f"{WITNESSES}/{witness}/{party}")
            expected |= {name for pair in conflict_files(folder, witness, party) for name in pair}
    files, _ = folder.names()
    for name in sorted(files - expected):
        findings.fail(
            MANIFEST,
            "file-unexpected",
            f"{name} has no place in a bundle.",
            file=name,
        )
