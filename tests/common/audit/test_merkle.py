from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit import merkle
from common.errors import InputError, VerificationError

VECTORS = Path("tests/vectors/merkle")
PUBLISHED = runpy.run_path(str(VECTORS / "published_cases.py"))
REFERENCE = runpy.run_path(str(VECTORS / "generate.py"))

#: The roots of the trees of 0 to 8 leaves that Certificate Transparency's tests publish.
PUBLISHED_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def cases(name):
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]


def unhex(case, *names):
    return [bytes.fromhex(case[name]) for name in names]


def data_of(size):
    return [f"entry {number}".encode() for number in range(size)]


def hashes_of(size):
    return [merkle.leaf_hash(data) for data in data_of(size)]


def test_vector_files_are_what_their_generator_writes():
    for generator in (REFERENCE, PUBLISHED):
        for name, document in generator["documents"]().items():
            assert (VECTORS / name).read_text(encoding="utf-8") == generator["encoded"](document)


def test_published_roots():
    vectors = json.loads((VECTORS / "roots.json").read_text(encoding="utf-8"))
    leaves = [merkle.leaf_hash(bytes.fromhex(each)) for each in vectors["leaves"]]
    roots = [merkle.root_hash(leaves[:size]).hex() for size in range(len(leaves) + 1)]
    assert roots == vectors["roots"] == PUBLISHED_ROOTS


@pytest.mark.parametrize("case", cases("inclusion.json"), ids=lambda case: case["name"])
def test_inclusion_vectors(case):
    leaf, root = unhex(case, "leaf", "root")
    proof = [bytes.fromhex(step) for step in case["proof"]]
    if case["valid"]:
        merkle.verify_inclusion(leaf, case["index"], case["size"], proof, root)
    else:
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(leaf, case["index"], case["size"], proof, root)


@pytest.mark.parametrize("case", cases("consistency.json"), ids=lambda case: case["name"])
def test_consistency_vectors(case):
    roots = unhex(case, "old_root", "new_root")
    proof = [bytes.fromhex(step) for step in case["proof"]]
    sizes = case["old_size"], case["new_size"]
    if case["valid"]:
        merkle.verify_consistency(*sizes, proof, *roots)
    else:
        with pytest.raises(VerificationError):
            merkle.verify_consistency(*sizes, proof, *roots)


def test_there_are_98_published_cases_of_each_kind():
    for name, accepted in (("published-inclusion.json", 6), ("published-consistency.json", 6)):
        published = cases(name)
        assert len({case["name"] for case in published}) == len(published) == 98
        assert sum(case["accepted"] for case in published) == accepted


@pytest.mark.parametrize("case", cases("published-inclusion.json"), ids=lambda case: case["name"])
def test_published_inclusion_cases(case):
    leaf, root = unhex(case, "leaf", "root")
    proof = [bytes.fromhex(step) for step in case["proof"]]
    if case["accepted"]:
        merkle.verify_inclusion(leaf, case["index"], case["size"], proof, root)
    else:
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(leaf, case["index"], case["size"], proof, root)


@pytest.mark.parametrize("case", cases("published-consistency.json"), ids=lambda case: case["name"])
def test_published_consistency_cases(case):
    roots = unhex(case, "old_root", "new_root")
    proof = [bytes.fromhex(step) for step in case["proof"]]
    sizes = case["old_size"], case["new_size"]
    # The one documented refusal: two "roots" that are no hashes, though they are equal.
    if case["accepted"] and len(roots[0]) == 32:
        merkle.verify_consistency(*sizes, proof, *roots)
    else:
        assert not case["accepted"] or "sizes are equal (one)" in case["name"]
        with pytest.raises(VerificationError):
            merkle.verify_consistency(*sizes, proof, *roots)


def test_every_inclusion_proof_of_every_tree_up_to_32_leaves():
    data, hashes = data_of(32), hashes_of(32)
    for size in range(1, 33):
        root = REFERENCE["mth"](data[:size])
        assert merkle.root_hash(hashes[:size]) == root
        for index in range(size):
            proof = merkle.inclusion_proof(hashes, index, size)
            assert proof == REFERENCE["path"](index, data[:size])
            merkle.verify_inclusion(hashes[index], index, size, proof, root)


def test_an_inclusion_proof_holds_for_its_own_index_only():
    hashes = hashes_of(16)
    for size in range(2, 17):
        root = merkle.root_hash(hashes[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(hashes, index, size)
            for other in range(size):
                if other != index:
                    with pytest.raises(VerificationError):
                        merkle.verify_inclusion(hashes[index], other, size, proof, root)


def test_every_consistency_proof_between_trees_up_to_32_leaves():
    data, hashes = data_of(32), hashes_of(32)
    roots = [merkle.root_hash(hashes[:size]) for size in range(33)]
    for new in range(1, 33):
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(hashes, old, new)
            assert proof == REFERENCE["proof"](old, data[:new])
            merkle.verify_consistency(old, new, proof, roots[old], roots[new])
            for other in range(1, new + 1):
                if other != old:
                    with pytest.raises(VerificationError):
                        merkle.verify_consistency(other, new, proof, roots[old], roots[new])


def test_pymerkle_agrees_on_roots_and_inclusion():
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    hashes = hashes_of(70)
    for data in data_of(70):
        oracle.append_entry(data)
    for size in (1, 2, 3, 31, 32, 33, 64, 70):
        assert merkle.root_hash(hashes[:size]) == oracle.get_root(size)
        for index in {0, size // 2, size - 1}:
            # Its path begins with the leaf itself, and its indices with 1.
            theirs = oracle.prove_inclusion(index + 1, size).serialize()["path"]
            ours = merkle.inclusion_proof(hashes, index, size)
            assert [hashes[index].hex(), *(step.hex() for step in ours)] == theirs


@given(st.integers(0, 300), st.data())
def test_proofs_of_any_tree_verify_and_one_changed_bit_does_not(size, data):
    hashes = hashes_of(size + 1)
    index = data.draw(st.integers(0, size))
    root = merkle.root_hash(hashes)
    proof = merkle.inclusion_proof(hashes, index, size + 1)
    merkle.verify_inclusion(hashes[index], index, size + 1, proof, root)
    whole = bytearray(b"".join([hashes[index], *proof, root]))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    parts = [bytes(whole[start : start + 32]) for start in range(0, len(whole), 32)]
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(parts[0], index, size + 1, parts[1:-1], parts[-1])


def test_a_leaf_cannot_pass_for_an_inner_node():
    left, right = hashes_of(2)
    root = merkle.root_hash([left, right])
    assert merkle.leaf_hash(left + right) != root
    assert merkle.leaf_hash(b"a") == hashlib.sha256(b"\x00a").digest()


@pytest.mark.parametrize(("index", "size"), [(True, 2), (0, True), ("0", 2), (0.0, 2), (None, 2)])
def test_only_whole_numbers_are_indices(index, size):
    hashes = hashes_of(2)
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(hashes[0], index, size, [hashes[1]], merkle.root_hash(hashes))


def test_a_byte_cannot_move_from_a_sibling_to_the_leaf():
    """Both give the same node's bytes; only the length of each hash tells them apart."""
    left, right = hashes_of(2)
    root = merkle.root_hash([left, right])
    merkle.verify_inclusion(right, 1, 2, [left], root)
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(left[31:] + right, 1, 2, [left[:31]], root)


def test_hashes_are_bytes_of_32():
    hashes = hashes_of(2)
    root = merkle.root_hash(hashes)
    for bad in (hashes[1].hex(), bytearray(hashes[1]), None):
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(hashes[0], 0, 2, [bad], root)
    with pytest.raises(InputError):
        merkle.MerkleAccumulator().append(b"short")


@pytest.mark.parametrize(("index", "size"), [(2, 2), (-1, 2), (0, 0), (0, 4)])
def test_no_proof_of_what_is_not_in_the_tree(index, size):
    with pytest.raises(InputError):
        merkle.inclusion_proof(hashes_of(3), index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 2), (3, 2), (2, 4), (-1, 2)])
def test_no_consistency_proof_between_trees_that_are_not_there(old, new):
    with pytest.raises(InputError):
        merkle.consistency_proof(hashes_of(3), old, new)
