"""The catalogue's tree: groups nest and lie together; a label counts within what is above it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.item_tree import ItemTree
from common.catalogue import Catalogue

labels = st.lists(st.tuples(*[st.sampled_from("abc")] * 4), min_size=1, max_size=30)


def catalogue_of(items: list[tuple[str, ...]]) -> Catalogue:
    department, category, product_type, brand = zip(*items, strict=True)
    return Catalogue.of(
        [f"i{number}" for number in range(len(items))],
        department=department,
        category=category,
        product_type=product_type,
        brand=brand,
    )


@given(labels)
def test_a_group_has_the_items_of_one_path_of_labels(items: list[tuple[str, ...]]) -> None:
    tree = ItemTree.of(catalogue_of(items))
    for level, path in enumerate(tree.paths):
        groups: dict[tuple[str, ...], set[int]] = {}
        for labelled, group in zip(items, path.tolist(), strict=True):
            groups.setdefault(labelled[:level], set()).add(group)
        assert sorted(each for found in groups.values() for each in found) == list(
            range(len(groups))
        )
    assert tree.places is tree.paths[-1]


@given(labels)
def test_groups_nest_and_lie_together(items: list[tuple[str, ...]]) -> None:
    tree = ItemTree.of(catalogue_of(items))
    for (above, below), parents in zip(pairwise(tree.paths), tree.parents[1:], strict=True):
        assert np.array_equal(parents[below], above)
    assert tree.parents[0].tolist() == [0]
    assert sorted(tree.order.tolist()) == list(range(len(items)))
    for path in tree.paths:
        assert (np.diff(path[tree.order]) >= 0).all()
    within = np.diff(tree.order)[np.diff(tree.places[tree.order]) == 0]
    assert (within > 0).all()


def test_a_label_is_the_same_only_within_what_is_above_it() -> None:
    catalogue = Catalogue.of(["1", "2"], department=["a", "b"], product_type=["x", "x"])
    assert ItemTree.of(catalogue).places.tolist() == [0, 1]
