"""A path-compressed sparse Merkle tree: one root for a set of 32-byte positions.

The tree is a binary trie over the 256 bits of each position in which only nodes with two children
exist, so its shape, and with it the root, depends on the set alone. With ⊤ for a tag, it hashes

- the empty set to SHA-256(⊤empty);
- a position to SHA-256(⊤leaf ‖ position);
- a branch to SHA-256(⊤node ‖ depth ‖ prefix ‖ left ‖ right), where ``depth`` (one byte) is the bit
  at which its positions part and ``prefix`` (32 bytes) their common bits, the rest zero.

As each branch commits to its depth and prefix, a part of a proof holds at its own place only. For
any root, honestly made or not, no position can be proved both present and absent: both proofs would
descend by the same bits through the same branches and end in two leaves with the same hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.canonical_json import JsonValue
from common.errors import FormatError, VerificationError

POSITION_BYTES = 32
_BITS = 8 * POSITION_BYTES

_POSITION_TAG = b"fedpref-position/1"
_EMPTY_TAG = b"fedpref-sparse-empty/1"
_LEAF_TAG = b"fedpref-sparse-leaf/1"
_NODE_TAG = b"fedpref-sparse-node/1"

EMPTY_ROOT = hashlib.sha256(_EMPTY_TAG).digest()

_sha256 = hashlib.sha256
# _PREFIX_MASKS[d] keeps the first d bits of a position.
_PREFIX_MASKS = [((1 << depth) - 1) << (_BITS - depth) for depth in range(_BITS)]
_DEPTH_BYTES = [_NODE_TAG + bytes([depth]) for depth in range(_BITS)]


def position(nonce: bytes, sid: bytes) -> bytes:
    """Where a subject stands in a round's tree: SHA-256("fedpref-position/1" ‖ nonce ‖ sid).

    Args:
        nonce: The round's nonce, 32 bytes.
        sid: The subject's pseudonym, 32 bytes (decoded from hex).

    Raises:
        FormatError: If either is not 32 bytes: with fixed lengths no two pairs run together.
    """
    if len(nonce) != 32 or len(sid) != 32:
        raise FormatError("A nonce and a subject id have 32 bytes each.")
    return _sha256(_POSITION_TAG + nonce + sid).digest()


@dataclass(frozen=True)
class SparseProof:
    """The way from a leaf to the root.

    Attributes:
        leaf: The position the way ends at; None in the empty tree.
        steps: ``(depth, sibling hash)`` of each branch, from the root downwards.
    """

    leaf: bytes | None
    steps: tuple[tuple[int, bytes], ...]

    def to_record(self) -> dict[str, JsonValue]:
        """The proof as a JSON object."""
        return {
            "leaf": None if self.leaf is None else self.leaf.hex(),
            "steps": [[depth, sibling.hex()] for depth, sibling in self.steps],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, JsonValue]) -> SparseProof:
        """Reads a proof back.

        Raises:
            FormatError: If the object is not exactly of the form ``to_record`` gives.
        """
        if record.keys() != {"leaf", "steps"} or not isinstance(record["steps"], list):
            raise FormatError("A sparse Merkle proof has a leaf and a list of steps.")
        steps: list[tuple[int, bytes]] = []
        for step in record["steps"]:
            if not isinstance(step, list) or len(step) != 2 or type(step[0]) is not int:
                raise FormatError("A step of a sparse Merkle proof is a depth and a hash.")
            steps.append((step[0], _unhex(step[1])))
        leaf = record["leaf"]
        return cls(leaf=None if leaf is None else _unhex(leaf), steps=tuple(steps))


def sparse_root(positions: Iterable[bytes]) -> bytes:
    """The root over a set of positions, without keeping what proofs need.

    The same as ``SparseMerkleTree(positions).root``, in a fifth of its memory.

    Raises:
        FormatError: If a position is not 32 bytes or comes twice.
    """
    ordered = sorted(positions)
    if not ordered:
        return EMPTY_ROOT
    # As in `SparseMerkleTree._build`: the branches still open, each with the hash to its left.
    open_branches: list[tuple[int, bytes]] = []
    before, current = -1, b""
    for each in ordered:
        if len(each) != POSITION_BYTES:
            raise FormatError(f"A position has {POSITION_BYTES} bytes.")
        number = int.from_bytes(each, "big")
        if before >= 0:
            depth = _BITS - (before ^ number).bit_length()
            if depth == _BITS:
                raise FormatError("A position comes twice.")
            while open_branches and open_branches[-1][0] > depth:
                parted, left = open_branches.pop()
                current = _node(parted, before, left, current)
            open_branches.append((depth, current))
        before, current = number, _leaf(each)
    while open_branches:
        parted, left = open_branches.pop()
        current = _node(parted, before, left, current)
    return current


class SparseMerkleTree:
    """The tree over a set of positions.

    Args:
        positions: Distinct positions of 32 bytes each, in any order.

    Raises:
        FormatError: If a position is not 32 bytes or comes twice.
    """

    def __init__(self, positions: Iterable[bytes]) -> None:
        ordered = sorted(positions)
        if any(len(each) != POSITION_BYTES for each in ordered):
            raise FormatError(f"A position has {POSITION_BYTES} bytes.")
        self._positions = ordered
        self._leaves = [_leaf(each) for each in ordered]
        # depth, left hash, right hash, left child, right child of branch i, the one that parts
        # positions i and i + 1; a child is a branch's number, or ~n for the leaf n.
        self._branches: list[tuple[int, bytes, bytes, int, int]] = [(0, b"", b"", 0, 0)] * max(
            len(ordered) - 1, 0
        )
        self._top = ~0
        self.root = self._build() if ordered else EMPTY_ROOT

    def __len__(self) -> int:
        return len(self._positions)

    def _build(self) -> bytes:
        """Joins the sorted positions in one pass; the branches still open are on a stack.

        Two neighbours part at the first bit in which they differ. Depths grow along the stack, so
        that a shallower one closes all the deeper branches to its left.
        """
        numbers = [int.from_bytes(each, "big") for each in self._positions]
        open_branches: list[tuple[int, int, bytes, int]] = []
        before, current, child = numbers[0], self._leaves[0], ~0
        for index in range(1, len(numbers)):
            number = numbers[index]
            depth = _BITS - (before ^ number).bit_length()
            if depth == _BITS:
                raise FormatError("A position comes twice.")
            while open_branches and open_branches[-1][0] > depth:
                current, child = self._close(open_branches.pop(), before, current, child)
            open_branches.append((depth, index - 1, current, child))
            before, current, child = number, self._leaves[index], ~index
        while open_branches:
            current, child = self._close(open_branches.pop(), before, current, child)
        self._top = child
        return current

    def _close(
        self, branch: tuple[int, int, bytes, int], number: int, right: bytes, right_child: int
    ) -> tuple[bytes, int]:
        depth, index, left, left_child = branch
        self._branches[index] = (depth, left, right, left_child, right_child)
        return _node(depth, number, left, right), index

    def prove(self, wanted: bytes) -> SparseProof:
        """Proves that a position is in the set, or that it is not, whichever is the case.

        Raises:
            FormatError: If the position is not 32 bytes.
        """
        if len(wanted) != POSITION_BYTES:
            raise FormatError(f"A position has {POSITION_BYTES} bytes.")
        if not self._positions:
            return SparseProof(leaf=None, steps=())
        number = int.from_bytes(wanted, "big")
        steps: list[tuple[int, bytes]] = []
        child = self._top
        while child >= 0:
            depth, left, right, left_child, right_child = self._branches[child]
            if _bit(number, depth):
                steps.append((depth, left))
                child = right_child
            else:
                steps.append((depth, right))
                child = left_child
        return SparseProof(leaf=self._positions[~child], steps=tuple(steps))


def verify_membership(root: bytes, wanted: bytes, proof: SparseProof) -> None:
    """Verifies that a position is in the set with this root.

    Raises:
        VerificationError: If the proof does not hold, is malformed, or shows absence.
    """
    _check_form(root, wanted, proof)
    if proof.leaf != wanted:
        raise VerificationError("The sparse Merkle proof is for another position.")
    _check_path(root, wanted, proof)


def verify_absence(root: bytes, wanted: bytes, proof: SparseProof) -> None:
    """Verifies that a position is not in the set with this root.

    The proof shows the one leaf that a descent by the wanted position's bits ends at; it is
    another, or the tree is empty.

    Raises:
        VerificationError: If the proof does not hold, is malformed, or shows membership.
    """
    _check_form(root, wanted, proof)
    if proof.leaf is None:
        if proof.steps or root != EMPTY_ROOT:
            raise VerificationError("The set is not the empty one that the proof claims.")
        return
    if proof.leaf == wanted:
        raise VerificationError("The sparse Merkle proof shows that the position is present.")
    difference = int.from_bytes(wanted, "big") ^ int.from_bytes(proof.leaf, "big")
    if any(_bit(difference, depth) for depth, _ in proof.steps):
        raise VerificationError("The sparse Merkle proof leads away from the wanted position.")
    _check_path(root, proof.leaf, proof)


def _check_form(root: bytes, wanted: bytes, proof: SparseProof) -> None:
    hashes = [root, wanted, *(sibling for _, sibling in proof.steps)]
    if proof.leaf is not None:
        hashes.append(proof.leaf)
    if any(not isinstance(each, bytes) or len(each) != 32 for each in hashes):
        raise VerificationError("A hash of a sparse Merkle proof is not 32 bytes.")
    last = -1
    for depth, _ in proof.steps:
        if type(depth) is not int or not last < depth < _BITS:
            raise VerificationError("The depths of a sparse Merkle proof do not grow downwards.")
        last = depth


def _check_path(root: bytes, leaf: bytes, proof: SparseProof) -> None:
    number, result = int.from_bytes(leaf, "big"), _leaf(leaf)
    for depth, sibling in reversed(proof.steps):
        pair = (sibling, result) if _bit(number, depth) else (result, sibling)
        result = _node(depth, number, *pair)
    if result != root:
        raise VerificationError("The sparse Merkle proof does not lead to this root.")


def _leaf(leaf: bytes) -> bytes:
    return _sha256(_LEAF_TAG + leaf).digest()


def _node(depth: int, number: int, left: bytes, right: bytes) -> bytes:
    prefix = (number & _PREFIX_MASKS[depth]).to_bytes(POSITION_BYTES, "big")
    return _sha256(_DEPTH_BYTES[depth] + prefix + left + right).digest()


def _bit(number: int, depth: int) -> int:
    return number >> (_BITS - 1 - depth) & 1


def _unhex(value: JsonValue) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise FormatError("A sparse Merkle proof has hashes of 64 lower-case hex digits.")
    return bytes.fromhex(value)
