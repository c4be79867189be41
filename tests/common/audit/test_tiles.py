from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit import merkle
from common.audit.tiles import (
    Tile,
    TiledTree,
    TileEdge,
    decode_bundle,
    encode_bundle,
    entries_path,
    partial_widths,
    tile_path,
)
from common.errors import FormatError, InputError, StorageError


def hashes_of(size):
    return [merkle.leaf_hash(number.to_bytes(4)) for number in range(size)]


def grown(size):
    """An edge grown leaf by leaf, and the full tiles it gave off."""
    edge = TileEdge(0, [])
    for leaf in hashes_of(size):
        edge.append(leaf)
    return edge, {place: tile.encode() for place, tile in edge.completed.items()}


def tree_of(size):
    edge, stored = grown(size)
    return TiledTree(edge, lambda level, number: stored[level, number], StorageError), stored


@pytest.mark.parametrize(
    ("number", "width", "path"),
    [
        (0, 256, "tile/entries/000"),
        (0, 1, "tile/entries/000.p/1"),
        (67, 255, "tile/entries/067.p/255"),
        (999, 256, "tile/entries/999"),
        (1000, 256, "tile/entries/x001/000"),
        (1234067, 256, "tile/entries/x001/x234/067"),
        (1234067, 8, "tile/entries/x001/x234/067.p/8"),
    ],
)
def test_paths_of_entry_bundles(number, width, path):
    assert entries_path(number, width) == path


def test_paths_of_hash_tiles():
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(2, 0, 17) == "tile/2/000.p/17"


@pytest.mark.parametrize(("number", "width"), [(-1, 256), (0, 0), (0, 257)])
def test_paths_of_no_tile(number, width):
    with pytest.raises(InputError):
        entries_path(number, width)


def test_no_tile_has_a_level_beyond_63():
    with pytest.raises(InputError):
        tile_path(64, 0)


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_round_trip(entries):
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


def test_the_longest_entry_fits_a_bundle_and_no_longer_one():
    longest = b"x" * 65_535
    assert encode_bundle([longest])[:2] == b"\xff\xff"
    assert decode_bundle(encode_bundle([longest]), 1) == [longest]
    with pytest.raises(InputError):
        encode_bundle([longest + b"x"])


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"\x00\x01", 1),  # ends before the entry
        (b"\x00", 1),  # ends within the length
        (b"\x00\x02a", 1),  # ends within the entry
        (b"\x00\x01a", 2),  # one entry too few
        (b"\x00\x01a\x00\x00", 1),  # one too many
        (b"\x00\x01ab", 1),  # a byte left over
        (b"", 1),
    ],
)
def test_malformed_bundles_are_refused(data, width):
    with pytest.raises(FormatError):
        decode_bundle(data, width)


def test_the_specification_s_example_of_70000_entries():
    assert partial_widths(70_000) == [112, 17, 1]
    assert partial_widths(256) == [0, 1]
    assert partial_widths(0) == []


def test_tiles_hold_the_hashes_the_specification_defines():
    size = 256 * 3 + 5
    edge, stored = grown(size)
    hashes = hashes_of(size)
    assert sorted(stored) == [(0, 0), (0, 1), (0, 2)]
    assert stored[0, 1] == b"".join(hashes[256:512])
    assert edge.partial[0].rows[0] == hashes[768:]
    roots = [merkle.root_hash(hashes[start : start + 256]) for start in (0, 256, 512)]
    assert edge.partial[1].rows[0] == roots
    assert [tile.width for tile in edge.partial] == partial_widths(size)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_793])
def test_roots_and_proofs_from_tiles_are_those_from_leaves(size):
    tree, _ = tree_of(size)
    hashes = hashes_of(size)
    root = merkle.root_hash(hashes)
    assert tree.root(size) == root
    for smaller in {1, 2, 200, 256, 300, 65_000, size}:
        if 0 < smaller <= size:
            old = merkle.root_hash(hashes[:smaller])
            assert tree.root(smaller) == old
            proof = merkle.prove_consistency(tree.subtree, smaller, size)
            merkle.verify_consistency(smaller, size, proof, old, root)
            proof = merkle.prove_inclusion(tree.subtree, smaller - 1, size)
            merkle.verify_inclusion(hashes[smaller - 1], smaller - 1, size, proof, root)


def test_an_edge_copied_and_grown_leaves_the_first_as_it_was():
    edge, _ = grown(300)
    before = TiledTree(edge, lambda *_: b"", StorageError).root(256)
    grown_copy = edge.copy()
    for leaf in hashes_of(400):
        grown_copy.append(leaf)
    assert edge.size == 300
    assert [tile.width for tile in edge.partial] == [44, 1]
    assert TiledTree(edge, lambda *_: b"", StorageError).root(256) == before


@pytest.mark.parametrize("place", [0, 5 * 32 + 3, 8191])
def test_a_changed_tile_is_found_when_it_is_read(place):
    tree, stored = tree_of(256 * 256 + 10)
    changed = bytearray(stored[0, 7])
    changed[place] ^= 1
    stored[0, 7] = bytes(changed)
    assert tree.subtree(0, 6 * 256) == hashes_of(6 * 256 + 1)[-1]
    with pytest.raises(StorageError, match="hash tile 7 of level 0"):
        tree.subtree(0, 7 * 256)


def test_a_changed_upper_tile_is_found_through_its_children():
    tree, stored = tree_of(256 * 256 + 10)
    stored[1, 0] = stored[1, 0][:-1] + b"\x00"
    with pytest.raises(StorageError, match="hash tile 0 of level 1"):
        tree.subtree(0, 0)


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"x" * 8224])
def test_a_tile_is_1_to_256_hashes(data):
    with pytest.raises(FormatError):
        Tile.decode(data)


def test_a_tile_that_is_too_short_is_found_when_it_is_read():
    tree, stored = tree_of(600)
    stored[0, 0] = stored[0, 0][:-32]
    with pytest.raises(StorageError):
        tree.subtree(0, 0)


def test_the_cache_of_tiles_is_bounded(monkeypatch):
    monkeypatch.setattr(TiledTree, "_CACHED_TILES", 2)
    tree, _ = tree_of(256 * 5)
    leaves = hashes_of(256 * 5)
    for _ in range(2):
        assert [tree.subtree(0, 256 * tile) for tile in range(5)] == leaves[::256]
    assert len(tree._cache) == 2
