"""The items of each place in the catalogue, the most popular first."""

from __future__ import annotations

import numpy as np

from client.recommend.item_groups import Places
from common.catalogue import Catalogue

CATALOGUE = Catalogue.of(
    [f"i{number}" for number in range(7)],
    category=["tea", "tea", "wine", None, "tea", "wine", None],
    product_type=["black", "green", "red", "red", "black", None, None],
    department=["drinks"] * 6 + [None],
)
PLACES = Places.of(CATALOGUE, np.array([6, 4, 5, 3, 2, 1, 0]))


def test_items_of_a_place_in_the_order_of_popularity() -> None:
    assert PLACES.category.beside(0, 9).tolist() == [4, 1, 0]
    assert PLACES.category.beside(0, 2).tolist() == [4, 1]
    assert PLACES.product_type.beside(2, 9).tolist() == [3, 2]
    assert PLACES.department.beside(0, 9).tolist() == [4, 5, 3, 2, 1, 0]


def test_items_without_a_label_are_no_place() -> None:
    assert PLACES.category.beside(3, 9).tolist() == []
    assert PLACES.category.name_of(3) is None
    assert PLACES.category.name_of(0) == "tea"
    assert PLACES.named("UNLABELLED", 9).tolist() == []


def test_a_name_is_of_the_finest_place_so_called() -> None:
    assert PLACES.named("black", 9).tolist() == [4, 0]
    assert PLACES.named("wine", 9).tolist() == [5, 2]
    assert PLACES.named("drinks", 1).tolist() == [4]
    assert PLACES.named("zebra", 9).tolist() == PLACES.named("", 9).tolist() == []
