"""What the coordinator makes of answers: exact sums that are handed on, and what is published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common import canonical_json
from common.analytics.answers import Scope, region_array
from common.analytics.purchase_questions import CATEGORIES, CLUSTERS, SCENES
from common.catalogue import Catalogue
from common.cluster_steps import question_in_round
from common.errors import FormatError, InputError
from common.parameters import array_file_parts
from common.plan import RunPlan
from server.answers import (
    KeptAnswers,
    answer_arrays,
    answers_file,
    customers_kept,
    facts_bytes_at_most,
    head_bytes_at_most,
    publishes_regions,
    require_publishable,
    sums_after,
)
from server.audit_trail import Aggregate, UsedRound
from server.parameter_step import model_after
from server.round_total import ExactSum, RoundTotal
from server.rounds import aggregator_of
from tests.support.asked_federation import asked_plan

PLAN = asked_plan((CATEGORIES, SCENES))
GLOBAL = asked_plan((CATEGORIES, SCENES), scope="global")
FIRST = PLAN.mechanism_of(1)
ARRAY = "category_customers"


def answer(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    steps = generator.integers(-30_000, 30_000, 4)
    return {ARRAY: np.ldexp(steps.astype(np.float64), -10).astype(np.float32)}


def aggregate(number: int, regions: list[str], plan: RunPlan = PLAN) -> Aggregate:
    used = tuple(UsedRound(region, "e" * 64, "d" * 64) for region in regions)
    name = plan.mechanism_of(number).name
    return Aggregate(number, 1, name, used, (), "a" * 64, "b" * 64, "start", "end")


def test_a_sum_is_exact_in_any_order_and_each_answer_is_kept_where_it_is_published() -> None:
    answers = {f"region-{n}": answer(n) for n in (1, 2, 3)}
    exact = sum(each[ARRAY].astype(np.float64) for each in answers.values())
    for order in (sorted(answers), sorted(answers, reverse=True)):
        whole = aggregator_of(PLAN, FIRST)
        assert isinstance(whole, KeptAnswers)
        for region in order:
            whole.add(region, answers[region])
        model, moments = model_after(1, {}, whole.total(), PLAN, {})
        assert moments == {}
        np.testing.assert_array_equal(model[ARRAY], exact)
        assert model[ARRAY].dtype == np.float64
        for region, given in answers.items():
            np.testing.assert_array_equal(
                whole.kept[region_array(region, CATEGORIES)], given[ARRAY]
            )


def test_what_is_kept_is_no_view_of_what_was_received() -> None:
    whole = aggregator_of(PLAN, FIRST)
    assert isinstance(whole, KeptAnswers)
    given = answer(1)
    before = given[ARRAY].copy()
    whole.add("region-1", given)
    given[ARRAY][:] = 0
    np.testing.assert_array_equal(whole.kept["region-1/category_customers"], before)


def test_nothing_is_kept_where_sums_alone_are_published() -> None:
    assert publishes_regions(PLAN, FIRST)
    assert not publishes_regions(GLOBAL, GLOBAL.mechanism_of(1))
    assert type(aggregator_of(GLOBAL, GLOBAL.mechanism_of(1))) is ExactSum


def test_a_refused_answer_is_not_kept() -> None:
    whole = aggregator_of(PLAN, FIRST)
    assert isinstance(whole, KeptAnswers)
    with pytest.raises(FormatError):
        whole.add("region-1", {ARRAY: np.array([0.3, 0.3, 0.3, 0.3], dtype=np.float32)})
    assert whole.kept == {}


def test_sums_are_handed_on() -> None:
    whole = aggregator_of(GLOBAL, GLOBAL.mechanism_of(1))
    whole.add("region-1", answer(1))
    before = {"another": np.ones(2)}
    after = sums_after(before, whole.total(), GLOBAL, 1)
    assert set(after) == {"another", ARRAY}
    assert before.keys() == {"another"}


STEPPED = asked_plan((CATEGORIES, CLUSTERS), scope="global")


def step(number: int) -> RoundTotal:
    """The total of a round of the plan with steps: one region's answer."""
    total = aggregator_of(STEPPED, STEPPED.mechanism_of(number))
    generator = np.random.default_rng(number)
    for spec in STEPPED.released_arrays(STEPPED.mechanism_of(number).name):
        units = generator.integers(1, 30_000, spec.shape)
        values = np.ldexp(units.astype(np.float64), -10).astype(np.float32)
        total.add("region-1", {spec.name: values})
    return total.total()


def test_sums_of_steps_are_handed_on_row_by_row_and_the_last_one_is_the_answer() -> None:
    sums: Any = {}
    for number in (1, 2, 3, 4):
        sums = sums_after(sums, step(number), STEPPED, number)
        assert {name: each.shape for name, each in sums.items()} == {
            spec.name: spec.shape for spec in STEPPED.model_arrays(number + 1)
        }
    for row, number in enumerate((2, 3, 4)):
        given = step(number).values("purchase_clusters")
        np.testing.assert_array_equal(sums["purchase_clusters"][row], given)
    kept = {
        **customers_kept(CATEGORIES, {"region-1": "16-31"}),
        # Each step's take the place of those before it.
        **customers_kept(CLUSTERS, {"region-1": "16-31", "region-2": "8-15"}),
    }
    rounds = {number: aggregate(number, ["region-1"], STEPPED) for number in (1, 2, 3)}
    rounds[4] = aggregate(4, ["region-1", "region-2"], STEPPED)
    facts: Any = canonical_json.decode(answers_file(STEPPED, rounds, sums, kept))
    _, clusters = facts["answers"]
    assert (clusters["round"], clusters["regions"]) == (4, ["region-1", "region-2"])
    assert clusters["customers_at_least"] == 24
    last: Any = question_in_round(
        STEPPED, 4, {**sums, "purchase_clusters": sums["purchase_clusters"][:2]}
    )
    assert clusters["centres"] == last.centres_record
    # ε of the three steps together is that of the other question: their shares are equal.
    first, second = (float(each["epsilon"]) for each in facts["answers"])
    assert first == pytest.approx(second, abs=2e-5)
    assert len(canonical_json.encode(facts)) <= facts_bytes_at_most(STEPPED)


def test_the_facts_say_of_whom_each_answer_is() -> None:
    kept = {
        **customers_kept(CATEGORIES, {"region-2": "8-15", "region-1": "16-31"}),
        **customers_kept(SCENES, {"region-1": "16-31", "region-3": None}),
        region_array("region-1", CATEGORIES): answer(1)[ARRAY],
    }
    rounds = {
        1: aggregate(1, ["region-1", "region-2"]),
        2: aggregate(2, ["region-1", "region-3"]),
    }
    sums = {ARRAY: np.zeros(4), "purchase_scenes": np.zeros(28)}
    arrays = answer_arrays(sums, kept)
    assert set(arrays) == {*sums, "region-1/category_customers"}
    facts: Any = canonical_json.decode(answers_file(PLAN, rounds, arrays, kept))
    told = [
        (each["question"]["name"], each["scope"], each["customers_at_least"])
        for each in facts["answers"]
    ]
    assert told == [
        (CATEGORIES, "global", 24),
        (CATEGORIES, "region-1", 16),
        (CATEGORIES, "region-2", 8),
        (SCENES, "global", 17),
        (SCENES, "region-1", 16),
        (SCENES, "region-3", 1),
    ]
    assert {facts["epsilon"], facts["delta"]} == {"8", "0.000001"}


def test_a_region_may_be_called_whatever_regions_are() -> None:
    plan = asked_plan((CATEGORIES,), regions=["customers"], quorum=1)
    kept = customers_kept(CATEGORIES, {"customers": "16-31"})
    kept |= {region_array("customers", CATEGORIES): answer(1)[ARRAY]}
    arrays = answer_arrays({ARRAY: np.zeros(4)}, kept)
    assert set(arrays) == {ARRAY, "customers/category_customers"}
    facts: Any = canonical_json.decode(
        answers_file(plan, {1: aggregate(1, ["customers"])}, arrays, kept)
    )
    assert [each["customers_at_least"] for each in facts["answers"]] == [16, 16]


@pytest.mark.parametrize("scope", ["regions", "global"])
def test_how_long_the_facts_can_be_is_known_before_anybody_is_asked(scope: Scope) -> None:
    regions = [f"region-{n:03d}" for n in range(120)]
    plan = asked_plan((CATEGORIES, SCENES), regions=regions, scope=scope)
    buckets = dict.fromkeys(regions, "549755813888-1099511627775")
    kept = {**customers_kept(CATEGORIES, buckets), **customers_kept(SCENES, buckets)}
    rounds = {number: aggregate(number, regions) for number in (1, 2)}
    length = len(answers_file(plan, rounds, {}, kept))
    assert length <= facts_bytes_at_most(plan) <= 1.5 * length + 10_000
    require_publishable(plan)


def test_what_could_not_be_published_is_asked_of_nobody() -> None:
    names = [f"{n:03d} {'groceries ' * 10}" for n in range(300)]
    many = Catalogue.of([f"item-{n}" for n in range(300)], category=names)
    regions = [f"region-{n:03d}" for n in range(400)]
    require_publishable(asked_plan((CATEGORIES,), catalogue=many, regions=regions, scope="global"))
    plan = asked_plan((CATEGORIES,), catalogue=many, regions=regions)
    with pytest.raises(InputError, match="do not fit"):
        require_publishable(plan)
    # Short ones of very many regions: the file of arrays names each.
    crowd = [f"region-{n:04d}" for n in range(4_000)]
    plan = asked_plan((CATEGORIES, SCENES), regions=crowd)
    arrays = {
        region_array(each, name): np.zeros(1) for each in crowd for name in (CATEGORIES, SCENES)
    }
    head = len(array_file_parts(arrays)[1])
    assert head <= head_bytes_at_most(plan) <= 1.5 * head


def test_a_state_of_another_run_is_refused() -> None:
    kept = customers_kept(CATEGORIES, {"region-1": "16-31"})
    rounds = {1: aggregate(1, ["region-1", "region-2"]), 2: aggregate(2, ["region-1"])}
    with pytest.raises(FormatError, match="numbers of customers"):
        answers_file(PLAN, rounds, {}, kept)


def test_a_region_counts_once() -> None:
    whole = aggregator_of(PLAN, FIRST)
    whole.add("region-1", answer(1))
    with pytest.raises(InputError, match="in the sum already"):
        whole.add("region-1", answer(1))
