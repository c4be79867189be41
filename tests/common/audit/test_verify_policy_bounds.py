"""Permits and charges are held against the policy that was signed, not against their own word."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import canonical_json
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from tests.support.bundle_builder import REGIONS, Federation, digest

R1 = REGIONS[0]
Change = Callable[[dict[str, Any]], object]


def judge(kind: str, change: Change, tmp_path: Path) -> Verdict:
    """The verdict on a run whose region signs altered records of one kind, all else consistent."""

    def alter(party: str, record: dict[str, Any]) -> None:
        if party == R1 and record["v"] == f"fedpref-{kind}/1":
            change(record)

    return verify_bundle(Federation(alter=alter).run().write(tmp_path))


def codes(verdict: Verdict) -> set[str]:
    return {failure.code for failure in verdict.failures if failure.party == R1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.update(epsilon_cap="400"), "epsilon_cap"),
        (lambda r: r.update(delta="0.05"), "delta"),
        (lambda r: r.update(noise_multiplier="0.05"), "noise_multiplier"),
        (lambda r: r.update(clipping_norm="9"), "clipping_norm"),
        (lambda r: r.update(sampling_probability="0.000001"), "sampling_probability"),
    ],
)
def test_a_charge_beyond_the_policy(change: Change, named: str, tmp_path: Path) -> None:
    verdict = judge("charge", change, tmp_path)
    assert not verdict.verified
    (beyond, *_) = [f for f in verdict.failures if f.code == "charge-beyond-policy"]
    assert named in beyond.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.update(purpose="fedpref:Another"), "purpose"),
        (lambda r: r.update(delta="0.05"), "delta"),
        (lambda r: [m.update(noise_multiplier="0.05") for m in r["mechanisms"]], "noise"),
        (lambda r: [m.update(clipping_norm="9") for m in r["mechanisms"]], "clipping_norm"),
        (lambda r: r["mechanisms"][0].update(rounds=list(range(1, 66))), "rounds"),
    ],
)
def test_a_permit_beyond_the_policy(change: Change, named: str, tmp_path: Path) -> None:
    verdict = judge("permit", change, tmp_path)
    assert not verdict.verified
    (beyond, *_) = [f for f in verdict.failures if f.code == "permit-beyond-policy"]
    assert named in beyond.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon_cap_per_year", None),
        ("consent_age_max_s", -1),
        ("withdrawal_in_round", "ignore"),
        ("notice_grace_s", 366 * 86_400 + 1),
        ("notice_grace_s", "1"),
        ("sampling_probability_min", "-0.1"),
        ("sampling_probability_max", None),
        ("steps_max", 0),
        ("steps_max", "5"),
        ("epsilon_max_per_run", "-1"),
        ("epsilon_max_per_run", None),
        ("key_delta_max", 1),
        ("clipping_norm_min", 1),
        ("app_bundles", ["a"]),
        ("app_bundles", "a" * 64),
        ("catalogues", ["a"]),
        ("catalogues", "a" * 64),
        ("arrays", [{"name": "a", "dtype": "<f4"}]),
        ("arrays", [{"name": "a", "dtype": "<c8", "shape_max": [1]}]),
        ("arrays", {"popularity": [1]}),
        ("retention_days", {}),
        ("retention_days", {"seals": 0}),
    ],
)
def test_a_policy_whose_bound_is_none(name: str, value: object, tmp_path: Path) -> None:
    def spoil(record: dict[str, Any]) -> None:
        record["policy"][name] = value
        encoded = canonical_json.encode(record["policy"])
        record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    verdict = judge("policy", spoil, tmp_path)
    assert {"policy-fields", "no-policy"} <= codes(verdict)
    assert any(f"policy.{name}" in failure.message for failure in verdict.failures)


def test_a_policy_that_lacks_a_bound(tmp_path: Path) -> None:
    def drop(record: dict[str, Any]) -> None:
        del record["policy"]["epsilon_cap_per_year"]
        encoded = canonical_json.encode(record["policy"])
        record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    assert {"policy-fields", "no-policy"} <= codes(judge("policy", drop, tmp_path))


def test_the_honest_run_is_within_its_policy(tmp_path: Path) -> None:
    assert verify_bundle(Federation().run().write(tmp_path)).failures == ()


SAMPLED = {"name": "tied-autoencoder", "sampling_probability": "0.1", "steps": 20}


def permit_of_samples(
    tmp_path: Path, bounds: dict[str, Any], mechanism: dict[str, Any]
) -> list[str]:
    """What is found to be beyond the policy in a permit whose last mechanism is another."""

    def alter(party: str, record: dict[str, Any]) -> None:
        if party == R1 and record["v"] == "fedpref-policy/1":
            record["policy"].update(bounds)
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()
        if party == R1 and record["v"] == "fedpref-permit/1":
            record["mechanisms"][-1].update(mechanism)

    verdict = verify_bundle(Federation(alter=alter).run().write(tmp_path))
    return [f.message for f in verdict.failures if f.code == "permit-beyond-policy"]


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"sampling_probability_min": "0.2"}, "sampling_probability"),
        ({"sampling_probability_max": "0.05"}, "sampling_probability"),
        ({"steps_max": 19}, "steps"),
    ],
)
def test_samples_and_steps_beyond_the_policy(
    bounds: dict[str, Any], named: str, tmp_path: Path
) -> None:
    (message,) = permit_of_samples(tmp_path, bounds, SAMPLED)
    assert f"Its {named} is not within" in message


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"sampling_probability_min": "0.1", "sampling_probability_max": "0.10", "steps_max": 20},
    ],
)
def test_samples_and_steps_at_their_bounds_are_within_them(
    bounds: dict[str, Any], tmp_path: Path
) -> None:
    assert permit_of_samples(tmp_path, bounds, SAMPLED) == []


def test_bounds_on_sampling_say_nothing_about_the_full_batch(tmp_path: Path) -> None:
    bounds = {"sampling_probability_max": "0.5", "steps_max": 1}
    assert permit_of_samples(tmp_path, bounds, {}) == []


@pytest.mark.parametrize("probability", ["0", "1.5"])
def test_a_sample_that_is_none_is_beyond_any_policy(probability: str, tmp_path: Path) -> None:
    mechanism = {**SAMPLED, "sampling_probability": probability}
    (message,) = permit_of_samples(tmp_path, {}, mechanism)
    assert "sampling_probability" in message


def under(
    tmp_path: Path,
    bounds: dict[str, Any],
    changes: dict[str, Change] | None = None,
) -> dict[str, str]:
    """What is beyond a policy with these bounds, by code, of a run with altered records."""

    def alter(party: str, record: dict[str, Any]) -> None:
        if party != R1:
            return
        if record["v"] == "fedpref-policy/1":
            record["policy"].update(bounds)
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()
        for kind, change in (changes or {}).items():
            if record["v"] == f"fedpref-{kind}/1":
                change(record)

    verdict = verify_bundle(Federation(alter=alter).run().write(tmp_path))
    return {
        failure.code: failure.message
        for failure in verdict.failures
        if failure.party == R1 and failure.code.endswith("-beyond-policy")
    }


def of_the_run(kind: str, field: str) -> Any:
    """What the honest run's record of one kind has in a field."""
    found: list[Any] = []

    def look(party: str, record: dict[str, Any]) -> None:
        if party == R1 and record["v"] == f"fedpref-{kind}/1":
            found.append(record[field])

    Federation(alter=look).run()
    return found[0]


def bounds_of(arrays: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """Bounds that arrays are just within, with some fields changed."""
    return [
        {"name": each["name"], "dtype": each["dtype"], "shape_max": each["shape"], **changes}
        for each in arrays
    ]


def test_a_run_at_all_its_bounds_is_within_them(tmp_path: Path) -> None:
    bounds = {
        "epsilon_max_per_run": of_the_run("permit", "epsilon_cap"),
        "clipping_norm_min": "0.000001",
        "app_bundles": ["0" * 64, of_the_run("permit", "app")],
        "catalogues": ["0" * 64, digest("catalogue")],
        "arrays": bounds_of(of_the_run("permit", "arrays")),
        "retention_days": {"seals": 90},
    }
    assert under(tmp_path, bounds) == {}


def test_a_permit_for_more_epsilon_than_a_run_may_spend(tmp_path: Path) -> None:
    found = under(tmp_path, {"epsilon_max_per_run": "0.5"})
    assert "Its epsilon_cap is not" in found["permit-beyond-policy"]


def test_a_norm_below_the_least_one_in_permit_and_charge(tmp_path: Path) -> None:
    found = under(tmp_path, {"clipping_norm_min": "1.5", "clipping_norm_max": "2"})
    assert "clipping_norm" in found["permit-beyond-policy"]
    assert "clipping_norm" in found["charge-beyond-policy"]


def test_a_bundle_that_the_policy_does_not_name_in_permit_and_round(tmp_path: Path) -> None:
    found = under(tmp_path, {"app_bundles": ["0" * 64]})
    assert "Its app is not" in found["permit-beyond-policy"]
    assert "Its app is not" in found["round-beyond-policy"]


def test_a_run_over_a_catalogue_that_the_policy_does_not_name(tmp_path: Path) -> None:
    found = under(tmp_path, {"catalogues": ["0" * 64]})
    assert "Its catalogue is not" in found["permit-beyond-policy"]


def test_a_round_by_another_bundle_than_the_permit_s_is_found_by_the_policy_too(
    tmp_path: Path,
) -> None:
    allowed = {"app_bundles": [of_the_run("permit", "app")]}
    found = under(tmp_path, allowed, {"round": lambda r: r.update(app="0" * 64)})
    assert set(found) == {"round-beyond-policy"}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"dtype": "<i8"},
        {"shape_max": [1]},
        {"shape_max": [1, 1]},
        {"shape_max": []},
    ],
)
def test_arrays_that_no_bound_allows_in_permit_and_release(
    change: dict[str, Any], tmp_path: Path
) -> None:
    found = under(tmp_path, {"arrays": bounds_of(of_the_run("permit", "arrays"), **change)})
    assert "Its arrays is not" in found["permit-beyond-policy"]
    assert "Its arrays is not" in found["release-beyond-policy"]


def test_an_array_that_was_smuggled_into_a_release(tmp_path: Path) -> None:
    allowed = {"arrays": bounds_of(of_the_run("permit", "arrays"))}

    def smuggle(record: dict[str, Any]) -> None:
        record["arrays"].append({"name": "raw", "dtype": "<f4", "shape": [4]})
        record["bytes"] += 16

    assert set(under(tmp_path, allowed, {"release": smuggle})) == {"release-beyond-policy"}


def test_a_policy_that_grew_stricter_holds_for_what_comes_after_it(tmp_path: Path) -> None:
    """A permit from before does not outlive it: the rounds after it are beyond the policy."""
    policy = {**of_the_run("policy", "policy"), "app_bundles": ["0" * 64]}
    stricter = {
        "v": "fedpref-policy/1",
        "region": R1,
        "policy": policy,
        "policy_sha256": hashlib.sha256(canonical_json.encode(policy)).hexdigest(),
    }

    def replace(federation: Federation, number: int) -> None:
        if number == 2:
            federation.log(R1, {**stricter, "in_force_from": federation.tick(1)})

    verdict = verify_bundle(Federation(before_round=replace).run().write(tmp_path))
    beyond = [failure for failure in verdict.failures if failure.code.endswith("-beyond-policy")]
    assert [(failure.party, failure.code) for failure in beyond] == [(R1, "round-beyond-policy")]
