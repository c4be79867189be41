from __future__ import annotations

import math

import numpy as np
import pytest

from client.training.evaluation import Protocol
from common.errors import UsageError
from common.ranking import IntArray, ItemSets
from simulations.evaluation.contenders import EASE, POPULARITY, Method
from simulations.evaluation.judge import Judge, Metrics, Quality
from simulations.evaluation.protocols import Fold, Split
from simulations.evaluation.results import CONSENTED, REFUSED, Results, served_worst
from simulations.evaluation.segments import Customers
from simulations.evaluation.study import EVERYONE, WITH_REFUSALS, Cell, Measured
from tests.support.preference_data import dataset_of

N_CUSTOMERS, N_ITEMS, PLACES = 80, 30, 5
METRICS = Metrics((PLACES,))
PRIVATE = "factors/local/8"


def fold() -> Fold:
    """Two regions; a customer's history has as many items as its number says, modulo 7."""
    train, answers = {}, {}
    for place, region in enumerate(("a", "b")):
        numbers = range(place * N_CUSTOMERS // 2, (place + 1) * N_CUSTOMERS // 2)
        train[region] = dataset_of(
            {f"{n:03d}": {item: [1.0] for item in range(1 + n % 7)} for n in numbers}, N_ITEMS
        )
        bounds = np.arange(N_CUSTOMERS // 2 + 1, dtype=np.int64)
        # Each is asked for one item, but the last of each region for one that is known already.
        items = np.full(N_CUSTOMERS // 2, 20, dtype=np.int64)
        items[-1] = 0
        answers[region] = ItemSets(bounds, items, N_ITEMS)
    return Fold(train, train, answers, test_from_ms=2**45, test_until_ms=2**46)


def ranked_at(places: IntArray) -> IntArray:
    """Rankings in which item 20 is at each customer's place (beyond the end: nowhere)."""
    ranked = np.tile(np.arange(10, 10 + PLACES), (N_CUSTOMERS, 1))
    for row, place in enumerate(places):
        if place < PLACES:
            ranked[row, place] = 20
    return ranked


@pytest.fixture(scope="module")
def measured() -> Measured:
    folds = [fold()]
    judge = Judge(folds, Split.TEMPORAL, METRICS)
    generator = np.random.default_rng(3)
    numbers = np.arange(N_CUSTOMERS)
    worse_in_b = np.where(numbers < N_CUSTOMERS // 2, 0, 3)

    def quality(places: IntArray) -> Quality:
        return judge.judge(Protocol.NEW, [ranked_at(places)])

    refused = frozenset(f"{n:03d}" for n in range(0, N_CUSTOMERS, 3))
    cells = {
        Cell(EVERYONE, PRIVATE, Protocol.NEW): [
            quality(worse_in_b + generator.integers(0, 2, N_CUSTOMERS)) for _ in range(2)
        ],
        Cell(EVERYONE, POPULARITY, Protocol.NEW): [quality(np.full(N_CUSTOMERS, 4))],
        Cell(EVERYONE, EASE, Protocol.NEW): [quality(np.full(N_CUSTOMERS, 0))],
        # Those who refused get everything one place later.
        Cell(WITH_REFUSALS, PRIVATE, Protocol.NEW): [
            quality(worse_in_b + (numbers % 3 == 0)) for _ in range(2)
        ],
    }
    methods = (
        Method(PRIVATE, "factors", "private", "factors", "local", "8"),
        Method(POPULARITY, "Popularity", "reference"),
        Method(EASE, "EASE", "no-privacy"),
    )
    return Measured(methods, cells, Customers.of(folds), refused, judge, (1000.0,))


@pytest.fixture(scope="module")
def results(measured: Measured) -> Results:
    return Results(measured, n_seeds=2, replicates=300)


def gain(place: int) -> float:
    return 1 / math.log2(place + 2)


def test_a_row_has_mean_interval_and_paired_ratios(results: Results, measured: Measured) -> None:
    rows = {(r["method"], r["metric"]): r for r in results.rows() if r["setting"] == EVERYONE}
    asked = measured.judge.asked(Protocol.NEW)
    assert asked.sum() == N_CUSTOMERS - 2
    popularity = rows[POPULARITY, METRICS.main]
    assert popularity["mean"] == pytest.approx(gain(4))
    assert popularity["customers"] == N_CUSTOMERS - 2
    assert popularity["ratio_to_popularity"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    assert popularity["ratio_to_ease"]["mean"] == pytest.approx(gain(4))
    assert popularity["ratio_to_own_recent"] is None
    own = rows[PRIVATE, METRICS.main]
    assert own["ci_low"] < own["mean"] < own["ci_high"]
    assert len(own["per_seed"]) == 2
    assert np.mean(own["per_seed"]) == pytest.approx(own["mean"])
    ratio = own["ratio_to_popularity"]
    assert ratio["mean"] == pytest.approx(own["mean"] / popularity["mean"])
    assert ratio["ci_low"] < ratio["mean"] < ratio["ci_high"]
    assert rows[PRIVATE, f"hit_rate@{PLACES}"]["mean"] == 1.0
    assert rows[PRIVATE, f"coverage@{PLACES}"]["ci_low"] is None
    assert 0 < rows[PRIVATE, f"gini@{PLACES}"]["mean"] < 1
    # What nobody bought counts as bought by half a customer.
    assert rows[EASE, f"novelty@{PLACES}"]["mean"] == pytest.approx(math.log2(2 * N_CUSTOMERS))
    assert rows[EASE, f"long_tail@{PLACES}"]["mean"] == 1.0


def test_the_segment_that_is_served_worse_is_found(results: Results) -> None:
    segments = results.segments()
    kinds = {(row["segmentation"], row["segment"]) for row in segments}
    assert {kind for kind, _ in kinds} == {"region", "activity"}
    by_region = {
        row["segment"]: row
        for row in segments
        if row["method"] == PRIVATE and row["segmentation"] == "region"
    }
    assert by_region["a"]["mean"] > 1.3 * by_region["b"]["mean"]
    assert by_region["b"]["to_everybody"] < 1 < by_region["a"]["to_everybody"]
    assert by_region["a"]["customers"] == N_CUSTOMERS // 2 - 1
    worst = served_worst(segments, PRIVATE, Protocol.NEW)
    assert [row["segmentation"] for row in worst] == ["region", "activity"]
    assert worst[0]["segment"] == "b"


def test_terciles_keep_customers_with_as_many_items_together(measured: Measured) -> None:
    segments = measured.customers.segments()
    members = [own for (kind, _), own in segments.items() if kind == "activity"]
    assert np.sum(members, axis=0).tolist() == [1] * N_CUSTOMERS
    sizes = [set(measured.customers.history_sizes[own].tolist()) for own in members]
    assert not sizes[0] & sizes[1]
    assert max(sizes[0]) < min(sizes[1]) <= max(sizes[1]) < min(sizes[2])


def test_what_refusing_changes_is_told_for_both_sides(results: Results) -> None:
    rows = {row["group"]: row for row in results.refusals()}
    assert rows.keys() == {REFUSED, CONSENTED}
    change = rows[REFUSED]["difference"]
    assert change["mean"] < 0
    assert change["ci_high"] < 0
    assert change["mean"] == pytest.approx(
        rows[REFUSED]["with_refusals"] - rows[REFUSED]["everyone"]
    )
    assert rows[REFUSED]["popularity"] == pytest.approx(gain(4))
    assert rows[REFUSED]["customers"] + rows[CONSENTED]["customers"] == N_CUSTOMERS - 2


def test_a_segment_of_few_customers_has_no_figure(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.evaluation.results._LEAST_CUSTOMERS", 30)
    segments = Results(measured, n_seeds=2, replicates=50).segments()
    assert all(row["customers"] >= 30 for row in segments)
    assert {row["segmentation"] for row in segments} >= {"region"}


@pytest.mark.parametrize("places", [(), (0,), (5, 101)])
def test_places_out_of_range_are_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="places of metrics"):
        Metrics(places)
    assert Metrics((20, 10, 20)).places == (10, 20)
