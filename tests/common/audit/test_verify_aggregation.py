"""An aggregate's rule, mode and signal are the plan's; a policy bounds the first two."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common import canonical_json
from common.audit.report.facts import read_facts
from common.audit.report.page import render_report
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from tests.support.bundle_builder import SERVER, Federation

Record = dict[str, Any]
ROUNDS = 5
STOP = {"patience_rounds": 2, "least_signal": "0.1"}


@dataclass
class Planned(Federation):
    """A run whose plan, policies and aggregates have some fields of the test's."""

    changes: Record = field(default_factory=dict)
    aggregate: Record = field(default_factory=dict)
    signals: dict[int, str | None] = field(default_factory=dict)
    allowed: Record = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alter = self._altered

    def plan_record(self) -> Record:
        return {**super().plan_record(), **self.changes}

    def _altered(self, party: str, record: Record) -> None:
        if party == SERVER and record["v"] == "fedpref-aggregate/1":
            record.update(self.aggregate)
            record["signal"] = self.signals.get(record["round"])
        elif record["v"] == "fedpref-policy/1":
            record["policy"] |= self.allowed
            record["policy_sha256"] = digest_of(record["policy"])
        elif record["v"] == "fedpref-round/1" and "mode" in self.aggregate:
            record["dp"]["mode"] = self.aggregate["mode"]


def digest_of(policy: Record) -> str:
    return hashlib.sha256(canonical_json.encode(policy)).hexdigest()


def judged(tmp_path: Path, **fields: Any) -> Verdict:
    return verify_bundle(Planned(**fields).run().write(tmp_path))


def codes(verdict: Verdict) -> set[str]:
    return {failure.code for failure in verdict.failures}


def rule(name: str, tolerated: int = 0, survivors: int = 0) -> Record:
    return {"rule": name, "tolerated": tolerated, "honest_survivors_min": survivors}


def test_the_rule_of_an_aggregate_is_the_plans(tmp_path: Path) -> None:
    verdict = judged(tmp_path / "a", aggregate={"rule": "median"})
    assert codes(verdict) == {"not-planned"}
    assert "rule" in verdict.failures[0].message
    assert judged(tmp_path / "b").verified


def test_the_mode_of_an_aggregate_is_the_plans_and_its_rounds(tmp_path: Path) -> None:
    assert "not-planned" in codes(judged(tmp_path / "a", aggregate={"mode": "distributed"}))
    verdict = judged(tmp_path / "b", changes={"mode": "distributed"})
    assert {"not-planned", "permit-beyond-policy"} <= codes(verdict)


@pytest.mark.parametrize(("name", "tolerated"), [("median", 1), ("trimmed-mean", 1), ("krum", 1)])
def test_a_robust_rule_needs_its_regions(name: str, tolerated: int, tmp_path: Path) -> None:
    # The bundle's run has two regions.
    changes = {"aggregation": rule(name, tolerated)}
    assert codes(judged(tmp_path, changes=changes, aggregate={"rule": name})) == {"too-few"}


@pytest.mark.parametrize(
    ("allowed", "beyond"),
    [
        ({"aggregations": ["open"]}, False),
        ({"aggregations": ["robust", "confidential"]}, True),
        ({"modes": ["distributed"]}, True),
        ({"modes": ["distributed", "local"]}, False),
    ],
)
def test_a_permit_stays_within_what_the_policy_lets_be_made(
    allowed: Record, beyond: bool, tmp_path: Path
) -> None:
    verdict = judged(tmp_path, allowed=allowed)
    assert codes(verdict) == ({"permit-beyond-policy"} if beyond else set())
    if beyond:
        assert next(iter(allowed))[:-1] in verdict.failures[0].message


@pytest.mark.parametrize(
    "allowed", [{"modes": ["central"]}, {"modes": "local"}, {"aggregations": ["sum"]}]
)
def test_a_policy_of_unknown_words_is_none(allowed: Record, tmp_path: Path) -> None:
    assert "policy-fields" in codes(judged(tmp_path, allowed=allowed))


def early(signals: dict[int, str | None], rounds: int, **fields: Any) -> dict[str, Any]:
    return {
        "changes": {"early_stop": STOP},
        "signals": signals,
        "rounds": rounds,
        "planned_rounds": ROUNDS,
        **fields,
    }


def test_a_run_that_ended_by_its_signals_is_complete(tmp_path: Path) -> None:
    run = early({3: "0.099999", 4: "0.000000"}, 4)
    verdict = judged(tmp_path, **run)
    assert verdict.verified, codes(verdict)
    assert any("ended after round 4 of 5" in note for note in verdict.notes)
    for lang, words in (("en", "ended after round 4 of 5"), ("zh", "第 4 轮（共 5 轮）后结束")):
        page = render_report(read_facts(tmp_path), lang=lang)
        assert words in re.sub("<[^>]*>|[\u2066-\u2069]", "", page)


@pytest.mark.parametrize(
    ("signals", "rounds", "wrong"),
    [
        # It stops without a reason.
        ({3: "0.5", 4: "0.05"}, 4, {"rounds-missing"}),
        ({3: "0.05"}, 3, {"rounds-missing"}),
        # It goes on after its end.
        ({3: "0.05", 4: "0.05", 5: "0.5"}, 5, {"after-end"}),
        # It does not say its signals, or says one where none can be.
        ({}, 5, {"signal"}),
        ({2: "0.5", 3: "0.5", 4: "0.5", 5: "0.5"}, 5, {"signal"}),
    ],
)
def test_a_run_that_did_not_end_as_planned(
    signals: dict[int, str | None], rounds: int, wrong: set[str], tmp_path: Path
) -> None:
    assert codes(judged(tmp_path, **early(signals, rounds))) == wrong


def test_a_plan_that_does_not_end_early_has_no_signals_and_all_its_rounds(tmp_path: Path) -> None:
    verdict = judged(tmp_path, signals={3: "0.05", 4: "0.05"}, rounds=4, planned_rounds=ROUNDS)
    assert codes(verdict) == {"signal", "rounds-missing"}
