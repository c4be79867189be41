"""Merkle tree hashing and proofs of RFC 6962, section 2.1, over SHA-256.

Sizes and indices are counted in leaves; every hash is 32 bytes. What proves (``prove_*``) works on
any source of the hashes of complete subtrees, so that a stored log and a list of leaf hashes share
it. What verifies takes nothing on trust: the length of a proof is fixed by the index and the sizes,
every hash is 32 bytes, and anything else is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from common.errors import InputError, VerificationError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

#: Gives the hash of the complete subtree over leaves [index << level, (index + 1) << level).
SubtreeReader = Callable[[int, int], bytes]

_sha256 = hashlib.sha256


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 ‖ data)."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 ‖ left ‖ right)."""
    return _sha256(b"\x01" + left + right).digest()


def root_hash(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over all leaf hashes; ``EMPTY_ROOT`` when there are none."""
    tree = MerkleAccumulator()
    for leaf in leaf_hashes:
        tree.append(leaf)
    return tree.root()


class MerkleAccumulator:
    """The root of a growing tree in logarithmic memory: the complete subtrees of its right edge."""

    def __init__(self) -> None:
        self._size = 0
        # The hashes of the complete subtrees, largest first: one for each set bit of the size.
        self._peaks: list[bytes] = []

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Adds the next leaf.

        Args:
            leaf: Its leaf hash, 32 bytes.

        Raises:
            InputError: If the hash is not 32 bytes.
        """
        if len(leaf) != HASH_BYTES:
            raise InputError(f"A leaf hash has {HASH_BYTES} bytes, not {len(leaf)}.")
        carry = self._size
        while carry & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            carry >>= 1
        self._peaks.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """The root of the tree so far."""
        return fold_right(self._peaks) if self._peaks else EMPTY_ROOT


def fold_right(hashes: Sequence[bytes]) -> bytes:
    """Joins the hashes of neighbouring subtrees, largest first, into the hash of their range."""
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def complete_subtrees(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Splits a range that begins a subtree into complete subtrees, largest first.

    Args:
        start: First leaf, a multiple of the largest power of two below the range's length.
        stop: One past the last leaf.

    Yields:
        ``(level, index)`` of each complete subtree, as a ``SubtreeReader`` takes them.
    """
    while start < stop:
        level = (stop - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def range_root(read: SubtreeReader, start: int, stop: int) -> bytes:
    """The hash of the subtree over leaves [start, stop), MTH(D[start:stop]) of the RFC."""
    if start == stop:
        return EMPTY_ROOT
    return fold_right([read(level, index) for level, index in complete_subtrees(start, stop)])


def prove_inclusion(read: SubtreeReader, index: int, size: int) -> list[bytes]:
    """The audit path of RFC 6962, 2.1.1, from the leaf upwards.

    Raises:
        InputError: Unless 0 ≤ index < size.
    """
    if not 0 <= index < size:
        raise InputError(f"Leaf {index} is not in a tree of {size} leaves.")
    siblings: list[tuple[int, int]] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            siblings.append((middle, stop))
            stop = middle
        else:
            siblings.append((start, middle))
            start = middle
    return [range_root(read, *sibling) for sibling in reversed(siblings)]


def prove_consistency(read: SubtreeReader, size_m: int, size_n: int) -> list[bytes]:
    """The consistency proof of RFC 6962, 2.1.2, between the trees of two sizes.

    Raises:
        InputError: Unless 0 < size_m ≤ size_n.
    """
    if not 0 < size_m <= size_n:
        raise InputError(f"No consistency proof leads from size {size_m} to size {size_n}.")
    parts: list[tuple[int, int]] = []
    start, stop = 0, size_n
    while stop != size_m:
        middle = start + _split(stop - start)
        if size_m <= middle:
            parts.append((middle, stop))
            stop = middle
        else:
            parts.append((start, middle))
            start = middle
    if start:
        # Otherwise the old tree is itself a subtree of the new one, and its root is known.
        parts.append((start, stop))
    return [range_root(read, *part) for part in reversed(parts)]


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int, size: int) -> list[bytes]:
    """Proves that leaf ``index`` is in the tree of the first ``size`` leaves."""
    _check_held(leaf_hashes, size)
    return prove_inclusion(_reader(leaf_hashes), index, size)


def consistency_proof(leaf_hashes: Sequence[bytes], size_m: int, size_n: int) -> list[bytes]:
    """Proves that the tree of ``size_n`` leaves only appends to the tree of ``size_m``."""
    _check_held(leaf_hashes, size_n)
    return prove_consistency(_reader(leaf_hashes), size_m, size_n)


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Verifies an inclusion proof (RFC 9162, 2.1.3.2).

    Args:
        leaf: The leaf hash of the entry.
        index: Its index.
        size: Size of the tree.
        proof: The audit path, from the leaf upwards.
        root: Root of the tree of that size.

    Raises:
        VerificationError: If the proof does not hold, or is not of the exact form.
    """
    _check_numbers(index, size)
    _check_hashes(leaf, root, *proof)
    if not index < size:
        raise VerificationError(f"Leaf {index} is not in a tree of {size} leaves.")
    last, position, steps, result = size - 1, index, iter(proof), leaf
    while last:
        if position & 1 or position < last:
            sibling = next(steps, None)
            if sibling is None:
                raise VerificationError(f"The inclusion proof of leaf {index} is too short.")
            pair = (sibling, result) if position & 1 else (result, sibling)
            result = node_hash(*pair)
        position >>= 1
        last >>= 1
    if next(steps, None) is not None:
        raise VerificationError(f"The inclusion proof of leaf {index} is too long.")
    if result != root:
        raise VerificationError(f"Leaf {index} is not in the tree of {size} leaves with this root.")


def verify_consistency(
    size_m: int, size_n: int, proof: Sequence[bytes], root_m: bytes, root_n: bytes
) -> None:
    """Verifies that the larger tree only appends to the smaller one (RFC 9162, 2.1.4.2).

    The empty tree is a prefix of every tree; a proof from size 0 would show nothing and is refused.

    Raises:
        VerificationError: If the proof does not hold, or is not of the exact form.
    """
    _check_numbers(size_m, size_n)
    _check_hashes(root_m, root_n, *proof)
    if not 0 < size_m <= size_n:
        raise VerificationError(f"No consistency proof leads from size {size_m} to size {size_n}.")
    steps = list(reversed(proof))
    # Where the old tree is a subtree of the new one, its root is known and not in the proof.
    known = size_m == size_n or size_m & (size_m - 1) == 0
    old = new = root_m if known else _take(steps)
    position, last = (size_m - 1, size_n - 1) if size_m < size_n else (0, 0)
    # The largest complete subtree on the right edge of the old tree is where both paths begin.
    while position & 1:
        position >>= 1
        last >>= 1
    while last:
        if position & 1:
            sibling = _take(steps)
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        elif position < last:
            new = node_hash(new, _take(steps))
        position >>= 1
        last >>= 1
    if steps:
        raise VerificationError("The consistency proof is too long.")
    if old != root_m:
        raise VerificationError(f"The consistency proof is not of the root of size {size_m}.")
    if new != root_n:
        raise VerificationError(f"The tree of size {size_n} does not extend that of size {size_m}.")


def _take(steps: list[bytes]) -> bytes:
    if not steps:
        raise VerificationError("The consistency proof is too short.")
    return steps.pop()


def _split(length: int) -> int:
    """The largest power of two smaller than ``length``."""
    return 1 << ((length - 1).bit_length() - 1)


def _reader(leaf_hashes: Sequence[bytes]) -> SubtreeReader:
    def read(level: int, index: int) -> bytes:
        hashes = leaf_hashes[index << level : (index + 1) << level]
        while len(hashes) > 1:
            pairs = zip(hashes[::2], hashes[1::2], strict=True)
            hashes = [node_hash(left, right) for left, right in pairs]
        return hashes[0]

    return read


def _check_held(leaf_hashes: Sequence[bytes], size: int) -> None:
    if size > len(leaf_hashes):
        raise InputError(f"A tree of {size} leaves needs more than {len(leaf_hashes)} leaf hashes.")


def _check_numbers(*numbers: int) -> None:
    for number in numbers:
        # bool is an int in Python, and what comes from JSON may be any type.
        if type(number) is not int or number < 0:
            raise VerificationError(f"{number!r} is not a leaf index or tree size.")


def _check_hashes(*hashes: bytes) -> None:
    for value in hashes:
        if not isinstance(value, bytes) or len(value) != HASH_BYTES:
            raise VerificationError(f"A hash of a proof is not {HASH_BYTES} bytes.")
