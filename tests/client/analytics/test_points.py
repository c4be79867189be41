"""Customers as points: each measure, its bounds, and what k-means makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.analytics.points import points_of, purchase_clusters
from client.analytics.purchases import PurchaseStatistic
from client.data.transactions import Purchases
from client.recommend.local_statistics import Clock
from client.training.bounded_sums import bounded_sum
from common.analytics.coordinates import (
    CATEGORY,
    MEASURES,
    Coordinate,
    default_bounds,
)
from common.analytics.purchase_questions import CLUSTERS
from common.canonical_json import encode
from common.catalogue import Catalogue
from common.errors import InputError
from tests.support.made_clusters import made_clusters

DAY_MS = 86_400_000
DAYS = 365
END_MS = DAYS * DAY_MS
CATALOGUE = Catalogue.of([f"item-{n}" for n in range(6)], category=[f"c{n % 3}" for n in range(6)])
CLOCK = Clock({"day": (6, 18), "night": (18, 6)}, "UTC")


def purchases(*rows: tuple[int, int, float]) -> Purchases:
    """Of rows of customer, item and day since the epoch."""
    owner, item, day = (np.array(column) for column in zip(*rows, strict=True))
    names = tuple(f"{n:04d}" for n in range(int(owner.max()) + 1))
    return Purchases(
        names,
        owner.astype(np.int32),
        item.astype(np.int32),
        (day * DAY_MS).astype(np.int64),
    )


def wide(measure: str) -> Coordinate:
    """A measure that is not limited, evenly spaced."""
    category = "c1" if measure == CATEGORY else ""
    return Coordinate(measure, 0.0, 1e6, "linear", category)


def measured(given: Purchases, measure: str) -> list[float]:
    coordinate = wide(measure)
    _, points = points_of(given, [coordinate], CATALOGUE, CLOCK, end_ms=END_MS)
    found: list[float] = np.round(coordinate.number(points[:, 0]), 6).tolist()
    return found


# Day 2 of the epoch was a Saturday, day 4 a Monday.
TWO = purchases((0, 0, 2.5), (0, 1, 2.6), (0, 1, 4.25), (0, 4, 361.0), (1, 3, 100.0))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("recency", [4.0, 265.0]),
        ("tenure", [362.5, 265.0]),
        ("frequency", [3.0, 1.0]),
        ("basket", [4 / 3, 1.0]),
        ("variety", [2.0, 1.0]),
        ("weekend", [50.0, 100.0]),
        ("category", [75.0, 0.0]),
    ],
)
def test_each_measure_is_what_it_says(measure: str, expected: list[float]) -> None:
    assert measured(TWO, measure) == pytest.approx(expected, abs=1e-4)


def test_every_measure_is_measured() -> None:
    for measure in MEASURES:
        assert len(measured(TWO, measure)) == 2


def test_weekends_are_those_of_the_regions_own_time() -> None:
    # Friday at 23:30 UTC is Saturday in Berlin.
    friday = purchases((0, 0, 1 + 23.5 / 24))
    for zone, share in (("UTC", 0.0), ("Europe/Berlin", 100.0)):
        clock = Clock({"day": (0, 24)}, zone)
        _, points = points_of(friday, [wide("weekend")], CATALOGUE, clock, end_ms=END_MS)
        assert wide("weekend").number(points[:, 0]) == pytest.approx([share])


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.floats(0, DAYS - 1)), min_size=1, max_size=40
)


@settings(max_examples=25)
@given(rows=ROWS)
def test_a_point_depends_on_her_own_purchases_and_is_inside(
    rows: list[tuple[int, int, float]],
) -> None:
    coordinates = [
        Coordinate(name, *default_bounds(name, days=DAYS, categories=3), "c1" * (name == CATEGORY))
        for name in MEASURES
    ]
    names, points = points_of(purchases(*rows), coordinates, CATALOGUE, CLOCK, end_ms=END_MS)
    assert names.tolist() == sorted({row[0] for row in rows})
    assert (np.abs(points) <= 1).all()
    for name, point in zip(names.tolist(), points, strict=True):
        alone = purchases(*(row for row in rows if row[0] == name))
        _, own = points_of(alone, coordinates, CATALOGUE, CLOCK, end_ms=END_MS)
        np.testing.assert_array_equal(own[0], point)


def summed(statistic: PurchaseStatistic, given: Purchases) -> np.ndarray:
    return bounded_sum([given], statistic, start_ms=0, end_ms=END_MS, clipping_norm=1.0)


def statistic_of(question: object) -> PurchaseStatistic:
    return purchase_clusters(question, CATALOGUE, CLOCK, end_ms=END_MS)  # type: ignore[arg-type]


def test_clusters_find_those_who_are_there() -> None:
    frequent = [(n, 0, 360 - day / 2) for n in range(50) for day in range(0, 120, 2)]
    lapsed = [(50 + n, 0, 20.0 + n / 100) for n in range(50)]
    given = purchases(*frequent, *lapsed)
    question = made_clusters(CLUSTERS, [[-0.2, 0.2], [0.2, -0.2]])
    for _ in range(3):
        question = question.moved(summed(statistic_of(question), given), 0.0)
    near, far = question.centres.tolist()
    assert near[0] < -0.3
    assert near[1] > 0.5
    assert far[0] > 0.9
    assert far[1] == pytest.approx(-1.0)


def test_nobody_is_zeros_before_noise() -> None:
    nobody = Purchases((), *(np.zeros(0, dtype=kind) for kind in (np.int32, np.int32, np.int64)))
    question = made_clusters(CLUSTERS, np.zeros((2, 3)))
    assert not summed(statistic_of(question), nobody).any()


def test_what_rows_depend_on_is_stated_and_canonical() -> None:
    plain = statistic_of(made_clusters(CLUSTERS, np.zeros((2, 2)))).parameters
    clocked = statistic_of(made_clusters(CLUSTERS, np.zeros((2, 3)))).parameters
    assert "clock" not in plain
    assert clocked["clock"] == CLOCK.to_record()
    assert plain["end_ms"] == END_MS
    assert len(encode(clocked)) < 4096


def test_other_questions_and_unknown_categories_are_refused() -> None:
    with pytest.raises(InputError, match="purchase-clusters"):
        statistic_of(made_clusters("other", np.zeros((2, 2))))
    with pytest.raises(InputError, match="no category 'category-0'"):
        statistic_of(made_clusters(CLUSTERS, np.zeros((2, 1)), first=3))
