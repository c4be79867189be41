"""Forecasts of budgets: recomputed, bisected, and true at the boundary."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from common.audit import forecast as forecasts
from common.audit.forecast import CapForecast, forecast, to_record
from common.audit.verified_bundle import open_verified
from common.audit.verify.epsilon import gaussian_epsilon
from common.search import MAX_MORE
from tests.support.bundle_builder import CAP, DELTA, NOISE, REGIONS, RUN, Federation

R1, R2 = REGIONS


def caps_of(federation: Federation, folder: Path, region: str = R1) -> list[CapForecast]:
    evidence = open_verified(federation.write(folder)).evidence
    return [cap for found in forecast(evidence) if found.region == region for cap in found.caps]


def spent(rounds: int) -> float:
    """ε of so many rounds of the run's mechanism, each with the full batch."""
    return gaussian_epsilon(float(NOISE) / math.sqrt(rounds), float(DELTA)) if rounds else 0.0


def rounds_under(cap: float) -> int:
    """By counting, as nobody would in production."""
    count = 0
    while spent(count + 1) <= cap:
        count += 1
    return count


def test_what_is_spent_and_left_is_recomputed(tmp_path: Path) -> None:
    year, run = caps_of(Federation(rounds=3).run(), tmp_path)
    assert (year.scope, year.name, year.cap, year.delta) == ("year", "2026", "10", DELTA)
    assert (run.scope, run.name, run.cap) == ("run", RUN, CAP)
    for cap in (year, run):
        assert cap.spent == pytest.approx(spent(3), rel=1e-12)
        assert cap.left == pytest.approx(float(cap.cap) - spent(3), rel=1e-12)
    assert year.resets == "2027-01-01T00:00:00.000Z"
    assert run.resets is None


def test_more_rounds_fit_exactly_up_to_the_cap(tmp_path: Path) -> None:
    for cap in caps_of(Federation(rounds=3).run(), tmp_path):
        most = rounds_under(float(cap.cap))
        assert 3 < most < 100
        for mechanism in cap.mechanisms:
            assert mechanism.more_rounds == most - 3
            assert mechanism.rounds_in_all == most
            assert spent(3 + mechanism.more_rounds) <= float(cap.cap)
            assert spent(4 + mechanism.more_rounds) > float(cap.cap)
        assert [each.name for each in cap.mechanisms] == ["factors", "popularity"]


def test_more_runs_like_this_one_fit_exactly_up_to_the_cap(tmp_path: Path) -> None:
    year, run = caps_of(Federation(rounds=3).run(), tmp_path)
    most = rounds_under(10)
    assert year.runs_in_all == most // 3
    assert year.more_runs == most // 3 - 1
    assert (run.more_runs, run.runs_in_all) == (None, None)


def test_a_spent_budget_leaves_nothing(tmp_path: Path) -> None:
    evidence = open_verified(Federation(rounds=2).run().write(tmp_path)).evidence
    for replay in evidence.regions():
        for entry in replay.of_kind("policy"):
            entry.part("policy")["epsilon_cap_per_year"] = "2.5"
    year = forecast(evidence)[0].caps[0]
    assert year.left == 0.0
    assert year.spent > 2.5
    assert [each.more_rounds for each in year.mechanisms] == [0, 0]
    assert year.more_runs == 0
    assert year.runs_in_all == 0


def test_a_region_that_charged_nothing_is_listed_as_such(tmp_path: Path) -> None:
    evidence = open_verified(Federation(rounds=1).run().write(tmp_path)).evidence
    evidence.replays[R2].entries[:] = [
        entry for entry in evidence.replays[R2].entries if entry.kind != "charge"
    ]
    found = forecast(evidence)
    assert [bool(each.caps) for each in found] == [True, False]
    assert to_record(found, RUN)["without_charges"] == [R2]


def test_charges_of_another_year_do_not_count_towards_the_newest(tmp_path: Path) -> None:
    evidence = open_verified(Federation(rounds=3).run().write(tmp_path)).evidence
    charges = list(evidence.replays[R1].of_kind("charge"))
    for charge in charges[:2]:
        charge.record["time"] = "2025-12-31T23:59:59.999Z"
    year, run = forecast(evidence)[0].caps
    assert year.name == "2026"
    assert year.spent == pytest.approx(spent(1))
    assert run.spent == pytest.approx(spent(3))


def test_a_huge_cap_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    composed = forecasts.composed_epsilon

    def counting(mechanisms: object, delta: float) -> float:
        nonlocal asked
        asked += 1
        return composed(mechanisms, delta)

    evidence = open_verified(Federation(rounds=1).run().write(tmp_path)).evidence
    for replay in evidence.regions():
        for entry in replay.of_kind("policy"):
            entry.part("policy")["epsilon_cap_per_year"] = "499"
        for charge in replay.of_kind("charge"):
            charge.record["noise_multiplier"] = "5000"
    monkeypatch.setattr(forecasts, "composed_epsilon", counting)
    forecasts._epsilon.cache_clear()
    year = forecast(evidence)[0].caps[0]
    assert year.mechanisms[0].more_rounds == MAX_MORE
    assert asked < 200


def test_as_json(tmp_path: Path) -> None:
    evidence = open_verified(Federation().run().write(tmp_path)).evidence
    record = json.loads(json.dumps(to_record(forecast(evidence), RUN)))
    assert record["v"] == "fedpref-forecast/1"
    assert [(cap["region"], cap["scope"]) for cap in record["caps"]] == [
        (R1, "year"),
        (R1, "run"),
        (R2, "year"),
        (R2, "run"),
    ]
    assert record["caps"][0]["spent"] == f"{spent(2):.6f}"
    assert record["caps"][0]["mechanisms"][0]["noise_multiplier"] == NOISE
