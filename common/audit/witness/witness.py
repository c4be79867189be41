"""A witness: cosigns a log's checkpoint only if it continues what it cosigned before.

The rules, their order and the statuses are those of C2SP ``tlog-witness`` (``add-checkpoint``).
One rule is stricter: a checkpoint with extension lines is malformed here, as in every log of this
federation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    Note,
    NoteKey,
    add_cosignature,
    open_note,
    parse_note,
)
from common.audit.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from common.audit.witness.errors import (
    ConflictError,
    OldSizeError,
    ProofError,
    StaleSizeError,
    UnknownLogError,
    UnsignedError,
    WitnessRefusalError,
)
from common.audit.witness.store import SPLIT_VIEW, UNPROVEN, Evidence, Seen, WitnessStore
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import Signer

__all__ = [
    "MAX_PROOF_HASHES",
    "ConflictError",
    "OldSizeError",
    "ProofError",
    "StaleSizeError",
    "Submission",
    "UnknownLogError",
    "UnsignedError",
    "Witness",
    "WitnessRefusalError",
]

#: A log has fewer than 2^63 entries.
MAX_PROOF_HASHES = 63


def _now_s() -> int:
    return int(time.time())


@dataclass(frozen=True)
class Submission:
    """A checkpoint that a witness is to cosign.

    Attributes:
        note: The signed checkpoint.
        old_size: The size of the newest checkpoint that the witness cosigned, as the caller knows.
        proof: The consistency proof from there, hashes of 32 bytes.
    """

    note: bytes
    old_size: int
    proof: tuple[bytes, ...]


class Witness:
    """Cosigns checkpoints of known logs.

    Formal guarantees: whatever it is asked, in whatever order, by how many threads and processes
    with one store, all checkpoints of one log that it cosigned are heads of one growing tree; each
    was durable before its cosignature was given; times of cosignatures of one log never go back.

    Args:
        store: Its memory.
        name: Its party's name; the key name of its cosignatures.
        signer: Its key.
        log_keys: By the origin of each log that it watches, the keys the log may sign with now;
            asked anew at each request (see `common.audit.witness.registry_logs`).
        clock_s: Gives the POSIX time in whole seconds.
    """

    def __init__(
        self,
        store: WitnessStore,
        *,
        name: str,
        signer: Signer,
        log_keys: Mapping[str, Sequence[NoteKey]],
        clock_s: Callable[[], int] = _now_s,
    ) -> None:
        self.key = NoteKey(name, signer.public_key, COSIGNATURE_V1)
        self._store = store
        self._signer = signer
        self._log_keys = log_keys
        self._clock_s = clock_s

    def cosign(self, note: bytes, old_size: int, proof: Sequence[bytes]) -> str:
        """Cosigns a checkpoint, if it continues the newest one cosigned of its log.

        Args:
            note: The signed checkpoint.
            old_size: The size of the newest checkpoint that this witness cosigned, as the caller
                knows it; 0 if none.
            proof: The consistency proof from it to this one (RFC 6962, 2.1.2), hashes of 32 bytes.

        Returns:
            The cosignature line, with its newline; it is stored durably.

        Raises:
            FormatError: The note or the proof is malformed (400).
            OldSizeError: The old size is larger than the checkpoint (400).
            UnsignedError: No key that the log may use now signed it (403).
            UnknownLogError: It is of a log that this witness does not watch (404).
            StaleSizeError: The old size is not the one this witness knows (409).
            ConflictError: It does not continue what was cosigned; both notes are kept (422).
            ProofError: The proof is not one of this checkpoint (422).
            StorageError: The store cannot be written; nothing is cosigned.
        """
        (answer,) = self.cosign_all([Submission(note, old_size, tuple(proof))])
        if isinstance(answer, FedprefError):
            raise answer
        return answer

    def cosign_all(self, submissions: Sequence[Submission]) -> list[str | FedprefError]:
        """Judges checkpoints one after the other, and makes all heads durable at once.

        Args:
            submissions: The checkpoints, of any logs.

        Returns:
            For each its cosignature line, or the error that `cosign` would raise for it alone.

        Raises:
            StorageError: The store cannot be written; nothing is cosigned.
        """
        opened = [self._opened(each) for each in submissions]
        if all(isinstance(each, FedprefError) for each in opened):
            return [each for each in opened if isinstance(each, FedprefError)]
        with self._store.transaction():
            # Only once this is left are the new heads, and the evidence, on the disk.
            return [
                each
                if isinstance(each, FedprefError)
                else self._judge(*each, asked.old_size, asked.proof)
                for each, asked in zip(opened, submissions, strict=True)
            ]

    def evidence(self) -> list[Evidence]:
        """What contradicts what was cosigned, or was not shown to continue it; oldest first."""
        return self._store.evidence()

    def notes(self) -> dict[str, bytes]:
        """By log, the newest checkpoint with this witness's own cosignature."""
        return self._store.notes()

    def heads(self) -> dict[str, Seen]:
        """By log, the newest checkpoint that was cosigned."""
        found = ((origin, self._store.seen(origin)) for origin in self._store.origins())
        return {origin: seen for origin, seen in found if seen is not None}

    def _opened(self, asked: Submission) -> tuple[Note, Checkpoint] | FedprefError:
        """What needs no memory to judge; a refusal is given, as it is one's own alone."""
        try:
            if len(asked.proof) > MAX_PROOF_HASHES or any(
                len(each) != HASH_BYTES for each in asked.proof
            ):
                raise FormatError(
                    f"A proof has up to {MAX_PROOF_HASHES} hashes of {HASH_BYTES} bytes."
                )
            signed, checkpoint = self._open(asked.note)
            if not 0 <= asked.old_size <= checkpoint.size:
                raise OldSizeError(
                    f"The old size {asked.old_size} is not one before the checkpoint of "
                    f"{checkpoint.origin} of size {checkpoint.size}."
                )
        except FedprefError as error:
            return error
        return signed, checkpoint

    def _open(self, note: bytes) -> tuple[Note, Checkpoint]:
        """The checkpoint, and its note with the log's verified signatures alone."""
        origin = parse_note(note).text.partition("\n")[0]
        keys = self._log_keys.get(origin)
        if keys is None:
            raise UnknownLogError(f"This witness does not watch the log {origin[:200]!r}.")
        try:
            opened = open_note(note, keys)
        except VerificationError as error:
            raise UnsignedError(
                f"The checkpoint of {origin} is not signed by a key that the log may use now:"
                f" {error.message}",
                remedy="Enrol the log's key, and give the witness the newest key registry.",
            ) from error
        return Note(opened.text, opened.verified), _parse_checkpoint(opened.text)

    def _judge(
        self, signed: Note, checkpoint: Checkpoint, old_size: int, proof: Sequence[bytes]
    ) -> str | WitnessRefusalError:
        """Checks and stores, within a transaction; a refusal is given, as evidence must commit."""
        origin, seen = checkpoint.origin, self._store.seen(checkpoint.origin)
        known_size = 0 if seen is None else seen.size
        # Also where the answer is 409: the two notes convict the log, whatever the old size.
        split_view = self._contradicts(signed, checkpoint)
        if old_size != known_size:
            return StaleSizeError(
                f"The newest checkpoint cosigned of {origin} has the size {known_size},"
                f" not {old_size}.",
                known_size=known_size,
                split_view=split_view,
            )
        if split_view:
            return ConflictError(
                f"The log {origin} signed two roots for the size {checkpoint.size}."
            )
        refusal = self._unproven(seen, signed, checkpoint, proof)
        return refusal or self._advance(seen, signed, checkpoint)

    def _contradicts(self, signed: Note, checkpoint: Checkpoint) -> bool:
        """Whether another root was cosigned for this size; then both notes are kept."""
        cosigned = self._store.cosigned_at(checkpoint.origin, checkpoint.size)
        if cosigned is None or cosigned[0] == checkpoint.root:
            return False
        self._store.keep_evidence(
            SPLIT_VIEW, checkpoint, cosigned[1], signed.encode().encode(), self._clock_s()
        )
        return True

    def _unproven(
        self, seen: Seen | None, signed: Note, checkpoint: Checkpoint, proof: Sequence[bytes]
    ) -> WitnessRefusalError | None:
        """Why this checkpoint is not shown to continue the newest cosigned one, or None."""
        origin, size = checkpoint.origin, checkpoint.size
        if size == 0 and checkpoint.root != EMPTY_ROOT:
            return ProofError(f"The checkpoint of {origin} has no entries and not the empty root.")
        if seen is None or seen.size == 0:
            # Every tree continues the empty one.
            return ProofError("From size 0 there is no proof.") if proof else None
        try:
            verify_consistency(seen.size, size, proof, seen.root, checkpoint.root)
        except VerificationError as error:
            if size == seen.size:
                return ProofError(f"The proof from {origin} to itself is not empty.")
            self._store.keep_evidence(
                UNPROVEN, checkpoint, seen.note, signed.encode().encode(), self._clock_s()
            )
            return ConflictError(
                f"The checkpoint of {origin} of size {size} is not shown to continue the one of"
                f" size {seen.size}: {error.message}"
            )
        return None

    def _advance(self, seen: Seen | None, signed: Note, checkpoint: Checkpoint) -> str:
        # A cosignature says what was newest at its time: that must not go back with the clock.
        time_s = max(self._clock_s(), 1, 0 if seen is None else seen.time_s)
        cosigned = add_cosignature(
            signed.encode().encode(), self.key.name, self._signer, time_s=time_s
        ).encode()
        self._store.advance(checkpoint, cosigned, time_s)
        return parse_note(cosigned).signatures[-1].line


def _parse_checkpoint(text: str) -> Checkpoint:
    """Reads a checkpoint; one of size 0 with any root, as that is judged after the old size."""
    origin, _, rest = text.partition("\n")
    if rest.startswith("0\n"):
        return replace(Checkpoint.parse(f"{origin}\n1{rest[1:]}"), size=0)
    return Checkpoint.parse(text)
