"""The body of ``add-checkpoint`` (C2SP ``tlog-witness``): old size, proof and checkpoint."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.audit.merkle import HASH_BYTES
from common.audit.witness.witness import MAX_PROOF_HASHES
from common.errors import FormatError

#: A checkpoint with all signatures that a note may have needs about 12 KiB.
MAX_REQUEST_BYTES = 32 * 1024
#: The content type of an answer (409) that is the size the witness knows.
SIZE_TYPE = "text/x.tlog.size"

_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class AddCheckpoint:
    """A request to cosign a checkpoint.

    Attributes:
        note: The signed checkpoint.
        old_size: The size from which the proof leads to it.
        proof: Its hashes, of 32 bytes each.
    """

    note: bytes
    old_size: int
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The request's body."""
        lines = [f"old {self.old_size}", *(base64.b64encode(each).decode() for each in self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Reads a body; the note in it is not looked at.

        Raises:
            FormatError: It is not of the exact form.
        """
        head, separator, note = body.partition(b"\n\n")
        old, *proof = head.split(b"\n")
        match = _OLD.fullmatch(old)
        if not separator or match is None or int(match[1]) >= 1 << 63:
            raise FormatError("The request begins with no line of the form: old SIZE.")
        if len(proof) > MAX_PROOF_HASHES:
            raise FormatError(f"The proof has more than {MAX_PROOF_HASHES} lines.")
        return cls(note=note, old_size=int(match[1]), proof=_hashes(proof))


def _hashes(lines: Sequence[bytes]) -> tuple[bytes, ...]:
    hashes = []
    for number, line in enumerate(lines, start=1):
        try:
            raw = base64.b64decode(line, validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != HASH_BYTES or base64.b64encode(raw) != line:
            raise FormatError(f"Line {number} of the proof is not the base64 of a hash.")
        hashes.append(raw)
    return tuple(hashes)
