"""Step 2, its signed half: every checkpoint of a log, opened with the log's registered keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    Note,
    NoteKey,
    cosignature_time_s,
    open_note,
)
from common.audit.verify.cosigned import SettledEntries
from common.audit.verify.files import BundleFolder
from common.audit.verify.key_ring import KeyRing, RegisteredKey
from common.audit.verify.tiles import WITNESSES, conflict_files, log_folder
from common.audit.verify.verdict import LOGS, Findings
from common.errors import FedprefError, VerificationError

NEWEST = "checkpoint"
EARLIER = "checkpoints"
# A cosignature states whole seconds; it was made at the latest this much after the stated one.
COSIGNATURE_GRAIN_MS = 999

_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint that one of the log's registered keys signed.

    Attributes:
        file: Its file in the bundle.
        checkpoint: What it states.
        keys: The log's keys that signed it.
        cosignatures: Other parties' cosignatures that count, as (party, time in milliseconds since
            the epoch): by a witness key that was valid then.
        witness: Who keeps this note as the newest it has seen of the log; None if it is the log's
            own showing.
    """

    file: str
    checkpoint: Checkpoint
    keys: tuple[RegisteredKey, ...]
    cosignatures: tuple[tuple[str, int], ...]
    witness: str | None = None

    def signed_in_time(
        self, written_ms: int | None, created_ms: int, settled: SettledEntries
    ) -> bool:
        """Whether a signing key was valid between the newest entry and the bundle's writing."""
        return any(
            key.not_before_ms <= created_ms
            and (written_ms is None or written_ms < key.not_after_ms)
            and (
                key.revoked_at_ms is None
                or (
                    (written_ms or 0) < key.revoked_at_ms
                    and settled.covers(self.checkpoint.size - 1, key.revoked_at_ms)
                )
            )
            for key in self.keys
        )


class CheckpointReader:
    """Reads and verifies the checkpoints of one party's log."""

    def __init__(
        self, folder: BundleFolder, party: str, origin: str, ring: KeyRing, findings: Findings
    ) -> None:
        self._folder = folder
        self._party = party
        self._origin = origin
        self._findings = findings
        self._keys = {
            (key.name, key.id): (key, registered)
            for registered in ring.keys_of("log", party)
            for key in [NoteKey(origin, registered.public_key)]
        }
        self._witnesses = {
            (key.name, key.id): (key, registered)
            for registered in ring.keys_of("witness")
            for key in [NoteKey(registered.party, registered.public_key, COSIGNATURE_V1)]
        }

    def newest(self) -> SignedCheckpoint | None:
        """The newest checkpoint; a fault is recorded and gives None."""
        return self._read(f"{log_folder(self._party)}/{NEWEST}")

    def all(self, newest: SignedCheckpoint) -> dict[int, list[SignedCheckpoint]]:
        """All checkpoints by size, the newest among them; faults are recorded."""
        final = newest.checkpoint.size
        found = {final: [newest]}
        for name in self._folder.list_folder(f"{log_folder(self._party)}/{EARLIER}"):
            signed = self._read(f"{log_folder(self._party)}/{EARLIER}/{name}")
            if signed is None:
                continue
            size = signed.checkpoint.size
            if _SIZE.fullmatch(name) is None or size != int(name):
                self._fail("checkpoint-name", "is not of the size it is named by", signed.file)
            elif self._within(signed, final):
                found.setdefault(size, []).append(signed)
        for signed in self._witnesses_notes():
            if self._within(signed, final):
                found.setdefault(signed.checkpoint.size, []).append(signed)
        return found

    def _within(self, signed: SignedCheckpoint, final: int) -> bool:
        size = signed.checkpoint.size
        if size > final:
            self._fail(
                "log-truncated",
                f"shows that the log once had {size} entries, where it now has {final}",
                signed.file,
            )
        return size <= final

    def _witnesses_notes(self) -> Iterator[SignedCheckpoint]:
        """What witnesses keep of this log: their newest notes, and both notes of each conflict."""
        for witness in self._folder.list_folder(WITNESSES):
            newest = f"{WITNESSES}/{witness}/{self._party}"
            if self._folder.has(newest):
                signed = self._read(newest, witness)
                if signed is not None and self._cosigned_by(signed, witness):
                    yield signed
            for first, second in conflict_files(self._folder, witness, self._party):
                yield from self._conflict(witness, first, second)

    def _cosigned_by(self, signed: SignedCheckpoint, witness: str) -> bool:
        if witness in {party for party, _ in signed.cosignatures}:
            return True
        self._fail("witness-note", f"has no cosignature of {witness} that counts", signed.file)
        return False

    def _conflict(self, witness: str, first: str, second: str) -> Iterator[SignedCheckpoint]:
        """Both notes of a conflict; two of one size are proof whatever the log shows now."""
        notes = [self._read(file, witness) for file in (first, second)]
        held = [signed for signed in notes if signed is not None]
        if len(held) == 2:
            one, other = (signed.checkpoint for signed in held)
            if one.size == other.size and one.root != other.root:
                self._fail(
                    "split-view",
                    f"and {second} are both signed by the log {self._origin}, and tell two "
                    f"histories of {one.size} entries: {witness} was shown both",
                    first,
                )
                return
        self._findings.note(
            f"{witness} was shown {first} and {second} and could not reconcile them; both are "
            "compared with this log as its checkpoints are."
        )
        yield from held

    def _read(self, file: str, witness: str | None = None) -> SignedCheckpoint | None:
        try:
            known = [key for key, _ in (*self._keys.values(), *self._witnesses.values())]
            note = open_note(self._folder.read(file), known)
            checkpoint = Checkpoint.parse(note.text)
            if checkpoint.origin != self._origin:
                raise VerificationError(f"It is of the log {checkpoint.origin}.")
            keys = self._own_keys(note)
            cosignatures = tuple(self._cosignatures(note))
        except FedprefError as error:
            code = "checkpoint" if witness is None else "witness-note"
            self._fail(code, f"does not hold: {error.message.rstrip('.')}", file)
            return None
        if witness is not None and not any(_vouched(key, cosignatures) for key in keys):
            self._findings.note(
                f"{file} was signed with a revoked key, and no other party had seen it before "
                "that: it shows nothing."
            )
            return None
        self._findings.count(LOGS, "checkpoints" if witness is None else "witnesses' notes")
        self._findings.count(LOGS, "cosignatures", len(note.verified) - len(keys))
        unknown = len(note.signatures) - len(note.verified)
        if unknown:
            self._findings.note(f"{file} has {unknown} signatures by keys not in the registry.")
        return SignedCheckpoint(file, checkpoint, keys, cosignatures, witness)

    def _cosignatures(self, note: Note) -> Iterator[tuple[str, int]]:
        for line in note.verified:
            _, witness = self._witnesses.get((line.name, line.key_id), (None, None))
            if witness is None or witness.party == self._party:
                continue
            # It was made within the second that it states.
            time_ms = cosignature_time_s(line) * 1000 + COSIGNATURE_GRAIN_MS
            if witness.valid_at(time_ms):
                yield witness.party, time_ms

    def _own_keys(self, note: Note) -> tuple[RegisteredKey, ...]:
        names = [(line.name, line.key_id) for line in note.verified]
        keys = tuple(self._keys[name][1] for name in names if name in self._keys)
        if not keys:
            raise VerificationError("The log itself did not sign it.")
        return keys

    def _fail(self, code: str, what: str, file: str) -> None:
        self._findings.fail(LOGS, code, f"{file} {what}.", party=self._party, file=file)


def _vouched(key: RegisteredKey, cosignatures: tuple[tuple[str, int], ...]) -> bool:
    """Whether a note that accuses a log was signed before its key was taken back."""
    revoked_ms = key.revoked_at_ms
    return revoked_ms is None or any(time_ms < revoked_ms for _, time_ms in cosignatures)
