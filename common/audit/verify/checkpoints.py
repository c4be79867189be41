"""Step 2, its signed half: every checkpoint of a log, opened with the log's registered keys."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.audit.checkpoint import COSIGNATURE_V1, Checkpoint, Note, NoteKey, open_note
from common.audit.verify.files import BundleFolder
from common.audit.verify.registry import KeyRing, RegisteredKey
from common.audit.verify.tiles import log_folder
from common.audit.verify.verdict import LOGS, Findings
from common.errors import FedprefError, VerificationError

NEWEST = "checkpoint"
EARLIER = "checkpoints"

_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint that one of the log's registered keys signed.

    Attributes:
        file: Its file in the bundle.
        checkpoint: What it states.
        keys: The log's keys that signed it.
    """

    file: str
    checkpoint: Checkpoint
    keys: tuple[RegisteredKey, ...]

    def signed_in_time(self, written_ms: int | None, created_ms: int) -> bool:
        """Whether a signing key was valid between the newest entry and the bundle's writing."""
        return any(
            key.not_before_ms <= created_ms
            and (written_ms is None or written_ms <= key.not_after_ms)
            and (key.revoked_at_ms is None or (written_ms or 0) < key.revoked_at_ms)
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
        self._witnesses = [
            NoteKey(key.party, key.public_key, COSIGNATURE_V1) for key in ring.keys_of("witness")
        ]

    def newest(self) -> SignedCheckpoint | None:
        """The newest checkpoint; a fault is recorded and gives None."""
        return self._read(NEWEST)

    def all(self, newest: SignedCheckpoint) -> dict[int, list[SignedCheckpoint]]:
        """All checkpoints by size, the newest among them; faults are recorded."""
        final = newest.checkpoint.size
        found = {final: [newest]}
        for name in self._folder.list_folder(f"{log_folder(self._party)}/{EARLIER}"):
            signed = self._read(f"{EARLIER}/{name}")
            if signed is None:
                continue
            size = signed.checkpoint.size
            if _SIZE.fullmatch(name) is None or size != int(name):
                self._fail("checkpoint-name", "is not of the size it is named by", signed.file)
            elif size > final:
                self._fail(
                    "log-truncated",
                    f"shows that the log once had {size} entries, where it now has {final}",
                    signed.file,
                )
            else:
                found.setdefault(size, []).append(signed)
        return found

    def _read(self, name: str) -> SignedCheckpoint | None:
        file = f"{log_folder(self._party)}/{name}"
        try:
            known = [key for key, _ in self._keys.values()]
            note = open_note(self._folder.read(file), [*known, *self._witnesses])
            checkpoint = Checkpoint.parse(note.text)
            if checkpoint.origin != self._origin:
                raise VerificationError(f"It is of the log {checkpoint.origin}.")
            keys = self._own_keys(note)
        except FedprefError as error:
            self._fail("checkpoint", f"does not hold: {error.message.rstrip('.')}", file)
            return None
        self._findings.count(LOGS, "checkpoints")
        self._findings.count(LOGS, "cosignatures", len(note.verified) - len(keys))
        unknown = len(note.signatures) - len(note.verified)
        if unknown:
            self._findings.note(f"{file} has {unknown} signatures by keys not in the registry.")
        return SignedCheckpoint(file, checkpoint, keys)

    def _own_keys(self, note: Note) -> tuple[RegisteredKey, ...]:
        names = [(line.name, line.key_id) for line in note.verified]
        keys = tuple(self._keys[name][1] for name in names if name in self._keys)
        if not keys:
            raise VerificationError("The log itself did not sign it.")
        return keys

    def _fail(self, code: str, what: str, file: str) -> None:
        self._findings.fail(LOGS, code, f"{file} {what}.", party=self._party, file=file)
