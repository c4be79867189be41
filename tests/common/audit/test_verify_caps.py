"""A region that charges past a part of its budget is found, whatever its ledger let through."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import canonical_json
from common.audit.verify import verify_bundle
from common.audit.verify.caps import YearlyAccounts
from common.audit.verify.epsilon import gaussian_epsilon
from common.audit.verify.replay import Entry
from common.audit.verify.verdict import Verdict
from tests.support.bundle_builder import DELTA, EPSILONS, REGIONS, Federation

R1 = REGIONS[0]
MODEL, PURPOSE = "preference-model", "fedpref:FederatedTraining"
TABLES = {"model": "epsilon_caps_per_model", "purpose": "epsilon_caps_per_purpose"}
NAMES = {"model": MODEL, "purpose": PURPOSE}
POLICY = {"epsilon_cap_per_year": "10"}


def judged(run: Path, **bounds: Any) -> Verdict:
    """The verdict on an honest run under a policy with further bounds in one region."""

    def alter(party: str, record: dict[str, Any]) -> None:
        if party == R1 and record["v"] == "fedpref-policy/1":
            record["policy"].update(bounds)
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    return verify_bundle(Federation(alter=alter).run().write(run))


def found(verdict: Verdict) -> list[str]:
    return [failure.code for failure in verdict.failures]


@pytest.mark.parametrize("part", ["model", "purpose"])
def test_a_part_of_the_budget_that_was_exceeded(part: str, tmp_path: Path) -> None:
    """The second round brings it to 2.58; the first was within the cap."""
    verdict = judged(tmp_path, **{TABLES[part]: {NAMES[part]: "2.5", "other": "10"}})
    assert found(verdict) == [f"{part}-cap"]
    (failure,) = verdict.failures
    assert failure.party == R1
    assert f"charged in 2026 for {part} {NAMES[part]}" in failure.message
    assert f"ε = {float(EPSILONS[1]):.5f}"[:-1] in failure.message


@pytest.mark.parametrize("part", ["model", "purpose"])
def test_a_table_that_does_not_name_it_leaves_it_nothing(part: str, tmp_path: Path) -> None:
    assert found(judged(tmp_path, **{TABLES[part]: {"other": "10"}})) == [f"{part}-cap"] * 2


def test_within_its_parts_an_honest_run_verifies(tmp_path: Path) -> None:
    tables = {TABLES[part]: {NAMES[part]: "2.583"} for part in TABLES}
    assert judged(tmp_path, **tables).verified


@pytest.mark.parametrize("part", ["model", "purpose"])
@pytest.mark.parametrize("table", [{}, {"": "1"}, {MODEL: "-1"}, {MODEL: 1}, [], "8", None])
def test_a_table_that_is_none_is_no_bound_that_holds(part: str, table: Any, tmp_path: Path) -> None:
    assert {"policy-fields", "no-policy"} <= set(found(judged(tmp_path, **{TABLES[part]: table})))


def charge(index: int = 1, **changes: Any) -> Entry:
    record = {
        "time": "2026-05-01T00:00:00.000Z",
        "model": MODEL,
        "purpose": PURPOSE,
        "noise_multiplier": "2.5",
        "sampling_probability": "1",
        "steps": 1,
        "delta": DELTA,
    }
    return Entry(R1, index, "", "charge", {**record, **changes})


def test_what_was_spent_before_a_cap_was_set_counts_towards_it() -> None:
    accounts = YearlyAccounts()
    assert accounts.book(charge(1), POLICY) == []
    later = POLICY | {"epsilon_caps_per_model": {MODEL: "2.5"}}
    (excess,) = accounts.book(charge(2), later)
    assert excess.code == "model-cap"
    # Alone the second charge would be within it.
    assert YearlyAccounts().book(charge(2), later) == []


def test_each_year_begins_with_nothing_spent() -> None:
    accounts = YearlyAccounts()
    policy = POLICY | {"epsilon_caps_per_purpose": {PURPOSE: "2.5"}}
    assert accounts.book(charge(1), policy) == []
    assert accounts.book(charge(2, time="2027-01-01T00:00:00.000Z"), policy) == []
    assert [each.code for each in accounts.book(charge(3), policy)] == ["purpose-cap"]


def test_the_year_s_own_cap_is_recomputed_and_not_taken_from_the_charge() -> None:
    accounts = YearlyAccounts()
    stated = {"epsilon_total": "0.1", "epsilon_cap": "10"}
    assert accounts.book(charge(1, **stated), {"epsilon_cap_per_year": "2.5"}) == []
    (excess,) = accounts.book(charge(2, **stated), {"epsilon_cap_per_year": "2.5"})
    assert excess.code == "ledger-cap"
    assert "charged in 2026 gives" in excess.message


def test_parameters_that_allow_no_epsilon_are_for_another_check_to_report() -> None:
    senseless = charge(1, noise_multiplier="0")
    assert YearlyAccounts().book(senseless, {"epsilon_cap_per_year": "1"}) == []


@settings(max_examples=60)
@given(
    charged=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pq")), max_size=12),
    cap_a=st.floats(1.0, 8.0),
    cap_p=st.floats(1.0, 8.0),
)
def test_a_charge_is_reported_exactly_if_it_brings_an_account_past_its_cap(
    charged: list[tuple[str, str]], cap_a: float, cap_p: float
) -> None:
    accounts = YearlyAccounts()
    policy = {
        "epsilon_cap_per_year": "1000",
        "epsilon_caps_per_model": {"a": f"{cap_a:.6f}", "b": "1000"},
        "epsilon_caps_per_purpose": {"p": f"{cap_p:.6f}", "q": "1000"},
    }
    counts = {"a": 0, "b": 0, "p": 0, "q": 0}
    for index, (model, purpose) in enumerate(charged):
        counts[model] += 1
        counts[purpose] += 1
        expected = set()
        for code, name, of_charge, cap in (
            ("model-cap", "a", model, cap_a),
            ("purpose-cap", "p", purpose, cap_p),
        ):
            spent = gaussian_epsilon(2.5 / max(counts[name], 1) ** 0.5, float(DELTA))
            if of_charge == name and spent > cap + 1e-5:
                expected.add(code)
        booked = accounts.book(charge(index, model=model, purpose=purpose), policy)
        assert {each.code for each in booked} == expected
