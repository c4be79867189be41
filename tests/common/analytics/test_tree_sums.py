"""Trees over cells: what is in which sum, one consistent table, and when a tree pays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.analytics.tree_sums import MAX_CELLS, TreeSums
from common.errors import InputError

TREES = st.builds(TreeSums, st.integers(1, 70), st.integers(2, 12))


def sums_of(tree: TreeSums, cells: np.ndarray) -> np.ndarray:
    total = np.zeros(tree.size)
    for places in tree.places():
        np.add.at(total, places, cells * tree.scale)
    return total


@given(TREES)
def test_one_customers_row_has_a_norm_of_one(tree: TreeSums) -> None:
    for cell in {0, tree.n_cells // 2, tree.n_cells - 1}:
        row = np.zeros(tree.size)
        np.add.at(row, tree.places()[:, cell], tree.scale)
        assert np.linalg.norm(row) == pytest.approx(1.0)


@given(TREES, st.integers(0, 2**32))
def test_without_noise_the_cells_come_back(tree: TreeSums, seed: int) -> None:
    cells = np.random.default_rng(seed).normal(size=tree.n_cells)
    np.testing.assert_allclose(tree.solution() @ sums_of(tree, cells), cells, atol=1e-9)


def test_as_many_branches_as_cells_are_the_cells_alone() -> None:
    tree = TreeSums(7, 7)
    assert (tree.size, tree.scale) == (7, 1.0)
    np.testing.assert_allclose(tree.solution(), np.eye(7))


def test_levels_add_up_neighbours() -> None:
    tree = TreeSums(5, 2)
    assert tree.widths == (5, 3, 2)
    np.testing.assert_array_equal(
        tree.places(), [[0, 1, 2, 3, 4], [5, 5, 6, 6, 7], [8, 8, 8, 8, 9]]
    )


@pytest.mark.parametrize("cells", [2, 16, 64, 200])
def test_the_tree_for_ranges_is_never_worse_than_the_cells_alone(cells: int) -> None:
    best, flat = TreeSums.for_ranges(cells), TreeSums(cells, max(2, cells))
    assert best.worst_range() <= flat.worst_range()
    # Half of the cells against half of the total: that is what cells alone come to.
    assert flat.worst_range() == pytest.approx(math.sqrt(cells) / 2, rel=0.1)


def test_for_many_cells_a_tree_pays() -> None:
    best, flat = TreeSums.for_ranges(200), TreeSums(200, 200)
    assert best.worst_range() < 0.6 * flat.worst_range()


def test_the_worst_range_is_what_simulated_noise_comes_to() -> None:
    tree = TreeSums(64, 8)
    noise = np.random.default_rng(1).normal(size=(20_000, tree.size))
    cells = noise @ tree.solution().T
    below, total = np.cumsum(cells, axis=1)[:, :-1], cells.sum(axis=1)
    share = np.arange(1, 64) / 64
    seen = (below - share * total[:, None]).std(axis=0).max()
    assert seen == pytest.approx(tree.worst_range(), rel=0.03)


@pytest.mark.parametrize(("cells", "branching"), [(0, 2), (MAX_CELLS + 1, 2), (5, 1), (5, 0)])
def test_what_is_no_tree_is_refused(cells: int, branching: int) -> None:
    with pytest.raises(InputError, match="no tree"):
        TreeSums(cells, branching)
