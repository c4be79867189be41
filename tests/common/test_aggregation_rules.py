from __future__ import annotations

from typing import Any

import pytest

from common.aggregation_rules import RULES, Aggregation, least_regions
from common.errors import FormatError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from tests.common.test_plan import ARGUMENTS
from tests.support.local_plan import local_plan


def rule(name: str, tolerated: int = 0, survivors: int = 0) -> dict[str, Any]:
    return {"rule": name, "tolerated": tolerated, "honest_survivors_min": survivors}


def test_each_rule_has_one_name() -> None:
    names = {each: Aggregation(**rule(each)).name for each in RULES}
    assert names == {
        "sum": "open",
        "median": "robust",
        "trimmed-mean": "robust",
        "krum": "robust",
        "secure-sum": "confidential",
    }


def test_how_many_regions_a_rule_needs() -> None:
    # A majority in each coordinate; n > 2f + 2 for Krum; a sum of two tells either the other's.
    assert [least_regions(each, 2) for each in ("median", "trimmed-mean", "krum")] == [5, 5, 7]
    assert [least_regions(each, 0) for each in ("sum", "secure-sum")] == [1, 3]
    assert Aggregation(**rule("krum", 1)).least_regions == 5


@pytest.mark.parametrize(
    ("quorum", "mode", "aggregation"),
    [
        (1, "local", rule("sum")),
        (3, "local", rule("median", 1)),
        (5, "local", rule("trimmed-mean", 2)),
        (5, "local", rule("krum", 1)),
        (3, "local", rule("secure-sum")),
        (3, "distributed", rule("secure-sum", 0, 3)),
        (4, "distributed", rule("secure-sum", 0, 2)),
    ],
)
def test_plans_that_hold_together(quorum: int, mode: str, aggregation: dict[str, Any]) -> None:
    plan = default_plan(
        **{**ARGUMENTS, "quorum": quorum},
        mode=mode,  # type: ignore[arg-type]
        **aggregation,
    )
    record = plan.to_record()
    assert (record["mode"], record["aggregation"]) == (mode, aggregation)
    assert RunPlan.from_record(record) == plan


@pytest.mark.parametrize(
    ("quorum", "mode", "aggregation", "named"),
    [
        (3, "local", rule("sum", 1), "tolerates"),
        (3, "local", rule("median"), "tolerates"),
        (3, "local", rule("secure-sum", 1), "tolerates"),
        (2, "local", rule("median", 1), "quorum of at least 3"),
        (4, "local", rule("trimmed-mean", 2), "quorum of at least 5"),
        (4, "local", rule("krum", 1), "quorum of at least 5"),
        (2, "local", rule("secure-sum"), "quorum of at least 3"),
        (3, "local", rule("sum", 0, 2), "survivors"),
        (3, "distributed", rule("sum", 0, 2), "secure-sum"),
        (3, "distributed", rule("median", 1, 2), "secure-sum"),
        (3, "distributed", rule("secure-sum", 0, 1), "honest_survivors_min"),
        (3, "distributed", rule("secure-sum", 0, 4), "honest_survivors_min"),
        (3, "local", rule("mean"), "rule"),
        (3, "local", rule("median", -1), "tolerated"),
        (3, "local", {"rule": "sum"}, "aggregation"),
        (3, "local", {**rule("sum"), "bits": 16}, "aggregation"),
    ],
)
def test_plans_that_do_not(quorum: int, mode: str, aggregation: dict[str, Any], named: str) -> None:
    record = default_plan(**ARGUMENTS).to_record()
    record |= {"quorum": quorum, "mode": mode, "aggregation": aggregation}
    with pytest.raises(FormatError, match=named):
        RunPlan.from_record(record)


def test_the_servers_learning_rate_decays_from_the_first_round_of_training() -> None:
    schedule = {"server_learning_rate": "0.8", "server_learning_rate_decay": "0.5"}
    local = local_plan(training=schedule).local_training
    assert local is not None
    assert [local.server_learning_rate_of(number) for number in (2, 3, 4)] == [0.8, 0.4, 0.2]


@pytest.mark.parametrize(
    "stop",
    [
        {"patience_rounds": 0, "least_signal": "0.1"},
        {"patience_rounds": 1, "least_signal": "0"},
        {"patience_rounds": 1, "least_signal": "1.1"},
        {"patience_rounds": 1, "least_signal": "NaN"},
        {"patience_rounds": 1},
        {},
    ],
)
def test_an_early_stop_that_is_none_is_refused(stop: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="early_stop"):
        local_plan(early_stop=stop)


def test_a_run_of_factors_does_not_end_early() -> None:
    stop = {"patience_rounds": 2, "least_signal": "0.1"}
    assert local_plan(early_stop=stop).early_stop is not None
    record = default_plan(**ARGUMENTS).to_record()
    with pytest.raises(FormatError, match="factors does not end"):
        RunPlan.from_record({**record, "early_stop": stop})
