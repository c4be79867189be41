"""Which charges count towards which cap, and what they have spent together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.engine.charges import GENESIS_HEAD, Charge, ChargeRequest
from client.engine.spending import (
    Account,
    EpsilonCaps,
    composed_epsilon,
    events_by_run,
    spending_of,
    spent_by,
)
from common.privacy import GaussianEvent, epsilon, epsilon_rdp
from tests.client.engine.test_charges import REQUEST

DELTA = 1e-6
FULL = replace(
    REQUEST, mechanism="factors", noise_multiplier="2", sampling_probability="1", steps=1
)


def charges_of(*requests: ChargeRequest) -> list[Charge]:
    head, made = GENESIS_HEAD, []
    for seq, request in enumerate(requests, start=1):
        made.append(Charge.after(head, request, seq))
        head = made[-1].head
    return made


def test_an_account_counts_its_year_and_its_model_or_purpose() -> None:
    year = Account("year", "2026", 2026, 8.0)
    model = Account("model", FULL.model, 2026, 8.0)
    purpose = Account("purpose", FULL.purpose, 2026, 8.0)
    other_model, other_purpose = replace(FULL, model="another"), replace(FULL, purpose="another")
    next_year = replace(FULL, time="2027-01-01T00:00:00.000Z")
    requests = (FULL, other_model, other_purpose, next_year)
    assert [year.counts(each) for each in requests] == [True, True, True, False]
    assert [model.counts(each) for each in requests] == [True, False, True, False]
    assert [purpose.counts(each) for each in requests] == [True, True, False, False]
    assert (year.words, model.words) == ("2026", f"2026 for model {FULL.model}")
    assert purpose.words == f"2026 for purpose {FULL.purpose}"


def test_a_charge_is_held_against_the_total_and_its_parts() -> None:
    assert EpsilonCaps(8.0).accounts(2026, "m", "p") == [Account("year", "2026", 2026, 8.0)]
    caps = EpsilonCaps(8.0, {"m": 3.0}, {"p": 2.0})
    assert caps.accounts(2026, "m", "p") == [
        Account("year", "2026", 2026, 8.0),
        Account("model", "m", 2026, 3.0),
        Account("purpose", "p", 2026, 2.0),
    ]
    # Whoever names a run's model has no budget by a name that the region does not know.
    assert [each.cap for each in caps.accounts(2026, "unnamed", "unnamed")] == [8.0, 0.0, 0.0]


def test_every_account_is_told_whether_named_or_booked_on() -> None:
    caps = EpsilonCaps(8.0, {"a": 3.0})
    charged = [replace(FULL, model="b"), replace(FULL, time="2025-05-05T00:00:00.000Z", model="c")]
    found = {(each.kind, each.name): each.cap for each in caps.all_accounts(2026, charged)}
    assert found == {
        ("year", "2026"): 8.0,
        ("model", "a"): 3.0,
        ("model", "b"): 0.0,
        ("purpose", FULL.purpose): math.inf,
    }


def test_the_odometer_tells_run_year_and_lifetime() -> None:
    before = replace(FULL, run="old", time="2025-05-05T00:00:00.000Z")
    second = replace(FULL, server_round=3)
    charged = charges_of(before, FULL, second)
    spending = spending_of(charged, "run-1", 2026, 8.0, DELTA)
    assert spending.run == spending.year == epsilon([GaussianEvent(2.0, 1.0, 2)], DELTA)
    assert spending.lifetime == epsilon_rdp([GaussianEvent(2.0, 1.0, 3)], DELTA)
    assert spending.cap == 8.0


def test_events_of_one_run_stand_together() -> None:
    other = replace(FULL, run="run-2")
    assert events_by_run([FULL, other, FULL]) == {
        "run-1": [GaussianEvent(2.0), GaussianEvent(2.0)],
        "run-2": [GaussianEvent(2.0)],
    }


EVENT = st.builds(
    GaussianEvent, st.floats(1.0, 20.0), st.sampled_from([1.0, 0.2]), st.integers(1, 5)
)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(EVENT, min_size=1, max_size=2), min_size=1, max_size=3))
def test_what_is_told_is_never_below_the_pld_of_all_events(runs: list[list[GaussianEvent]]) -> None:
    together = composed_epsilon([*runs, []], DELTA)
    assert together >= epsilon([event for events in runs for event in events], DELTA)
    if len(runs) == 1:
        assert together == epsilon(runs[0], DELTA)


def test_nothing_charged_is_nothing_spent() -> None:
    assert composed_epsilon([], DELTA) == composed_epsilon([[], []], DELTA) == 0.0
    assert spent_by([], DELTA) == 0.0


@pytest.mark.parametrize("sigma", ["0.001"])
def test_what_no_figure_can_tell_is_infinite(sigma: str) -> None:
    assert spent_by([replace(FULL, noise_multiplier=sigma)], DELTA) == math.inf
