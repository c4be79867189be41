"""What a customer adds to each statistic: against a plain count, and by her own purchases alone."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.assembly import MS_PER_WEEK
from client.data.transactions import Purchases
from client.recommend.local_statistics import (
    MOST_PAIRED_ITEMS,
    AlsoBought,
    Clock,
    RegionalBias,
    Scenes,
)
from client.training.bounded_sums import Contributions, Statistic, bounded_sum
from client.training.rows import popularity_values
from common.catalogue import Catalogue
from common.errors import InputError
from common.item_pairs import symmetric
from tests.support.preference_data import dataset_of

N_ITEMS = 12
DAYPARTS = {"morning": (6, 11), "noon": (11, 14), "late": (20, 6)}
START_MS, END_MS = 1_704_067_200_000, 1_704_067_200_000 + 20 * MS_PER_WEEK
VOCABULARY = np.array([7, 2, 9, 0, 5], dtype=np.int64)
CATALOGUE = Catalogue.of(
    [f"item-{number}" for number in range(N_ITEMS)],
    category=[f"category-{number % 3}" for number in range(N_ITEMS)],
)

Bought = list[tuple[int, int, int]]
BOUGHT = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, N_ITEMS - 1), st.integers(START_MS, END_MS - 1)),
    max_size=30,
)


def purchases_of(bought: Bought) -> Purchases:
    return Purchases(
        tuple(f"customer-{number}" for number in range(4)),
        np.array([each[0] for each in bought], dtype=np.int32),
        np.array([each[1] for each in bought], dtype=np.int32),
        np.array([each[2] for each in bought], dtype=np.int64),
    )


def table(given_: Contributions, size: int) -> np.ndarray:
    """float64[4, n]: what each customer adds."""
    found = np.zeros((4, size))
    np.add.at(found, (given_.owner, given_.place), given_.value)
    return found


SCENES = Scenes.of(CATALOGUE, Clock(DAYPARTS, "America/New_York"))
BIAS = RegionalBias(VOCABULARY, N_ITEMS, "m" * 64, START_MS, END_MS)
PAIRS = AlsoBought(VOCABULARY, N_ITEMS, "m" * 64, START_MS, END_MS)


@settings(max_examples=30)
@given(BOUGHT)
def test_scenes_count_each_purchase_by_part_of_the_day_and_by_weekday(bought: Bought) -> None:
    found = table(SCENES.contributions(purchases_of(bought)), int(np.prod(SCENES.spec.shape)))
    expected = np.zeros((4, *SCENES.spec.shape))
    for customer, item, time_ms in bought:
        local = datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(ZoneInfo("America/New_York"))
        category = int(CATALOGUE.category[item])
        expected[customer, category, len(DAYPARTS) + local.weekday()] += 1
        hour = local.hour
        if 6 <= hour < 11:
            expected[customer, category, 0] += 1
        elif 11 <= hour < 14:
            expected[customer, category, 1] += 1
        elif hour >= 20 or hour < 6:
            expected[customer, category, 2] += 1
    np.testing.assert_array_equal(found, expected.reshape(4, -1))


@settings(max_examples=30)
@given(BOUGHT)
def test_pairs_are_of_the_distinct_items_of_the_vocabulary(bought: Bought) -> None:
    found = table(PAIRS.contributions(purchases_of(bought)), PAIRS.spec.shape[0])
    for customer in range(4):
        square = symmetric(found[customer], len(VOCABULARY))
        own = {item for who, item, _ in bought if who == customer}
        expected = np.zeros_like(square)
        for one, other in combinations(range(len(VOCABULARY)), 2):
            if {int(VOCABULARY[one]), int(VOCABULARY[other])} <= own:
                expected[one, other] = expected[other, one] = 1
        np.testing.assert_array_equal(square, expected)


def test_pairs_of_who_bought_very_much_are_of_what_she_bought_most() -> None:
    many = MOST_PAIRED_ITEMS + 10
    bought = [(0, item, START_MS) for item in range(many)]
    bought += [(0, item, START_MS + 1) for item in range(10, many)]
    wide = AlsoBought(np.arange(many), many, "m" * 64, START_MS, END_MS)
    given_ = wide.contributions(purchases_of(bought))
    square = symmetric(np.bincount(given_.place, minlength=wide.spec.shape[0]), many)
    assert len(given_.place) == MOST_PAIRED_ITEMS * (MOST_PAIRED_ITEMS - 1) // 2
    assert np.flatnonzero(square.any(axis=0)).tolist() == list(range(10, many))


@settings(max_examples=30)
@given(BOUGHT)
def test_the_regional_bias_takes_the_popularity_row_of_training(bought: Bought) -> None:
    found = table(BIAS.contributions(purchases_of(bought)), len(VOCABULARY))
    by_customer: dict[str, dict[int, list[float]]] = {}
    for customer, item, time_ms in bought:
        own = by_customer.setdefault(f"customer-{customer}", {})
        own.setdefault(item, []).append((END_MS - time_ms) / MS_PER_WEEK)
    rows = dataset_of(by_customer, N_ITEMS, start_ms=START_MS, end_ms=END_MS)
    whole = np.zeros((4, N_ITEMS))
    customers = np.array([int(sid.removeprefix("customer-")) for sid in rows.sids], dtype=int)
    owner = np.repeat(customers, np.diff(rows.indptr))
    whole[owner, rows.indices] = popularity_values(rows)
    np.testing.assert_allclose(found, whole[:, VOCABULARY])


@settings(max_examples=30)
@given(BOUGHT, st.sampled_from([SCENES, BIAS, PAIRS]))
def test_what_a_customer_adds_depends_on_nobody_else(bought: Bought, statistic: Statistic) -> None:
    size = int(np.prod(statistic.spec.shape))
    together = table(statistic.contributions(purchases_of(bought)), size)
    for customer in range(4):
        own = [each for each in bought if each[0] == customer]
        alone = table(statistic.contributions(purchases_of(own)), size)
        np.testing.assert_allclose(together[customer], alone[customer])
        assert not np.delete(alone, customer, axis=0).any()


@settings(max_examples=30)
@given(BOUGHT, st.sampled_from([SCENES, BIAS, PAIRS]))
def test_the_bounded_sum_is_at_most_the_number_of_customers(
    bought: Bought, statistic: Statistic
) -> None:
    total = bounded_sum(
        [purchases_of(bought)], statistic, start_ms=START_MS, end_ms=END_MS, clipping_norm=1.0
    )
    assert float(np.linalg.norm(total)) <= len({each[0] for each in bought})


def test_a_clock_reads_back_and_refuses_what_overlaps() -> None:
    clock = Clock(DAYPARTS, "Europe/Berlin")
    assert Clock.from_record(clock.to_record()) == clock
    for parts in ({}, {"a": (6, 12), "b": (11, 14)}, {"a": (20, 6), "b": (5, 6)}):
        with pytest.raises(InputError, match="overlap"):
            Clock(parts, "UTC")
    for zone in ("Nowhere/Land", "../etc/passwd", ""):
        with pytest.raises(InputError, match="no time zone"):
            Clock(DAYPARTS, zone)
    with pytest.raises(InputError, match="malformed"):
        Clock.from_record({"dayparts": [{"name": "morning"}], "zone": "UTC"})
