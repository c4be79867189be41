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
from tests.support.bundle_builder import REGIONS, Federation

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
