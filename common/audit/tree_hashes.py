"""All complete subtrees of a log's tree, held in memory for many proofs at once."""

from __future__ import annotations

from common.audit.merkle import HASH_BYTES, node_hash


class TreeHashes:
    """The hashes of a growing tree's complete subtrees, about 64 bytes an entry."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Adds the next leaf's hash."""
        carry, level = leaf, 0
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            hashes = self._levels[level]
            hashes += carry
            if len(hashes) // HASH_BYTES % 2:
                return
            carry = node_hash(bytes(hashes[-2 * HASH_BYTES : -HASH_BYTES]), carry)
            level += 1

    def read(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree, as `common.audit.merkle.prove_inclusion` asks for it."""
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])
