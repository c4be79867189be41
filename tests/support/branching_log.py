"""A log that may show two histories: its true one, and one that leaves it at some entry."""

from __future__ import annotations

from functools import cache

from common.audit.checkpoint import Checkpoint, NoteKey, sign_note
from common.audit.merkle import consistency_proof, leaf_hash, root_hash
from tests.support.memory_signer import MemorySigner


class BranchingLog:
    """Checkpoints and proofs of a log of up to 40 entries.

    Args:
        origin: The log's origin.
        fork_at: The first entry that differs in the branch "forked".
    """

    def __init__(self, origin: str = "small.example/region-1", *, fork_at: int = 4) -> None:
        self.origin = origin
        self.signer = MemorySigner(f"log of {origin}")
        self.key = NoteKey(origin, self.signer.public_key)
        true = [leaf_hash(b"entry %d" % index) for index in range(40)]
        other = [leaf_hash(b"other %d" % index) for index in range(40)]
        self.leaves = {"true": true, "forked": true[:fork_at] + other[fork_at:]}
        self.root = cache(self._root)
        self.note = cache(self._note)

    def _root(self, size: int, branch: str = "true") -> bytes:
        return root_hash(self.leaves[branch][:size])

    def checkpoint(self, size: int, branch: str = "true") -> Checkpoint:
        return Checkpoint(self.origin, size, self.root(size, branch))

    def _note(self, size: int, branch: str = "true", signer: MemorySigner | None = None) -> bytes:
        body = self.checkpoint(size, branch).body()
        return sign_note(body, self.origin, signer or self.signer).encode()

    def proof(self, old: int, size: int, branch: str = "true") -> list[bytes]:
        return consistency_proof(self.leaves[branch], old, size) if 0 < old <= size else []
