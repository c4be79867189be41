"""A policy's numbers have one written form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.engine.policy import RegionPolicy, read_policy, require_logged
from client.engine.spending import EpsilonCaps
from common import canonical_json
from common.aggregation_rules import RuleName
from common.errors import InputError, PolicyError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from tests.common.test_plan import ARGUMENTS
from tests.support.local_plan import local_plan
from tests.support.preference_data import plan_of

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


@pytest.mark.parametrize("field", ["epsilon_caps_per_model", "epsilon_caps_per_purpose"])
@pytest.mark.parametrize(
    "value", [{}, {"": "1"}, {"m": "0"}, {"m": "-1"}, {"m": 1}, {"m": "NaN"}, ["m"], "8"]
)
def test_a_table_of_caps_that_is_none_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """An empty one would close every budget without saying so."""
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_probability_min", "1.01"),
        ("sampling_probability_min", "0"),
        ("sampling_probability_max", "2"),
        ("sampling_probability_max", 1),
        ("steps_max", 0),
        ("steps_max", 100_001),
        ("steps_max", "5"),
    ],
)
def test_bounds_on_sampling_and_steps_have_their_ranges(
    tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))


def test_what_a_policy_leaves_out_is_not_in_what_is_signed(tmp_path: Path) -> None:
    stated = {"epsilon_caps_per_model": {"m": "2"}, "steps_max": 10}
    policy = read_policy(write(tmp_path, **stated))
    assert policy.to_record() == {**POLICY, **stated}
    assert policy.digest != read_policy(write(tmp_path)).digest


def test_the_caps_that_the_ledger_enforces(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path)).epsilon_caps == EpsilonCaps(8.0, None, None)
    tables = {
        "epsilon_caps_per_model": {"m": "2.5"},
        "epsilon_caps_per_purpose": {"dpv:Marketing": "1"},
    }
    caps = read_policy(write(tmp_path, **tables)).epsilon_caps
    assert caps == EpsilonCaps(8.0, {"m": 2.5}, {"dpv:Marketing": 1.0})


def policy_of(**changes: object) -> RegionPolicy:
    return RegionPolicy.model_validate({**POLICY, "quorum_min": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sampling_probability_min": "0.6"}, r"sampling_probability = 0\.5; .* at least 0\.6"),
        ({"sampling_probability_max": "0.4"}, r"sampling_probability = 0\.5; .* at most 0\.4"),
        ({"steps_max": 4}, r"tied-autoencoder\.steps = 5; .* at most 4"),
        ({"noise_multiplier_min": "1.1"}, r"noise_multiplier = 1; .* at least 1\.1"),
        ({"clipping_norm_max": "0.4"}, r"clipping_norm = .*; .* at most 0\.4"),
    ],
)
def test_a_plan_beyond_a_bound_is_named(changes: dict[str, object], named: str) -> None:
    plan = local_plan()
    policy_of().check_plan(plan)
    with pytest.raises(PolicyError, match=named):
        policy_of(**changes).check_plan(plan)


def test_bounds_on_sampling_say_nothing_about_who_takes_everyone() -> None:
    policy_of(sampling_probability_max="0.5").check_plan(plan_of())


def test_a_plan_at_its_bounds_is_within_them() -> None:
    bounds = {"sampling_probability_min": "0.5", "sampling_probability_max": "0.50"}
    policy_of(**bounds, steps_max=5, noise_multiplier_min="1").check_plan(local_plan())


def test_a_policy_that_is_not_the_logged_one_is_refused(tmp_path: Path) -> None:
    policy = policy_of()
    require_logged(policy, policy.digest, tmp_path)
    for other in (None, "0" * 64):
        with pytest.raises(PolicyError, match="signed and logged"):
            require_logged(policy, other, tmp_path)


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


ARRAYS = [
    {"name": "popularity", "dtype": "<f4", "shape_max": [60]},
    {"name": "change_of_hidden_bias", "dtype": "<f4", "shape_max": [4]},
    {"name": "change_of_item_bias", "dtype": "<f4", "shape_max": [20]},
    {"name": "change_of_item_factors", "dtype": "<f4", "shape_max": [20, 4]},
]


def arrays_but(number: int, **changes: object) -> list[dict[str, object]]:
    """The arrays of `local_plan`, one of them changed."""
    return [{**each, **(changes if n == number else {})} for n, each in enumerate(ARRAYS)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon_max_per_run", 3),
        ("epsilon_max_per_run", None),
        ("key_delta_max", "0"),
        ("key_delta_max", None),
        ("clipping_norm_min", "0"),
        ("clipping_norm_min", None),
        ("catalogues", []),
        ("catalogues", None),
        ("catalogues", ["A" * 64]),
        ("app_bundles", []),
        ("app_bundles", None),
        ("app_bundles", ["A" * 64]),
        ("app_bundles", ["a" * 63]),
        ("arrays", []),
        ("arrays", None),
        ("arrays", arrays_but(0, dtype="float32")),
        ("arrays", arrays_but(0, shape_max=[])),
        ("arrays", arrays_but(0, shape_max=[0])),
        ("arrays", arrays_but(0, shape_max=["60"])),
        ("arrays", arrays_but(0, name="")),
        ("arrays", arrays_but(0, shape=[60])),
        ("retention_days", {}),
        ("retention_days", None),
        ("retention_days", {"seals": 0}),
        ("retention_days", {"seals": "90"}),
        ("retention_days", {"logs": 90}),
        ("retention_days", {"seals": 90, "permits": 30}),
        ("retention_days", {"permits": 30}),
    ],
)
def test_bounds_on_what_runs_and_leaves_have_their_forms(
    tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))


def test_bounds_on_what_runs_and_leaves_are_signed_as_they_were_stated(tmp_path: Path) -> None:
    stated = {
        "epsilon_max_per_run": "3",
        "key_delta_max": "0.00000001",
        "clipping_norm_min": "0.01",
        "app_bundles": ["a" * 64],
        "arrays": ARRAYS,
        "retention_days": {"seals": 90, "permits": 3660},
    }
    assert read_policy(write(tmp_path, **stated)).to_record() == {**POLICY, **stated}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilon_max_per_run": "49.9"}, r"epsilon = 50; it allows at most 49\.9"),
        ({"clipping_norm_min": "0.6"}, r"clipping_norm = 0\.5; .* at least 0\.6 and at most 1"),
        (
            {"arrays": arrays_but(0, name="another")},
            r"popularity\.arrays = popularity <f4\[60\]; it allows another <f4\[60\]",
        ),
        ({"arrays": arrays_but(0, shape_max=[59])}, r"popularity <f4\[60\]; it allows"),
        ({"arrays": arrays_but(3, dtype="<i4")}, r"change_of_item_factors <f4\[20, 4\]; it"),
        (
            {"arrays": arrays_but(3, shape_max=[20, 3])},
            r"tied-autoencoder\.arrays = change_of_item",
        ),
        ({"arrays": arrays_but(3, shape_max=[80])}, r"change_of_item_factors <f4\[20, 4\]; it"),
        ({"arrays": ARRAYS[1:]}, r"popularity\.arrays"),
    ],
)
def test_a_plan_of_other_or_larger_arrays_or_of_more_epsilon_is_refused(
    changes: dict[str, object], named: str
) -> None:
    plan = local_plan()
    policy_of(arrays=ARRAYS, epsilon_max_per_run="50", clipping_norm_min="0.5").check_plan(plan)
    with pytest.raises(PolicyError, match=named):
        policy_of(**changes).check_plan(plan)


def test_one_array_may_have_a_bound_for_each_type() -> None:
    both = [*ARRAYS, {**ARRAYS[0], "dtype": "<i4"}]
    policy_of(arrays=both).check_plan(local_plan())


def test_a_bundle_that_the_policy_does_not_name_may_not_run() -> None:
    policy_of().check_app("b" * 64)
    policy = policy_of(app_bundles=["a" * 64])
    policy.check_app("a" * 64)
    with pytest.raises(PolicyError, match=r"app = bbbbbbbbbbbb…; it allows aaaaaaaaaaaa…"):
        policy.check_app("b" * 64)


KEYS = {name: name * 64 for name in "abc"}
PEOPLE = {"analyst-1": [KEYS["a"]], "officer-1": [KEYS["b"], KEYS["c"]]}


def test_people_are_known_by_their_keys() -> None:
    access = policy_of(access={"grant_s_max": 60, "people": PEOPLE}).access
    assert access is not None
    assert [access.person_of(KEYS[name]) for name in "abc"] == [
        "analyst-1",
        "officer-1",
        "officer-1",
    ]
    assert access.person_of("d" * 64) is None
    assert policy_of().access is None


@pytest.mark.parametrize(
    "access",
    [
        None,
        {"grant_s_max": 59, "people": PEOPLE},
        {"grant_s_max": 31 * 86_400 + 1, "people": PEOPLE},
        {"grant_s_max": 60},
        # Of one person nobody could be another.
        {"grant_s_max": 60, "people": {"analyst-1": [KEYS["a"]]}},
        {"grant_s_max": 60, "people": {"analyst-1": [KEYS["a"]], "officer-1": [KEYS["a"]]}},
        {"grant_s_max": 60, "people": {"analyst-1": [KEYS["a"]] * 2, "officer-1": [KEYS["b"]]}},
        {"grant_s_max": 60, "people": {"analyst-1": [], "officer-1": [KEYS["b"]]}},
        {"grant_s_max": 60, "people": {"analyst-1": ["a"], "officer-1": [KEYS["b"]]}},
        {"grant_s_max": 60, "people": {"": [KEYS["a"]], "officer-1": [KEYS["b"]]}},
        {"grant_s_max": 60, "people": {"an alyst": [KEYS["a"]], "officer-1": [KEYS["b"]]}},
    ],
)
def test_access_rules_that_cannot_be_kept_are_refused(tmp_path: Path, access: object) -> None:
    with pytest.raises(InputError, match="access"):
        read_policy(write(tmp_path, access=access))
