"""Proof files of C2SP ``tlog-proof``: that an entry is in a log, checkable offline by itself.

A proof file holds the entry's index, its inclusion proof (RFC 6962, 2.1.1) and the checkpoint note
it leads to, with the witnesses' cosignatures. The entry itself is not in it: who verifies has it,
or its leaf hash. Source: c2sp.org/tlog-proof, version 1.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    MAX_NOTE_BYTES,
    Checkpoint,
    NoteKey,
    cosignature_time_s,
    open_note,
    parse_note,
)
from common.audit.merkle import HASH_BYTES, verify_inclusion
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError, VerificationError

PROOF_SUFFIX = ".tlog-proof"

#: A tree of fewer than 2^63 leaves has no longer audit path.
MAX_HASHES = 63
MAX_EXTRA_BYTES = 16 * 1024
_HEADER = "c2sp.org/tlog-proof@v1"
_EXTRA, _INDEX = "extra ", "index "
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
# The head's lines: header, extra, index and hashes, each in base64, with their newlines.
_MAX_HEAD_BYTES = 2 * MAX_EXTRA_BYTES + 48 * MAX_HASHES + 128
MAX_PROOF_BYTES = _MAX_HEAD_BYTES + MAX_NOTE_BYTES


@dataclass(frozen=True)
class LogProof:
    """A proof file's content; ``encode`` and ``parse`` are each other's inverse.

    Attributes:
        index: The entry's index in the log, from 0.
        hashes: The audit path from the leaf's sibling upwards, 32 bytes each.
        checkpoint: The signed note, as the log and its witnesses signed it.
        extra: What the application adds; nothing authenticates it. None, or not empty.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if type(self.index) is not int or not 0 <= self.index < 1 << 63:
            raise FormatError(f"{self.index!r} is not the index of a log entry.")
        if len(self.hashes) > MAX_HASHES:
            raise FormatError(f"An inclusion proof has at most {MAX_HASHES} hashes.")
        if any(len(each) != HASH_BYTES for each in self.hashes):
            raise FormatError(f"A hash of an inclusion proof is not {HASH_BYTES} bytes.")
        if self.extra is not None and not 0 < len(self.extra) <= MAX_EXTRA_BYTES:
            raise FormatError(f"A proof's extra data have 1 to {MAX_EXTRA_BYTES} bytes.")
        Checkpoint.parse(parse_note(self.checkpoint).text)

    def encode(self) -> bytes:
        """The proof file's only bytes."""
        extra = [] if self.extra is None else [_EXTRA + _base64(self.extra)]
        lines = [_HEADER, *extra, f"{_INDEX}{self.index}", *map(_base64, self.hashes), "\n"]
        return "\n".join(lines).encode("ascii") + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> LogProof:
        """Reads a proof file. Whether it proves anything is for `verify_log_proof` to say.

        Raises:
            FormatError: If it is not of the exact form, or too long.
        """
        if len(data) > MAX_PROOF_BYTES:
            raise FormatError(f"A proof file of {len(data)} bytes is too long.")
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise FormatError("The proof file's head is not ASCII.") from error
        if not blank or lines.pop(0) != _HEADER:
            raise FormatError(f"It is no proof file: its first line is not {_HEADER}.")
        extra: bytes | None = None
        if lines and lines[0].startswith(_EXTRA):
            extra = read_base64(
                lines.pop(0).removeprefix(_EXTRA), "the extra data", max_bytes=MAX_EXTRA_BYTES
            )
        number = lines.pop(0).removeprefix(_INDEX) if lines and lines[0].startswith(_INDEX) else ""
        if _NUMBER.fullmatch(number) is None:
            raise FormatError("The proof file does not state the entry's index.")
        what = "a hash of the inclusion proof"
        hashes = tuple(read_base64(line, what, max_bytes=HASH_BYTES) for line in lines)
        return cls(int(number), hashes, checkpoint, extra)


@dataclass(frozen=True)
class ProvenInclusion:
    """What a verified proof shows.

    Attributes:
        index: The entry's index in the log.
        checkpoint: The log's head that the proof leads to.
        cosigned_at_s: By witness name, the POSIX time of its first verified cosignature.
    """

    index: int
    checkpoint: Checkpoint
    cosigned_at_s: Mapping[str, int]


def verify_log_proof(
    proof: LogProof,
    leaf: bytes,
    *,
    log_keys: Sequence[NoteKey],
    witness_keys: Sequence[NoteKey] = (),
    quorum: int = 0,
) -> ProvenInclusion:
    """Verifies that an entry is in the log, and that enough witnesses saw this log.

    Args:
        proof: The proof.
        leaf: The entry's leaf hash.
        log_keys: The keys the log may have signed with; all bear its origin as their name.
        witness_keys: Keys of the witnesses that count; several of one name count once.
        quorum: How many distinct witnesses must have cosigned.

    Raises:
        InputError: If the log keys are not of one log.
        FormatError: If the checkpoint note is malformed.
        VerificationError: If the log did not sign the checkpoint, a known key's signature does not
            hold, too few witnesses cosigned, or the inclusion proof is not exactly that of this
            leaf at this index in a tree of this size.
    """
    opened = open_log_note(proof.checkpoint, log_keys=log_keys, witness_keys=witness_keys)
    checkpoint = opened.checkpoint
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    cosigned: dict[str, int] = {}
    for key, time_s in opened.cosigned_at_s.items():
        cosigned[key.name] = min(time_s, cosigned.get(key.name, time_s))
    if len(cosigned) < quorum:
        raise VerificationError(
            f"The checkpoint of size {checkpoint.size} of {checkpoint.origin} has valid "
            f"cosignatures of {len(cosigned)} witnesses; {quorum} are needed.",
            remedy="It shows what the log's owner signed, not that anyone else saw the same log.",
        )
    return ProvenInclusion(proof.index, checkpoint, cosigned)


@dataclass(frozen=True)
class LogNote:
    """A checkpoint note that its log signed.

    Attributes:
        checkpoint: What it states.
        log_keys: The keys of the log that signed it, at least one.
        cosigned_at_s: By witness key, the POSIX time of its verified cosignature.
    """

    checkpoint: Checkpoint
    log_keys: tuple[NoteKey, ...]
    cosigned_at_s: Mapping[NoteKey, int]


def open_log_note(
    note: bytes, *, log_keys: Collection[NoteKey], witness_keys: Collection[NoteKey] = ()
) -> LogNote:
    """Verifies a checkpoint note that any of a log's keys signed.

    Raises:
        InputError: If the log keys are none, or not of one log.
        FormatError: If the note is malformed.
        VerificationError: If the log did not sign it, it is another log's, or a known key's
            signature does not hold.
    """
    origins = {key.name for key in log_keys}
    if len(origins) != 1:
        raise InputError("A log's keys bear one origin, its own.")
    (origin,) = origins
    opened = open_note(note, [*log_keys, *witness_keys])
    signed = {(each.name, each.key_id): each for each in opened.verified}
    own = tuple(key for key in log_keys if (key.name, key.id) in signed)
    if not own:
        raise VerificationError(f"The log {origin} did not sign its checkpoint.")
    checkpoint = Checkpoint.parse(opened.text)
    if checkpoint.origin != origin:
        raise VerificationError(f"The checkpoint is of the log {checkpoint.origin}, not {origin}.")
    cosigned = {
        key: cosignature_time_s(signed[key.name, key.id])
        for key in witness_keys
        if key.signature_type == COSIGNATURE_V1 and (key.name, key.id) in signed
    }
    return LogNote(checkpoint, own, cosigned)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read_base64(value: JsonValue, what: str, *, max_bytes: int) -> bytes:
    """Reads base64 strictly: only the one canonical text of at most so many bytes.

    Raises:
        FormatError: It is anything else; names ``what``.
    """
    if type(value) is not str or len(value) > 4 * (max_bytes // 3 + 1):
        raise FormatError(f"The base64 of {what} is too long, or not a text.")
    try:
        data = base64.b64decode(value.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise FormatError(f"The base64 of {what} is malformed.") from error
    if _base64(data) != value:
        raise FormatError(f"The base64 of {what} is not in its one canonical form.")
    return data
