from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given, settings
from hypothesis import strategies as st

from common.aggregation_rules import Aggregation, RuleName, least_regions
from common.errors import FormatError, InputError
from common.parameters import ArraySpec
from common.plan import RunPlan
from common.plan_defaults import default_plan
from server.robust import (
    RobustAggregator,
    RobustTotal,
    krum_choice,
    squared_distances,
    total_of,
)
from server.robust_noise import noise_gain, unguarded
from tests.common.test_plan import ARGUMENTS

SPECS = (ArraySpec("a", "<f4", (3,)), ArraySpec("b", "<f4", (2, 2)))
ROBUST: tuple[RuleName, ...] = ("median", "trimmed-mean", "krum")
Update = dict[str, np.ndarray]


def aggregation(rule: RuleName, tolerated: int = 1) -> Aggregation:
    return Aggregation(rule=rule, tolerated=tolerated, honest_survivors_min=0)


def update_of(values: Sequence[float]) -> Update:
    array = np.array(values, dtype=np.float32)
    return {"a": array[:3], "b": array[3:].reshape(2, 2)}


def aggregated(
    rule: RuleName, updates: Mapping[str, Update], tolerated: int = 1
) -> tuple[RobustTotal, list[float]]:
    """The total, and its values one after the other."""
    aggregator = RobustAggregator(SPECS, aggregation(rule, tolerated))
    for region, update in updates.items():
        aggregator.add(region, update)
    total = aggregator.total()
    return total, [float(x) for name in ("a", "b") for x in total.values(name).ravel()]


def oracle(rule: str, rows: list[list[float]], tolerated: int) -> list[float]:
    """The rules by their definitions, in plain Python: n times the location."""
    n = len(rows)
    columns = [sorted(column) for column in zip(*rows, strict=True)]
    if rule == "median":
        return [n * median(column) for column in columns]
    if rule == "trimmed-mean":
        return [n * fmean(column[tolerated : n - tolerated]) for column in columns]

    def score(i: int) -> float:
        others = [
            sum((x - y) ** 2 for x, y in zip(rows[i], rows[j], strict=True))
            for j in range(n)
            if j != i
        ]
        return sum(sorted(others)[: n - tolerated - 2])

    return [n * x for x in rows[min(range(n), key=score)]]


# Whole numbers, so that sums of squares have no rounding and ties are ties in both.
ROWS = st.integers(min_value=1, max_value=2).flatmap(
    lambda tolerated: st.tuples(
        st.just(tolerated),
        st.lists(
            st.lists(st.integers(-50, 50), min_size=7, max_size=7),
            min_size=2 * tolerated + 3,
            max_size=12,
        ),
    )
)


@pytest.mark.parametrize("rule", ROBUST)
@given(case=ROWS)
@settings(max_examples=60, deadline=None)
def test_every_rule_is_what_its_paper_says(rule: RuleName, case: tuple[int, Any]) -> None:
    tolerated, rows = case
    rows = [[float(x) for x in row] for row in rows]
    updates = {f"r{number:02d}": update_of(row) for number, row in enumerate(rows)}
    _, found = aggregated(rule, updates, tolerated)
    assert found == pytest.approx(oracle(rule, rows, tolerated), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("rule", ROBUST)
@given(case=ROWS, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_order_of_arrival_says_nothing(
    rule: RuleName, case: tuple[int, Any], seed: int
) -> None:
    tolerated, rows = case
    updates = {f"r{number:02d}": update_of(row) for number, row in enumerate(rows)}
    names = np.random.default_rng(seed).permutation(list(updates))
    _, one = aggregated(rule, updates, tolerated)
    _, other = aggregated(rule, {str(name): updates[name] for name in names}, tolerated)
    assert one == other


@pytest.mark.parametrize("rule", ROBUST)
@given(
    tolerated=st.integers(1, 3),
    more=st.integers(0, 4),
    size=st.floats(1.0, 1e30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_hostile_updates_move_no_coordinate_beyond_the_honest(
    rule: RuleName, tolerated: int, more: int, size: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    n_honest = least_regions(rule, tolerated) - tolerated + more
    honest = [update_of(generator.normal(size=7)) for _ in range(n_honest)]
    hostile = [update_of(size * generator.choice([-1.0, 1.0], 7)) for _ in range(tolerated)]
    updates = {f"r{n}": each for n, each in enumerate([*hostile, *honest])}
    total, _ = aggregated(rule, updates, tolerated)
    if rule == "krum" and size < 100.0:
        return  # Near the honest ones, a hostile update may be chosen; what that can do is bounded.
    for name in ("a", "b"):
        location = total.values(name) / total.n_regions
        values = np.stack([each[name] for each in honest])
        assert (location >= values.min(axis=0) - 1e-6).all()
        assert (location <= values.max(axis=0) + 1e-6).all()


def test_the_sum_has_no_such_bound() -> None:
    updates = [update_of([1.0] * 7)] * 4 + [update_of([1e6] * 7)]
    summed = total_of(updates, aggregation_of_sum()).values("a")
    assert (summed > 1e6).all()
    for rule in ROBUST:
        assert total_of(updates, aggregation(rule)).values("a").tolist() == [5.0] * 3


def aggregation_of_sum() -> Aggregation:
    return Aggregation(rule="sum", tolerated=0, honest_survivors_min=0)


@pytest.mark.parametrize("rule", ROBUST)
def test_too_few_updates_give_no_total(rule: RuleName) -> None:
    needed = least_regions(rule, 2)
    aggregator = RobustAggregator(SPECS, aggregation(rule, 2))
    for number in range(needed - 1):
        aggregator.add(f"r{number}", update_of([number] * 7))
    with pytest.raises(InputError, match=f"needs {needed} updates"):
        aggregator.total()
    aggregator.add("last", update_of([0.0] * 7))
    assert aggregator.total().n_regions == needed


def test_what_is_no_update_of_the_round_is_refused() -> None:
    aggregator = RobustAggregator(SPECS, aggregation("median"))
    aggregator.add("r1", update_of([0.0] * 7))
    with pytest.raises(InputError, match="r1 is among"):
        aggregator.add("r1", update_of([1.0] * 7))
    with pytest.raises(FormatError, match="r2 has other arrays"):
        aggregator.add("r2", {"a": np.zeros(3, np.float32)})
    with pytest.raises(FormatError, match="r2 has other arrays"):
        # It would broadcast.
        aggregator.add("r2", {"a": np.zeros(1, np.float32), "b": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match="not a robust one"):
        RobustAggregator(SPECS, aggregation_of_sum())
    with pytest.raises(FormatError, match="no c"):
        total_of([update_of([0.0] * 7)] * 3, aggregation("median")).values("c")


def test_arrays_longer_than_a_piece_are_whole() -> None:
    generator = np.random.default_rng(5)
    updates = [
        {"x": generator.normal(size=150_001).astype(np.float32).astype(np.float64)}
        for _ in range(5)
    ]
    values = np.stack([each["x"] for each in updates])
    total = total_of(updates, aggregation("median"))
    assert np.array_equal(total.values("x"), 5 * np.median(values, axis=0))
    chosen = total_of(updates, aggregation("krum")).values("x") / 5
    assert any(np.array_equal(chosen, each["x"]) for each in updates)
    exact = ((values[:, None, :] - values[None, :, :]) ** 2).sum(axis=2)
    assert squared_distances(updates) == pytest.approx(exact)


def test_krum_judges_an_update_by_all_its_arrays_together() -> None:
    # By the array a alone the first would be chosen.
    rows = [[0.0] * 3 + [90.0] * 4, *([[x] * 7 for x in (1.0, 1.1, 1.25, 1.5)])]
    _, found = aggregated("krum", {f"r{n}": update_of(row) for n, row in enumerate(rows)})
    assert found == pytest.approx([5 * 1.1] * 7)


def test_flowers_trimmed_mean_trims_nothing_of_one_in_forty_nine() -> None:
    """Why a quarter is added to f: Flower cuts off n·(f/n), rounded down."""
    values = np.zeros((49, 1))
    values[0] = 49.0
    assert float(trim_mean(values, 1 / 49)[0]) == 1.0
    updates = [{"x": row} for row in values]
    assert total_of(updates, aggregation("trimmed-mean")).values("x").tolist() == [0.0]


@pytest.mark.parametrize("tolerated", range(1, 40))
def test_the_trimmed_mean_trims_exactly_f(tolerated: int) -> None:
    for n in {2 * tolerated + 1, 2 * tolerated + 2, 49, 98, 103, 107}:
        if n <= 2 * tolerated:
            continue
        values = [{"x": np.array([float(2**40 if k < tolerated else k)])} for k in range(n)]
        rows = sorted(float(each["x"][0]) for each in values)
        expected = n * fmean(rows[tolerated : n - tolerated])
        found = total_of(values, aggregation("trimmed-mean", tolerated)).values("x")
        assert float(found[0]) == pytest.approx(expected, rel=1e-12)


def test_flowers_krum_agrees_where_32_bits_hold_the_distances_and_not_beyond() -> None:
    generator = np.random.default_rng(3)
    near = [update_of(generator.normal(size=7)) for _ in range(7)]
    assert np.array_equal(by_flower(near)["a"], by_ours(near)["a"])
    # The same updates, far from the origin: their distances are the same, Flower's are 0 or worse.
    far = [{"a": np.array([4096.0 + k / 8, 0, 0], np.float32)} for k in (0, 1, 2, 3, 4, 40, 9)]
    assert by_ours(far)["a"][0] == 4096.25
    rows = np.stack([each["a"] for each in far])
    cancelled = (rows**2).sum(1)[:, None] + (rows**2).sum(1)[None, :] - 2 * rows @ rows.T
    assert not np.allclose(cancelled, squared_distances(far), atol=0.5)


def by_flower(updates: list[Update]) -> Update:
    contents = [
        RecordDict({"arrays": ArrayRecord({n: Array(x) for n, x in each.items()})})
        for each in updates
    ]
    (chosen,) = select_multikrum(contents, num_malicious_nodes=1, num_nodes_to_select=1)
    return {name: array.numpy() for name, array in chosen.array_records["arrays"].items()}


def by_ours(updates: list[Update]) -> Update:
    return updates[krum_choice(squared_distances(updates), 1)]


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("n_regions", [5, 8])
def test_the_noise_that_is_left_is_as_stated(rule: RuleName, n_regions: int) -> None:
    generator = np.random.default_rng(7)
    # 200,000 coordinates of noise alone; Krum picks one of the regions.
    updates = [{"x": generator.normal(size=200_000)} for _ in range(n_regions)]
    total = total_of(updates, aggregation(rule))
    assert float(total.values("x").std()) == pytest.approx(total.noise_gain, rel=0.01)
    assert total.noise_gain == noise_gain(aggregation(rule), n_regions)
    # A sum's noise is less: what robustness costs.
    assert total.noise_gain > total_of(updates, aggregation_of_sum()).noise_gain


def test_one_regions_release_alone_is_itself_under_every_rule() -> None:
    alone = {"x": np.array([1.0, 2.0])}
    for rule in ROBUST:
        assert total_of([alone], aggregation(rule)).values("x").tolist() == [1.0, 2.0]
        assert noise_gain(aggregation(rule), 1) == 1.0


def krum_plan(**changes: Any) -> RunPlan:
    return default_plan(
        **{
            **ARGUMENTS,
            "regions": [f"r{n}" for n in range(8)],
            "quorum": 7,
            "rule": "krum",
            "tolerated": 1,
            **changes,
        }
    )


def test_a_plan_says_where_krum_is_not_guarded() -> None:
    # 92,258 numbers with noise each, of 300 customers in a region.
    said = unguarded(krum_plan())
    assert said is not None
    assert "noise of popularity outweighs" in said
    # 400 items of 10 million customers in a region: nothing hides in the noise.
    assert unguarded(krum_plan(n_items=400, planned_customers=80_000_000)) is None
    for rule in ("median", "trimmed-mean"):
        assert unguarded(krum_plan(rule=rule)) is None
    assert unguarded(krum_plan(rule="sum", tolerated=0)) is None


def test_krums_condition_is_the_papers() -> None:
    """η(8, 1)² = 2·(7 + (5 + 6)/4): the least planned size at which nothing is said any more."""
    plan = krum_plan(n_items=400, strategy="factors", planned_customers=10_000)
    popularity, factors = plan.mechanisms
    eta = (2 * (7 + 11 / 4)) ** 0.5
    specs = plan.vocabulary_size * plan.rank
    needed = max(
        8 * eta * popularity.noise_stddev * 400**0.5,
        8 * eta * factors.noise_stddev * specs**0.5 / float(factors.clipping_norm),
    )
    record: dict[str, Any] = plan.to_record()
    below = RunPlan.from_record({**record, "planned_customers": int(needed) - 1})
    above = RunPlan.from_record({**record, "planned_customers": int(needed) + 2})
    assert unguarded(below) is not None
    assert unguarded(above) is None


def test_of_two_that_krum_cannot_tell_apart_the_first_region_counts() -> None:
    places = {"r1": -2.0, "r2": -1.0, "r3": 1.0, "r4": 2.0, "r5": 50.0}
    for names in (list(places), list(reversed(places))):
        _, found = aggregated("krum", {name: update_of([places[name]] * 7) for name in names})
        assert found == [5 * -1.0] * 7
