"""A policy's numbers have one written form; what may be made of updates is within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.engine.policy import read_policy
from common import canonical_json
from common.aggregation_rules import RuleName
from common.errors import InputError, PolicyError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from tests.common.test_plan import ARGUMENTS

POLICY = {
    "region": "region-1",
    "purpose": "fedpref:FederatedTraining",
    "epsilon_cap_per_year": "8",
    "delta_max": "1e-06",
    "noise_multiplier_min": "0.1",
    "clipping_norm_max": "1",
    "rounds_max": 64,
    "quorum_min": 2,
    "quality_threshold": "0.98",
    "consent_age_max_s": 600,
    "withdrawal_in_round": "finish",
    "notice_grace_s": 0,
    "modes": ["local"],
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "policy.json"
    path.write_bytes(canonical_json.encode({**POLICY, **changes}))  # type: ignore[dict-item]
    return path


def test_a_policy_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path)).to_record() == POLICY


@pytest.mark.parametrize(
    "number",
    ["1_000", " 1", "1 ", "+1", "01", "٣", ".5", "1.", "0", "-1", "NaN", "Infinity", "1e400", ""],
)
def test_a_number_in_another_form_or_range_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(InputError, match="epsilon_cap_per_year"):
        read_policy(write(tmp_path, epsilon_cap_per_year=number))


@pytest.mark.parametrize(
    ("field", "value"),
    [("notice_grace_s", -1), ("withdrawal_in_round", "ignore"), ("notice_grace_s", True)],
)
def test_the_new_fields_have_their_ranges(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))


def plan_by(rule: RuleName, **changes: Any) -> RunPlan:
    tolerated = int(rule in ("median", "trimmed-mean", "krum"))
    arguments = {**ARGUMENTS, "quorum": 5, "rule": rule, "tolerated": tolerated, **changes}
    return default_plan(**arguments)


RULES: tuple[tuple[RuleName, str], ...] = (
    ("sum", "open"),
    ("median", "robust"),
    ("trimmed-mean", "robust"),
    ("krum", "robust"),
    ("secure-sum", "confidential"),
)


@pytest.mark.parametrize(("rule", "name"), RULES)
def test_a_policy_says_what_may_be_made_of_updates(
    tmp_path: Path, rule: RuleName, name: str
) -> None:
    plan = plan_by(rule)
    read_policy(write(tmp_path)).check_plan(plan)
    read_policy(write(tmp_path, aggregations=[name])).check_plan(plan)
    others = [each for each in ("open", "robust", "confidential") if each != name]
    with pytest.raises(PolicyError, match=f"aggregation = {name}; it allows {', '.join(others)}"):
        read_policy(write(tmp_path, aggregations=others)).check_plan(plan)


def test_a_policy_says_whose_noise_may_protect(tmp_path: Path) -> None:
    shared = plan_by("secure-sum", mode="distributed", honest_survivors_min=5)
    with pytest.raises(PolicyError, match="mode = distributed; it allows local"):
        read_policy(write(tmp_path)).check_plan(shared)
    with pytest.raises(PolicyError, match="mode = local; it allows distributed"):
        read_policy(write(tmp_path, modes=["distributed"])).check_plan(plan_by("secure-sum"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modes", []),
        ("modes", ["central"]),
        ("aggregations", []),
        ("aggregations", ["sum"]),
        ("aggregations", "open"),
    ],
)
def test_a_policy_of_no_or_unknown_words_is_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))
