"""An outside witness's home folder: its key, and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.audit.checkpoint import parse_note
from common.audit.witness.store import WitnessStore
from common.durable_file import write_durably
from common.errors import InputError, StorageError, VerificationError
from common.key_entry import KeyEntry
from common.key_rotation import make_key
from common.key_store import KeyStore
from common.keys import Registry, Signer
from common.timestamps import format_time

ROLE = "witness"
_PUBLIC_MODE = 0o644


@dataclass(frozen=True)
class WitnessHome:
    """Paths inside a witness's home.

    Args:
        root: The folder itself: ``keys/witness.pem``, ``keys/passphrase``, ``witness.sqlite``.
    """

    root: Path

    @property
    def store_path(self) -> Path:
        """The witness's memory."""
        return self.root / "witness.sqlite"

    @property
    def key_store(self) -> KeyStore:
        """The witness's key, wherever it is kept."""
        return KeyStore(self.root / "keys", "The witness")

    def signer(self) -> Signer:
        """Opens the witness's key."""
        return self.key_store.signer(ROLE)

    def open_store(self) -> WitnessStore:
        """Opens the witness's memory, which must be there."""
        return WitnessStore.open(self.store_path)


def make_home(root: Path) -> Signer:
    """Makes a new witness: its key and its empty memory.

    Raises:
        InputError: There is a key or a memory already.
        StorageError: The folder cannot be written.
    """
    home = WitnessHome(root)
    if home.store_path.exists():
        raise InputError(f"{home.store_path} is there already: this is a witness's home.")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{root} cannot be made: {error.strerror}.") from error
    signer = make_key(home.key_store, ROLE)
    WitnessStore.open(home.store_path, create=True).close()
    return signer


def enrolled_as(registry: Registry, signer: Signer, at_ms: int) -> KeyEntry:
    """The registry's entry of a witness's key, which must count now.

    Raises:
        VerificationError: The registry does not have the key as a witness's, or not at this time.
    """
    entry = next((each for each in registry.entries if each.key_id == signer.key_id), None)
    try:
        if entry is None:
            raise VerificationError(f"The key {signer.key_id[:16]}… is not in the key registry.")
        registry.find(signer.key_id, party=entry.party, role=ROLE, at_ms=at_ms)
    except VerificationError as error:
        raise VerificationError(
            f"This witness's cosignatures would not count: {error.message}",
            remedy="Have the key enrolled, and give the newest registry.",
        ) from error
    return entry


def write_evidence(store: WitnessStore, folder: Path) -> tuple[int, int]:
    """Writes the newest note of each log, and all evidence, as files that a bundle can take over.

    ``<log party>`` is the newest note; ``evidence/<n>-<log party>-a`` and ``-b`` are the two notes
    of a conflict, and ``evidence/<n>-<log party>.txt`` says when it was found and what it shows.

    Args:
        store: The witness's memory.
        folder: The folder to write to; it must be empty or not there.

    Returns:
        How many notes, and how many conflicts.

    Raises:
        InputError: The folder has files.
        StorageError: It cannot be written.
    """
    notes, found = store.notes(), store.evidence()
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty.", remedy="Name a new folder.")
        kept = folder / "evidence"
        kept.mkdir(parents=True, exist_ok=True)
        for origin, note in notes.items():
            write_durably(folder / _party(origin), note, mode=_PUBLIC_MODE)
        for number, each in enumerate(found, start=1):
            name = f"{number}-{_party(each.origin)}"
            write_durably(kept / f"{name}-a", each.known, mode=_PUBLIC_MODE)
            write_durably(kept / f"{name}-b", each.other, mode=_PUBLIC_MODE)
            told = f"{each.origin}\n{each.kind}\n{format_time(each.found_at_s * 1000)}\n"
            write_durably(kept / f"{name}.txt", told.encode(), mode=_PUBLIC_MODE)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}.") from error
    return len(notes), len(found)


def size_of(note: bytes) -> int:
    """The size that a stored checkpoint states."""
    return int(parse_note(note).text.split("\n")[1])


def _party(origin: str) -> str:
    return origin.rpartition("/")[2]
