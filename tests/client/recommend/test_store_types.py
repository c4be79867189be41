"""What is bought in which kind of store: counted by each customer alone, released, and served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.table_rows import NONE, TableRows, Texts
from client.data.transactions import Purchases
from client.recommend.local_release import LocalReleases
from client.recommend.local_statistics import STORE_TYPES
from client.recommend.store_types import StoreFactors, StoreTypes
from client.recommend.types import Scene
from client.training.bounded_sums import Contributions, bounded_sum, tables_of
from common.catalogue import Catalogue
from common.errors import InputError

N_ITEMS, CUSTOMERS = 12, 4
KINDS = ("city", "hypermarket", "corner")
CATALOGUE = Catalogue.of(
    [f"item-{number}" for number in range(N_ITEMS)],
    category=[f"category-{number % 3}" for number in range(N_ITEMS)],
)
ASKED = StoreTypes(CATALOGUE, KINDS)
# Texts as a table has them: in no order of ours, with some that nobody asks for.
ITEMS = ("item-3", "unknown", "item-0", *(f"item-{number}" for number in range(4, N_ITEMS)))
STORES = ("corner", "airport", "city", "hypermarket")
ROWS = st.lists(
    st.tuples(
        st.integers(0, CUSTOMERS - 1),
        st.integers(NONE, len(ITEMS) - 1),
        st.integers(NONE, len(STORES) - 1),
    ),
    max_size=40,
)
Rows = list[tuple[int, int, int]]


def purchases_of(rows: Rows) -> Purchases:
    nothing = np.zeros(0, dtype=np.int32)
    columns = np.array(rows, dtype=np.int32).reshape(-1, 3)
    receipts = TableRows(
        columns[:, 0],
        np.full(len(rows), 5, dtype=np.int64),
        {"item": Texts(columns[:, 1], ITEMS), "store_type": Texts(columns[:, 2], STORES)},
        {},
    )
    return Purchases(
        tuple(f"customer-{number}" for number in range(CUSTOMERS)),
        nothing,
        nothing,
        np.zeros(0, dtype=np.int64),
        {"purchases": receipts},
    )


def table(found: Contributions) -> np.ndarray:
    """float64[customers, categories, kinds]: what each customer adds."""
    summed = np.zeros((CUSTOMERS, int(np.prod(ASKED.spec.shape))))
    np.add.at(summed, (found.owner, found.place), found.value)
    return summed.reshape(CUSTOMERS, *ASKED.spec.shape)


@settings(max_examples=40)
@given(ROWS)
def test_each_purchase_counts_once_where_item_and_kind_are_known(rows: Rows) -> None:
    expected = np.zeros((CUSTOMERS, *ASKED.spec.shape))
    for customer, item, store in rows:
        known = item != NONE and store != NONE and ITEMS[item] in CATALOGUE.items
        if known and STORES[store] in KINDS:
            category = int(CATALOGUE.category[CATALOGUE.items.index(ITEMS[item])])
            expected[customer, category, KINDS.index(STORES[store])] += 1
    np.testing.assert_array_equal(table(ASKED.contributions(purchases_of(rows))), expected)


@settings(max_examples=40)
@given(ROWS)
def test_what_a_customer_adds_depends_on_nobody_else_and_is_bounded(rows: Rows) -> None:
    together = table(ASKED.contributions(purchases_of(rows)))
    for customer in range(CUSTOMERS):
        own = [each for each in rows if each[0] == customer]
        np.testing.assert_array_equal(
            together[customer], table(ASKED.contributions(purchases_of(own)))[customer]
        )
        total = bounded_sum([purchases_of(own)], ASKED, start_ms=0, end_ms=10, clipping_norm=1.0)
        assert float(np.linalg.norm(total)) <= 1 + 1e-9


def test_it_takes_rows_of_the_further_table_and_says_what_it_asks() -> None:
    assert tables_of(ASKED) == ("purchases",)
    assert (ASKED.name, ASKED.spec.shape) == (STORE_TYPES, (3, 3))
    assert ASKED.parameters == {"store_types": [*KINDS]}
    for names in ((), ("city",), ("city", "city")):
        with pytest.raises(InputError, match="two kinds of stores"):
            StoreTypes(CATALOGUE, names)


def factors(sums: np.ndarray, noise_stddev: float = 1e-3) -> StoreFactors:
    return StoreFactors.of(sums.astype(np.float32), dict(ASKED.parameters), noise_stddev)


def test_a_category_that_one_kind_sells_more_of_is_raised_there() -> None:
    sums = np.full((3, 3), 100.0)
    sums[1] = (200, 50, 50)
    found = factors(sums)
    city, hyper = found.factor("city"), found.factor("hypermarket")
    assert city is not None
    assert hyper is not None
    assert city[1] > 1.3 > 1 > hyper[1]
    assert (city[[0, 2]] < 1).all()
    assert found.factor("airport") is None
    assert found.factor(None) is None
    # Where all may be noise, nothing is said.
    (nothing,) = {tuple(factors(sums, 1e6).factor("city").tolist())}  # type: ignore[union-attr]
    assert nothing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("stated", [None, "city", ["city"], [*KINDS, "more"]])
def test_malformed_parameters_are_refused(stated: object) -> None:
    with pytest.raises(InputError, match="malformed"):
        StoreFactors.of(np.ones((3, 3), dtype=np.float32), {"store_types": stated}, 1.0)  # type: ignore[dict-item]


def test_a_scene_multiplies_what_is_known_of_it() -> None:
    sums = np.full((3, 3), 100.0)
    sums[1] = (200, 50, 50)
    stores = factors(sums)
    known = replace(LocalReleases.none(), stores=stores)
    of_city = stores.factor("city")
    assert of_city is not None
    for scene in (Scene(store_type="city"), Scene("noon", 3, "city")):
        np.testing.assert_allclose(known.scene_factor(scene), of_city)
    for scene in (Scene(), Scene("noon", 3), Scene(store_type="airport")):
        assert known.scene_factor(scene) is None
