"""Statistics of purchases: what becomes of purchases, and what is read off the answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from client.analytics.purchases import (
    PurchaseStatistic,
    category_customers,
    category_trend,
    frequency_cuts,
    purchase_scenes,
    recency_cuts,
    repeat_purchases,
)
from client.data.transactions import Purchases
from client.recommend.local_statistics import Clock
from client.training.bounded_sums import bounded_sum
from common.analytics.cuts import Cuts
from common.analytics.estimates import Estimates
from common.analytics.purchase_questions import growing_edges
from common.canonical_json import encode
from common.catalogue import Catalogue
from common.errors import InputError

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
CATALOGUE = Catalogue.of(["a", "b", "c", "d"], category=["food", "food", "toys", "wine"])
# 1970-01-01 was a Thursday.
THURSDAY = 3


def purchases(*rows: tuple[int, int, float]) -> Purchases:
    """Purchases as (customer, item, day since the epoch)."""
    customers = max(row[0] for row in rows) + 1
    return Purchases(
        tuple(f"customer-{n}" for n in range(customers)),
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int32),
        np.array([int(row[2] * DAY_MS) for row in rows], dtype=np.int64),
    )


def summed(statistic: PurchaseStatistic, given: Purchases) -> npt.NDArray[np.float64]:
    return bounded_sum([given], statistic, start_ms=0, end_ms=365 * DAY_MS, clipping_norm=1.0)


def read(statistic: PurchaseStatistic, given: Purchases) -> Estimates:
    """What an answer without noise would say."""
    question = statistic.question
    return question.read(summed(statistic, given), 1e-9)  # type: ignore[attr-defined, no-any-return]


def test_customers_of_a_category_count_once_however_much_they_buy() -> None:
    given = purchases((0, 0, 1), (0, 0, 2), (0, 1, 3), (1, 0, 1), (1, 3, 1))
    found = read(category_customers(CATALOGUE), given)
    assert CATALOGUE.category_names == ("food", "toys", "wine")
    np.testing.assert_allclose(found.value, [2.0, 0.0, 1.0], atol=1e-4)


def test_a_trend_is_of_customers_in_two_periods() -> None:
    given = purchases((0, 0, 1), (1, 0, 1), (0, 0, 100), (2, 0, 101), (3, 0, 102), (0, 2, 1))
    statistic = category_trend(CATALOGUE, later_from_ms=50 * DAY_MS)
    found = read(statistic, given)
    np.testing.assert_allclose(found.value[:2], [0.5, -1.0], atol=1e-4)
    assert not found.known[2]


def test_scenes_are_shares_of_each_customers_own_purchases_in_local_time() -> None:
    clock = Clock({"early": (5, 8), "late": (20, 2)}, "Asia/Shanghai")
    # 22:30 UTC on Thursday is half past six on Friday there; noon there is no part of the day.
    given = purchases((0, 0, 22.5 / 24), (0, 0, 22.6 / 24), (0, 1, 13 / 24), (0, 1, 4 / 24))
    table = read(purchase_scenes(clock), given).value.reshape(2, 7)
    assert table[0, THURSDAY + 1] == pytest.approx(2 / 3, abs=1e-4)
    assert table[1, THURSDAY] == pytest.approx(1 / 3, abs=1e-4)


def test_recency_is_from_the_last_purchase_to_the_end() -> None:
    rows = [(n, 0, 364.5 - n / 4) for n in range(400)] + [(n, 0, 1.0) for n in range(400)]
    statistic = recency_cuts(window_days=365, end_ms=365 * DAY_MS)
    found = read(statistic, purchases(*rows)).value
    np.testing.assert_allclose(found, [20.5, 40.5, 60.5, 80.5], atol=1.5)


def test_frequency_is_the_number_of_days_with_purchases() -> None:
    rows = [(n, 0, day) for n in range(100) for day in range(n % 10 + 1)]
    rows += [(n, 1, 0.4) for n in range(100)]
    statistic = frequency_cuts()
    found = read(statistic, purchases(*rows)).value
    np.testing.assert_allclose(found, [2.5, 4.5, 6.5, 8.5], atol=0.3)


def test_repeats_are_purchases_on_further_days() -> None:
    given = purchases((0, 0, 1), (0, 0, 1.2), (1, 0, 1), (1, 0, 2), (2, 0, 1), (2, 0, 5), (2, 0, 9))
    found = read(repeat_purchases(stages=3), given)
    np.testing.assert_allclose(found.value, [3.0, 2.0, 1.0], atol=1e-4)


def test_a_region_without_purchases_is_zeros_before_noise_and_nothing_is_said() -> None:
    nobody = Purchases((), *(np.zeros(0, dtype=kind) for kind in (np.int32, np.int32, np.int64)))
    clock = Clock({"day": (0, 24)}, "UTC")
    for statistic in (
        category_customers(CATALOGUE),
        purchase_scenes(clock),
        recency_cuts(window_days=365, end_ms=365 * DAY_MS),
        frequency_cuts(),
        repeat_purchases(),
    ):
        assert not summed(statistic, nobody).any()
        noise = np.full(statistic.question.size, 1.0)
        noise[::2] = -1.0
        question = statistic.question
        if isinstance(question, Cuts):
            assert not question.read(noise, 5.0).known.any()
        assert question.outlook(0, 5.0).swamped


def test_what_a_query_says_of_its_parts_is_canonical_json() -> None:
    for statistic in (
        category_customers(CATALOGUE),
        category_trend(CATALOGUE, later_from_ms=5),
        purchase_scenes(Clock({"day": (6, 18)}, "UTC")),
        recency_cuts(window_days=365, end_ms=5),
        frequency_cuts(),
        repeat_purchases(),
    ):
        assert len(encode(statistic.parameters)) < 4096
        assert statistic.spec.shape == (statistic.question.size,)


@pytest.mark.parametrize(("most", "cells"), [(0.0, 10), (-1.0, 10), (5.0, 1)])
def test_cells_that_do_not_ascend_are_refused(most: float, cells: int) -> None:
    with pytest.raises(InputError, match="There are no"):
        growing_edges(most, cells)
