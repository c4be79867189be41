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
