"""What a witness remembers, and what others have cosigned of one's own log; in one SQLite file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    MAX_SIGNATURES,
    Checkpoint,
    Note,
    NoteKey,
    NoteSignature,
    cosignature_time_s,
    open_note,
    parse_note,
)
from common.audit.witness.database import WitnessDatabase
from common.errors import FormatError, InputError, VerificationError

#: Two checkpoints of one size with two roots: each alone convicts the log.
SPLIT_VIEW = "split-view"
#: A larger checkpoint without a proof that it continues the smaller one: the log, or whoever
#: handed it in, did not show it. It goes away once the log has shown it.
UNPROVEN = "unproven"

#: Kept for each log and kind. One split view is enough; more show how it went on.
MAX_EVIDENCE = 100
#: Earlier checkpoints of each log that a late branch is compared with.
MAX_COSIGNED = 10_000


@dataclass(frozen=True)
class Seen:
    """The newest checkpoint of a log that this witness cosigned.

    Attributes:
        size: Its size.
        root: Its root, 32 bytes.
        note: The note, with the log's signatures and the witness's own line.
        time_s: The POSIX time of the cosignature, in seconds.
    """

    size: int
    root: bytes
    note: bytes
    time_s: int


@dataclass(frozen=True)
class Evidence:
    """Two notes of one log, both signed by it, that do not agree or were not shown to.

    Attributes:
        number: Counts up in this file.
        origin: The log.
        kind: ``SPLIT_VIEW`` or ``UNPROVEN``.
        known: The note that this witness had cosigned.
        other: The note that was handed in.
        found_at_s: When, as POSIX time in seconds.
    """

    number: int
    origin: str
    kind: str
    known: bytes
    other: bytes
    found_at_s: int


class WitnessStore:
    """The memory of a witness: by log its newest cosigned checkpoint, and what contradicts it.

    Any number of threads may share one store, and any number of processes one file.

    Args:
        database: The open file; use `open`.
    """

    def __init__(self, database: WitnessDatabase) -> None:
        self.database = database

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> WitnessStore:
        """Opens a witness's file.

        Args:
            path: The file, ``witness.sqlite`` in a home.
            create: Whether to make it if it is not there; an existing one is opened as it is.
                Only for a new witness: one that lost its memory could cosign a rollback.

        Raises:
            InputError: The file is not there and ``create`` is False.
            StorageError: It cannot be written, is damaged or is another kind of file.
        """
        return cls(WitnessDatabase.open(path, create=create))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One turn, alone among all threads and processes; durable once it is left."""
        with self.database.transaction():
            yield

    def origins(self) -> list[str]:
        """The logs of which anything was cosigned, sorted."""
        rows = self.database.rows((str,), "SELECT origin FROM head ORDER BY origin")
        return [origin for (origin,) in rows]

    def seen(self, origin: str) -> Seen | None:
        """The newest cosigned checkpoint of a log, or None."""
        rows = self.database.rows(
            (int, bytes, bytes, int),
            "SELECT size, root, note, time_s FROM head WHERE origin = ?",
            (origin,),
        )
        return Seen(*rows[0]) if rows else None

    def cosigned_at(self, origin: str, size: int) -> tuple[bytes, bytes] | None:
        """Root and note of the checkpoint of this size that was cosigned, if it is remembered."""
        rows = self.database.rows(
            (bytes, bytes),
            "SELECT root, note FROM cosigned WHERE origin = ? AND size = ?",
            (origin, size),
        )
        return rows[0] if rows else None

    def advance(self, checkpoint: Checkpoint, note: bytes, time_s: int) -> None:
        """Remembers a checkpoint as the newest, within a `transaction` that checked that it is.

        Args:
            checkpoint: What the note states.
            note: With the log's signatures and the witness's own line.
            time_s: POSIX time of the cosignature, in seconds.

        Raises:
            StorageError: Nothing was stored; also if it would go back in size or time.
        """
        origin, size, root = checkpoint.origin, checkpoint.size, checkpoint.root
        self.database.run(
            "INSERT INTO head VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (origin) DO UPDATE"
            " SET size = ?2, root = ?3, note = ?4, time_s = ?5",
            (origin, size, root, note, time_s),
        )
        self.database.run(
            "INSERT INTO cosigned VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET note = ?4",
            (origin, size, root, note),
        )
        self.database.run(
            "DELETE FROM cosigned WHERE origin = ?1 AND size <= (SELECT size FROM cosigned"
            " WHERE origin = ?1 ORDER BY size DESC LIMIT 1 OFFSET ?2)",
            (origin, MAX_COSIGNED),
        )
        self._settle(checkpoint, note, time_s)

    def _settle(self, checkpoint: Checkpoint, note: bytes, time_s: int) -> None:
        """Unproven checkpoints of this size are now shown to be on the log's way, or off it."""
        for each in self.evidence():
            if each.origin != checkpoint.origin or each.kind != UNPROVEN:
                continue
            other = Checkpoint.parse(parse_note(each.other).text)
            if other.size == checkpoint.size:
                if other.root != checkpoint.root:
                    self.keep_evidence(SPLIT_VIEW, other, note, each.other, time_s)
                self.database.run("DELETE FROM evidence WHERE number = ?", (each.number,))

    def keep_evidence(
        self, kind: str, checkpoint: Checkpoint, known: bytes, other: bytes, found_at_s: int
    ) -> None:
        """Keeps two notes that do not agree, once, within a `transaction`.

        Args:
            kind: ``SPLIT_VIEW`` or ``UNPROVEN``.
            checkpoint: What ``other`` states.
            known: The note that this witness had cosigned.
            other: The note that was handed in; its log's signatures were verified.
            found_at_s: POSIX time, in seconds.
        """
        origin = checkpoint.origin
        if kind == SPLIT_VIEW and self._count(origin, kind) >= MAX_EVIDENCE:
            return
        self.database.run(
            "INSERT INTO evidence (origin, kind, size, root, known, other, found_at_s)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (origin, kind, checkpoint.size, checkpoint.root, known, other, found_at_s),
        )
        if self._count(origin, UNPROVEN) > MAX_EVIDENCE:
            # Anybody can hand in a true checkpoint with a false proof: the oldest gives way.
            self.database.run(
                "DELETE FROM evidence WHERE number = (SELECT min(number) FROM evidence"
                " WHERE origin = ? AND kind = ?)",
                (origin, UNPROVEN),
            )

    def _count(self, origin: str, kind: str) -> int:
        sql = "SELECT count(*) FROM evidence WHERE origin = ? AND kind = ?"
        return int(self.database.rows((int,), sql, (origin, kind))[0][0])

    def evidence(self) -> list[Evidence]:
        """All that was kept, oldest first."""
        rows = self.database.rows(
            (int, str, str, bytes, bytes, int),
            "SELECT number, origin, kind, known, other, found_at_s FROM evidence ORDER BY number",
        )
        return [Evidence(*row) for row in rows]

    def notes(self) -> dict[str, bytes]:
        """By log, the newest checkpoint with this witness's own cosignature."""
        rows = self.database.rows((str, bytes), "SELECT origin, note FROM head ORDER BY origin")
        return dict(rows)


class CosignatureStore:
    """What others have cosigned of one's own log, in the witness file of one's home.

    Args:
        store: The open file.
        origin: One's own log.
    """

    def __init__(self, store: WitnessStore, origin: str) -> None:
        self._database = store.database
        self._origin = origin

    def keep(
        self,
        note: bytes,
        lines: Sequence[str],
        keys: Collection[NoteKey],
        *,
        renew: bool = True,
    ) -> tuple[str, ...]:
        """Stores those cosignatures of an own checkpoint that hold; again is no change.

        A later cosignature by the same key takes the place of its earlier one, if ``renew``.

        Args:
            note: The checkpoint, or any note with its text.
            lines: Signature lines, as witnesses answer them.
            keys: The witness keys of *other* parties (``COSIGNATURE_V1``).
            renew: Whether a later cosignature replaces an earlier one. Not for a size that a round
                was trained on: its evidence is that it was cosigned just before.

        Returns:
            The names of the witnesses whose line holds, sorted. Lines of unknown keys, malformed
            ones and false ones are passed over: they are worth as much as none.

        Raises:
            InputError: The note is no checkpoint of this log.
        """
        text, checkpoint = self._own(note)
        known: dict[str, list[NoteKey]] = {}
        for key in keys:
            if key.signature_type == COSIGNATURE_V1:
                known.setdefault(key.name, []).append(key)
        held = [
            verified
            for line in lines[:MAX_SIGNATURES]
            if (verified := _verified(text, line, known)) is not None
        ]
        with self._database.transaction():
            for each in held:
                self._database.run(
                    "INSERT INTO cosignature VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                    " ON CONFLICT DO UPDATE SET time_s = ?6, line = ?7 WHERE time_s < ?6 AND ?8",
                    (
                        *(self._origin, checkpoint.size, checkpoint.root),
                        *(each.name, each.key_id, cosignature_time_s(each), each.line),
                        int(renew),
                    ),
                )
        return tuple(sorted({each.name for each in held}))

    def note(self, size: int, base_note: bytes) -> bytes:
        """A checkpoint with all stored cosignatures under it.

        Args:
            size: The checkpoint's size.
            base_note: It, signed by the log; cosignatures in it give way to later stored ones.

        Raises:
            InputError: The note is no checkpoint of this log and size.
        """
        text, checkpoint = self._own(base_note)
        if checkpoint.size != size:
            raise InputError(f"The checkpoint has the size {checkpoint.size}, not {size}.")
        lines = {(each.name, each.key_id): each for each in parse_note(base_note).signatures}
        for line in self.lines(checkpoint):
            (signature,) = parse_note(f"{text}\n{line}".encode()).signatures
            lines[signature.name, signature.key_id] = signature
        return Note(text, tuple(lines.values())[:MAX_SIGNATURES]).encode().encode()

    def lines(self, checkpoint: Checkpoint) -> list[str]:
        """The stored signature lines of an own checkpoint, by witness."""
        rows = self._database.rows(
            (str,),
            "SELECT line FROM cosignature WHERE origin = ? AND size = ? AND root = ?"
            " ORDER BY name, key_id",
            (self._origin, checkpoint.size, checkpoint.root),
        )
        return [line for (line,) in rows]

    def sizes(self) -> list[int]:
        """The sizes of which any cosignature is stored, ascending."""
        rows = self._database.rows(
            (int,),
            "SELECT DISTINCT size FROM cosignature WHERE origin = ? ORDER BY size",
            (self._origin,),
        )
        return [size for (size,) in rows]

    def _own(self, note: bytes) -> tuple[str, Checkpoint]:
        text = parse_note(note).text
        checkpoint = Checkpoint.parse(text)
        if checkpoint.origin != self._origin:
            raise InputError(f"It is a checkpoint of {checkpoint.origin}, not of {self._origin}.")
        return text, checkpoint


def _verified(text: str, line: str, keys: Mapping[str, Sequence[NoteKey]]) -> NoteSignature | None:
    if not line.endswith("\n") or "\n" in line[:-1]:
        return None
    # A line names its key, so only keys of that name can verify it.
    _, _, rest = line.partition(" ")
    known = keys.get(rest.partition(" ")[0], ())
    try:
        (signature,) = open_note(f"{text}\n{line}".encode(), known).verified
    except (FormatError, VerificationError, UnicodeEncodeError):
        return None
    return signature
