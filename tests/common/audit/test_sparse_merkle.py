from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit.sparse_merkle import (
    EMPTY_ROOT,
    SparseMerkleTree,
    SparseProof,
    position,
    sparse_root,
    verify_absence,
    verify_membership,
)
from common.errors import FormatError, VerificationError


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def reference_root(positions, depth=0):
    """The definition, bit by bit: no sorting, no compression but the one defined."""
    if not positions:
        return sha256(b"fedpref-sparse-empty/1")
    if len(positions) == 1:
        return sha256(b"fedpref-sparse-leaf/1", *positions)
    zeros, ones = [], []
    for each in positions:
        (ones if each[depth // 8] >> (7 - depth % 8) & 1 else zeros).append(each)
    if not zeros or not ones:
        return reference_root(zeros or ones, depth + 1)
    bits = "".join(f"{byte:08b}" for byte in positions[0])[:depth].ljust(256, "0")
    prefix = bytes(int(bits[start : start + 8], 2) for start in range(0, 256, 8))
    children = reference_root(zeros, depth + 1), reference_root(ones, depth + 1)
    return sha256(b"fedpref-sparse-node/1", bytes([depth]), prefix, *children)


def position_from(base, flips):
    number = int.from_bytes(bytes([base]) * 32, "big")
    for bit in flips:
        number ^= 1 << bit
    return number.to_bytes(32, "big")


# Few bases and few flipped bits: long common prefixes, and branches at both ends of the depths.
positions_near = st.builds(
    position_from, st.sampled_from([0x00, 0xFF, 0xA5]), st.sets(st.integers(0, 255), max_size=3)
)
position_sets = st.sets(st.one_of(positions_near, st.binary(min_size=32, max_size=32)), max_size=25)


@given(position_sets)
def test_the_root_is_the_definition_s(positions):
    assert SparseMerkleTree(positions).root == reference_root(sorted(positions))


@given(position_sets)
def test_the_root_alone_is_the_trees(positions):
    assert sparse_root(positions) == SparseMerkleTree(positions).root


@given(position_sets, st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order(positions, rng):
    shuffled = sorted(positions)
    rng.shuffle(shuffled)
    assert SparseMerkleTree(shuffled).root == SparseMerkleTree(sorted(positions)).root


@given(position_sets, position_sets)
def test_different_sets_have_different_roots(first, second):
    same = SparseMerkleTree(first).root == SparseMerkleTree(second).root
    assert same == (first == second)


@given(position_sets, st.one_of(positions_near, st.binary(min_size=32, max_size=32)))
def test_each_position_is_proved_present_or_absent_and_never_both(positions, other):
    tree = SparseMerkleTree(positions)
    for wanted in [*positions, other]:
        proof = tree.prove(wanted)
        assert SparseProof.from_record(proof.to_record()) == proof
        right, wrong = verify_membership, verify_absence
        if wanted not in positions:
            right, wrong = wrong, right
        right(tree.root, wanted, proof)
        with pytest.raises(VerificationError):
            wrong(tree.root, wanted, proof)


@given(position_sets, positions_near)
def test_no_path_of_the_tree_proves_a_member_absent(positions, member):
    tree = SparseMerkleTree(positions | {member})
    for each in positions - {member}:
        with pytest.raises(VerificationError):
            verify_absence(tree.root, member, tree.prove(each))


@given(position_sets.filter(lambda found: len(found) > 1), st.data())
def test_a_proof_with_one_bit_changed_does_not_verify(positions, data):
    tree = SparseMerkleTree(positions)
    wanted = data.draw(st.sampled_from(sorted(positions)))
    proof = tree.prove(wanted)
    at = data.draw(st.integers(0, len(proof.steps) - 1))
    depth, sibling = proof.steps[at]
    bit = data.draw(st.integers(0, 255))
    changed = (int.from_bytes(sibling, "big") ^ 1 << bit).to_bytes(32, "big")
    steps = [*proof.steps[:at], (depth, changed), *proof.steps[at + 1 :]]
    with pytest.raises(VerificationError):
        verify_membership(tree.root, wanted, SparseProof(wanted, tuple(steps)))


@given(position_sets.filter(lambda found: len(found) > 1), st.data())
def test_a_proof_with_another_depth_does_not_verify(positions, data):
    tree = SparseMerkleTree(positions)
    wanted = data.draw(st.sampled_from(sorted(positions)))
    proof = tree.prove(wanted)
    at = data.draw(st.integers(0, len(proof.steps) - 1))
    depth, sibling = proof.steps[at]
    other = data.draw(st.integers(0, 255).filter(lambda each: each != depth))
    steps = [*proof.steps[:at], (other, sibling), *proof.steps[at + 1 :]]
    with pytest.raises(VerificationError):
        verify_membership(tree.root, wanted, SparseProof(wanted, tuple(steps)))


def test_the_empty_set():
    tree = SparseMerkleTree([])
    assert tree.root == EMPTY_ROOT
    assert len(tree) == 0
    wanted = os.urandom(32)
    proof = tree.prove(wanted)
    verify_absence(EMPTY_ROOT, wanted, proof)
    with pytest.raises(VerificationError):
        verify_membership(EMPTY_ROOT, wanted, proof)
    with pytest.raises(VerificationError):
        verify_absence(SparseMerkleTree([wanted]).root, wanted, proof)
    with pytest.raises(VerificationError):
        verify_absence(EMPTY_ROOT, wanted, SparseProof(None, ((0, EMPTY_ROOT),)))


def two_clusters():
    """Two subtrees of the same shape below different prefixes."""
    low = [bytes(31) + bytes([last]) for last in (0, 1, 2)]
    high = [b"\xff" * 31 + bytes([last]) for last in (0, 1, 2)]
    return low, high


def test_a_part_of_a_proof_does_not_hold_at_another_place():
    """Nodes commit to their prefix: the same leaves elsewhere are another subtree."""
    low, high = two_clusters()
    subtree = SparseMerkleTree(low)
    assert subtree.root != SparseMerkleTree([b"\x01" * 31 + each[31:] for each in low]).root
    # A root that has the low cluster's subtree where the high one belongs.
    forged = SparseProof(low[0], ((0, subtree.root), *subtree.prove(low[0]).steps))
    whole = SparseMerkleTree(low + high)
    with pytest.raises(VerificationError):
        verify_membership(whole.root, low[0], forged)


def test_a_leaf_hung_under_a_foreign_prefix_cannot_be_proved():
    """Without the prefix in a node's hash, this forged root would prove ``stray`` present."""
    left, right = b"\x00" * 32, b"\x01" + b"\x00" * 31
    stray = b"\x81" + b"\x00" * 31
    leaves = [sha256(b"fedpref-sparse-leaf/1", each) for each in (left, stray)]
    forged_root = sha256(b"fedpref-sparse-node/1", bytes([7]), bytes(32), *leaves)
    assert SparseMerkleTree([left, right]).root != forged_root
    with pytest.raises(VerificationError):
        verify_membership(forged_root, stray, SparseProof(stray, ((7, leaves[0]),)))


def test_absence_must_follow_the_wanted_position_s_bits():
    low, high = two_clusters()
    tree = SparseMerkleTree(low + high)
    absent = b"\x7f" + bytes(31)
    verify_absence(tree.root, absent, tree.prove(absent))
    with pytest.raises(VerificationError, match="leads away"):
        verify_absence(tree.root, absent, tree.prove(high[0]))


@pytest.mark.parametrize("depths", [(5, 5), (6, 5)])
def test_no_root_makes_depths_that_do_not_grow_hold(depths):
    """The root is made to fit the proof; only the order of the depths is wrong."""
    wanted = bytes(32)
    result = sha256(b"fedpref-sparse-leaf/1", wanted)
    for depth in reversed(depths):
        node = b"fedpref-sparse-node/1" + bytes([depth]) + bytes(32)
        result = sha256(node, result, bytes(32))
    proof = SparseProof(wanted, tuple((depth, bytes(32)) for depth in depths))
    with pytest.raises(VerificationError, match="grow downwards"):
        verify_membership(result, wanted, proof)


@pytest.mark.parametrize(
    "steps",
    [
        ((3, bytes(32)), (3, bytes(32))),
        ((4, bytes(32)), (3, bytes(32))),
        ((-1, bytes(32)),),
        ((256, bytes(32)),),
        ((True, bytes(32)),),
        (("0", bytes(32)),),
        ((0, bytes(31)),),
        ((0, "0" * 32),),
    ],
)
def test_malformed_steps_are_refused(steps):
    wanted = bytes(32)
    for verify in (verify_membership, verify_absence):
        with pytest.raises(VerificationError):
            verify(EMPTY_ROOT, wanted, SparseProof(wanted, steps))


def test_malformed_hashes_are_refused():
    wanted = os.urandom(32)
    tree = SparseMerkleTree([wanted])
    proof = tree.prove(wanted)
    for root, leaf in [(tree.root[:31], wanted), (tree.root, wanted[:31]), (None, wanted)]:
        with pytest.raises(VerificationError):
            verify_membership(root, leaf, dataclasses.replace(proof, leaf=leaf))


GOOD = SparseProof(bytes(32), ((0, bytes(32)),)).to_record()


@pytest.mark.parametrize(
    "record",
    [
        {},
        GOOD | {"more": 1},
        GOOD | {"leaf": "00"},
        GOOD | {"leaf": "0" * 63 + "A"},
        GOOD | {"leaf": 0},
        GOOD | {"steps": {}},
        GOOD | {"steps": [[0]]},
        GOOD | {"steps": [[True, "0" * 64]]},
        GOOD | {"steps": [["0", "0" * 64]]},
        GOOD | {"steps": [[0, None]]},
    ],
)
def test_malformed_records_of_proofs_are_refused(record):
    with pytest.raises(FormatError):
        SparseProof.from_record(record)


@pytest.mark.parametrize("positions", [[bytes(31)], [bytes(32), bytes(32)], [bytes(32), bytes(33)]])
def test_the_root_alone_needs_distinct_positions_of_32_bytes(positions):
    with pytest.raises(FormatError):
        sparse_root(positions)


def test_positions_are_distinct_and_of_32_bytes():
    one = os.urandom(32)
    with pytest.raises(FormatError, match="twice"):
        SparseMerkleTree([one, os.urandom(32), one])
    with pytest.raises(FormatError):
        SparseMerkleTree([one[:31]])
    with pytest.raises(FormatError):
        SparseMerkleTree([one]).prove(one[:31])


def test_a_position_is_bound_to_the_round_and_the_subject():
    nonce, sid = bytes(range(32)), bytes(range(32, 64))
    assert position(nonce, sid) == sha256(b"fedpref-position/1", nonce, sid)
    for other in [(nonce[:31], sid), (nonce, sid + b"x"), (nonce + sid[:1], sid[1:])]:
        with pytest.raises(FormatError):
            position(*other)


def test_a_large_set_is_quick_and_its_proofs_short():
    rng = random.Random(1)
    positions = [rng.randbytes(32) for _ in range(100_000)]
    started = time.process_time()
    tree = SparseMerkleTree(positions)
    assert time.process_time() - started < 5
    assert len(tree) == 100_000
    for wanted in positions[:200]:
        proof = tree.prove(wanted)
        assert len(proof.steps) < 60
        verify_membership(tree.root, wanted, proof)


def test_the_root_of_a_fixed_set_stays_what_it_was():
    """The format is what other implementations compute: this value never changes."""
    positions = [sha256(bytes([number])) for number in range(10)]
    root = reference_root(positions)
    assert SparseMerkleTree(positions).root == root
    assert root.hex() == "2f99ae23b66e8ac96574ee4a8b4c0121eedece05c14e04a105bb65a2876c8610"
