from __future__ import annotations

import math
from typing import Any

import pytest

from common import canonical_json
from common.errors import FormatError, InputError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import epsilon, epsilon_gaussian, total_noise_multiplier
from tests.support.shared_plan import shared_plan

ARGUMENTS: dict[str, Any] = {
    "run_id": "retail-5-20250101-000000-abc123",
    "federation": "retail-5.example",
    "scenario": "retail-5",
    "regions": [f"region-{number}" for number in range(1, 6)],
    "quorum": 3,
    "catalogue": "c" * 64,
    "n_items": 92_258,
    "train_from": "2016-12-26T05:00:00.000Z",
    "train_until": "2017-11-27T05:00:00.000Z",
    "epsilon": "8",
    "planned_customers": 2500,
}
PLAN = default_plan(**ARGUMENTS)


def changed(**fields: Any) -> dict[str, Any]:
    return {**PLAN.to_record(), **fields}


def test_a_record_round_trips_and_is_canonical() -> None:
    data = canonical_json.encode(PLAN.to_record())
    again = RunPlan.from_record(canonical_json.decode(data))
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert len(PLAN.digest) == 64


def test_any_change_changes_the_digest() -> None:
    digests = {
        RunPlan.from_record(changed(**change)).digest
        for change in ({}, {"init_seed": 1}, {"quorum": 2}, {"run_id": "x"}, {"purpose": "p"})
    }
    assert len(digests) == 5


@pytest.mark.parametrize("target", ["0.05", "0.5", "1", "3", "8"])
def test_noise_is_calibrated_to_epsilon_and_never_less(target: str) -> None:
    plan = default_plan(**{**ARGUMENTS, "epsilon": target})
    exact = epsilon_gaussian(total_noise_multiplier(plan.privacy_events()), 1e-6)
    assert exact <= float(target)
    assert exact == pytest.approx(float(target), rel=1e-4)
    # A ledger with the plan's ε as its cap, which reports by PLD, must be able to pay for it.
    assert epsilon(plan.privacy_events(), 1e-6) <= float(target)


def test_the_popularity_round_spends_its_share() -> None:
    popularity, factors = PLAN.mechanisms
    precision = [1 / float(m.noise_multiplier) ** 2 * len(m.rounds) for m in (popularity, factors)]
    assert precision[0] / sum(precision) == pytest.approx(float(PLAN.popularity_share), rel=1e-5)


@pytest.mark.parametrize(
    ("epsilon_text", "customers", "sizes"),
    [
        ("8", 2500, (150, 16, 4, "0.15")),
        ("3", 2500, (100, 8, 4, "0.30")),
        ("1", 2500, (100, 4, 2, "0.70")),
        ("8", 25_000, (500, 32, 4, "0.08")),
        ("8", 250_000, (1000, 64, 4, "0.08")),
        ("1", 250_000, (500, 32, 4, "0.08")),
    ],
)
def test_sizes_follow_from_signal(
    epsilon_text: str, customers: int, sizes: tuple[int, int, int, str]
) -> None:
    arguments = {**ARGUMENTS, "epsilon": epsilon_text, "planned_customers": customers}
    plan = default_plan(**arguments)
    found = (plan.vocabulary_size, plan.rank, plan.training_rounds, plan.popularity_share)
    assert found == sizes
    assert plan.total_rounds == sizes[2] + 1


def test_a_robust_plan_has_no_more_factors_than_withstand_a_hostile_region() -> None:
    found = [
        default_plan(**{**ARGUMENTS, "rule": rule, "tolerated": tolerated}).rank
        for rule, tolerated in (("sum", 0), ("median", 1), ("trimmed-mean", 1))
    ]
    assert found == [16, 12, 12]


def test_a_small_catalogue_bounds_the_sizes() -> None:
    plan = default_plan(**{**ARGUMENTS, "n_items": 3})
    assert (plan.vocabulary_size, plan.rank) == (3, 3)


def test_what_is_exchanged_follows_from_the_plan() -> None:
    (popularity,) = PLAN.released_arrays("popularity")
    (gradient,) = PLAN.released_arrays("factors")
    assert (popularity.name, popularity.dtype, popularity.shape) == ("popularity", "<f4", (92_258,))
    assert (gradient.name, gradient.dtype, gradient.shape) == ("factor_gradient", "<f4", (150, 16))
    assert PLAN.model_arrays(1) == ()
    names = [spec.name for spec in PLAN.model_arrays(2)]
    assert names == ["item_factors", "item_weights", "popularity", "vocabulary"]
    assert PLAN.mechanism_of(1).name == "popularity"
    assert [PLAN.mechanism_of(number).name for number in (2, 5)] == ["factors"] * 2
    for outside in (0, 6):
        with pytest.raises(InputError, match="rounds 1 to 5"):
            PLAN.mechanism_of(outside)
    with pytest.raises(InputError, match="no mechanism"):
        PLAN.released_arrays("gram")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"unknown": 1}, "unknown"),
        ({"v": "fedpref-plan/2"}, "v"),
        ({"mode": "central"}, "mode"),
        ({"quorum": 6}, "quorum"),
        ({"quorum": True}, "quorum"),
        ({"quorum": "3"}, "quorum"),
        ({"regions": ["a", "a", "b"]}, "regions"),
        ({"regions": []}, "regions"),
        ({"catalogue": "C" * 64}, "catalogue"),
        ({"run_id": "a b"}, "run_id"),
        ({"run_id": "a\n"}, "run_id"),
        ({"n_items": 149}, "vocabulary"),
        ({"rank": 151}, "rank"),
        ({"training_rounds": 3}, "factors"),
        ({"train_until": "2016-01-01T00:00:00.000Z"}, "window"),
        ({"train_from": "2016-01-01"}, "train_from"),
        ({"epsilon": "NaN"}, "epsilon"),
        ({"epsilon": "-8"}, "epsilon"),
        ({"epsilon": "1e400"}, "epsilon"),
        ({"epsilon": "7.9"}, "mechanisms spend"),
        ({"delta": "0"}, "delta"),
        ({"delta": "0.5"}, "delta"),
        ({"popularity_share": "1"}, "popularity_share"),
        ({"row_exponent": "Infinity"}, "row_exponent"),
        ({"neighboring_relation": "replace-one"}, "neighboring_relation"),
        ({"privacy_unit": "purchase"}, "privacy_unit"),
        ({"mechanisms": []}, "mechanisms"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_plan_that_does_not_hold_together_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match=named):
        RunPlan.from_record(changed(**change))


@pytest.mark.parametrize("field", sorted(PLAN.to_record()))
def test_every_field_is_needed(field: str) -> None:
    record = PLAN.to_record()
    del record[field]
    with pytest.raises(FormatError, match=field):
        RunPlan.from_record(record)


def test_less_noise_than_calibrated_is_refused() -> None:
    record = PLAN.to_record()
    mechanisms: Any = record["mechanisms"]
    noise = float(mechanisms[1]["noise_multiplier"])
    mechanisms[1] = {**mechanisms[1], "noise_multiplier": str(noise * 0.99)}
    with pytest.raises(FormatError, match="more than the plan states"):
        RunPlan.from_record({**record, "mechanisms": mechanisms})


@pytest.mark.parametrize("record", [None, [], "plan", {}])
def test_something_else_is_refused(record: Any) -> None:
    with pytest.raises(FormatError):
        RunPlan.from_record(record)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PLAN.quorum = 1


@pytest.mark.parametrize(
    "change", [{"epsilon": "x"}, {"epsilon": "0"}, {"delta": "1"}, {"quorum": 9}, {"n_items": 0}]
)
def test_default_plan_names_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        default_plan(**{**ARGUMENTS, **change})


def test_stddev_is_multiplier_times_norm() -> None:
    factors = PLAN.mechanisms[1]
    expected = float(factors.noise_multiplier) * 0.2
    assert math.isclose(factors.noise_stddev, expected)
    assert factors.event.count == 4


def test_a_plan_of_gram_releases_pairs_once() -> None:
    plan = default_plan(**{**ARGUMENTS, "strategy": "gram"})
    size = plan.vocabulary_size
    (pairs,) = plan.released_arrays("gram")
    assert (pairs.name, pairs.dtype, pairs.shape) == (
        "item_gram",
        "<f4",
        (size * (size - 1) // 2,),
    )
    assert (plan.total_rounds, plan.mechanism_of(2).name) == (2, "gram")
    assert plan.model_arrays(3) == plan.model_arrays(2)
    assert plan.local_training is None
    # A row of norm 1 adds pairs of norm below √½: the clip takes nothing away.
    assert math.sqrt(0.5) <= float(plan.mechanisms[1].clipping_norm) < 0.70711
    exact = epsilon_gaussian(total_noise_multiplier(plan.privacy_events()), 1e-6)
    assert exact == pytest.approx(8, rel=1e-4)
    with pytest.raises(InputError, match="no mechanism"):
        plan.released_arrays("factors")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training_rounds": 2}, "one round after"),
        ({"vocabulary_size": 1, "rank": 1}, "within 2 and 4096"),
        ({"vocabulary_size": 4097}, "within 2 and 4096"),
        ({"strategy": "factors"}, "not factors, the strategy"),
    ],
)
def test_a_plan_of_gram_that_does_not_hold_together_is_refused(
    change: dict[str, Any], named: str
) -> None:
    record = default_plan(**{**ARGUMENTS, "strategy": "gram"}).to_record()
    with pytest.raises(FormatError, match=named):
        RunPlan.from_record({**record, **change})


def test_pairs_of_a_region_can_be_shares_of_a_sum() -> None:
    plan = shared_plan(strategy="gram")
    gram = plan.mechanisms[1]
    assert [spec.dtype for spec in plan.released_arrays("gram")] == ["<i4"]
    assert plan.shared_noise(gram).noise_multiplier >= float(gram.noise_multiplier)


def test_distributed_noise_is_for_sums_over_all_customers() -> None:
    plan = shared_plan()
    assert {spec.dtype for each in plan.mechanisms for spec in plan.released_arrays(each.name)} == {
        "<i4"
    }
    for each in plan.mechanisms:
        shared = plan.shared_noise(each)
        assert shared.shares == plan.aggregation.honest_survivors_min == 3
        assert shared.noise_multiplier >= float(each.noise_multiplier)
    with pytest.raises(InputError, match="factors and gram, not sasrec"):
        shared_plan(strategy="sasrec")


def test_a_grid_too_coarse_for_shares_of_noise_is_refused() -> None:
    record = shared_plan().to_record()
    popularity, factors = record["mechanisms"]
    record["mechanisms"] = [{**popularity, "grid_exponent": 0}, factors]
    with pytest.raises(FormatError, match="popularity: A share of"):
        RunPlan.from_record(record)
