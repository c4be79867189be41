"""A forecast is what the ledger then does: so many more it admits, and not one more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.engine.charges import GENESIS_HEAD, Charge, ChargeRequest
from client.engine.forecast import Budget, PlanOutlook
from client.engine.ledger import Ledger, open_ledger
from client.engine.ledger_store import make_ledger
from client.engine.spending import Account, EpsilonCaps, composed_epsilon
from common.errors import BudgetError
from common.plan import RunPlan
from common.privacy import MAX_COUNT, GaussianEvent, epsilon, epsilon_rdp
from common.search import MAX_MORE
from tests.support.local_plan import local_plan
from tests.support.preference_data import plan_of

DELTA, YEAR = 1e-6, 2026
PURPOSE = "fedpref:FederatedTraining"


def requests_of(plan: RunPlan, rounds: int) -> list[ChargeRequest]:
    """What a run's first rounds charge."""
    return [
        ChargeRequest(
            charge_id=f"{plan.run_id}-{number}",
            run=plan.run_id,
            model=plan.model,
            purpose=plan.purpose,
            server_round=number,
            attempt=1,
            mechanism=plan.mechanism_of(number).name,
            noise_multiplier=plan.mechanism_of(number).noise_multiplier,
            clipping_norm=plan.mechanism_of(number).clipping_norm,
            sampling_probability=plan.mechanism_of(number).sampling_probability,
            steps=plan.mechanism_of(number).steps,
            permit_id="permit",
            time=f"{YEAR}-03-01T00:00:00.000Z",
        )
        for number in range(1, rounds + 1)
    ]


def budget_of(requests: list[ChargeRequest], caps: EpsilonCaps) -> Budget:
    charges: list[Charge] = []
    for seq, request in enumerate(requests, start=1):
        charges.append(Charge.after(charges[-1].head if charges else GENESIS_HEAD, request, seq))
    return Budget(charges, caps, DELTA, YEAR)


def named(plan: RunPlan, run: str) -> RunPlan:
    return RunPlan.from_record({**plan.to_record(), "run_id": run})


def run_whole(ledger: Ledger, plan: RunPlan) -> None:
    """A run as `client.engine.charging` charges it."""
    for request in requests_of(plan, plan.total_rounds):
        if ledger.find(request.run, request.server_round) is None:
            ledger.admit(
                plan.run_id, YEAR, plan.privacy_events(), model=plan.model, purpose=plan.purpose
            )
            ledger.charge(request)


@settings(max_examples=12, deadline=None)
@given(
    cap=st.floats(1.0, 30.0),
    per_model=st.none() | st.floats(1.0, 30.0),
    rounds=st.integers(0, 3),
    other=st.booleans(),
)
def test_the_ledger_admits_as_many_runs_as_are_forecast_and_no_more(
    tmp_path_factory: pytest.TempPathFactory,
    cap: float,
    per_model: float | None,
    rounds: int,
    other: bool,
) -> None:
    plan = named(plan_of(epsilon="2"), "run-0")
    caps = EpsilonCaps(cap, None if per_model is None else {plan.model: per_model})
    path = tmp_path_factory.mktemp("ledger") / "l"
    make_ledger(path)
    with open_ledger(path, caps=caps, delta=DELTA) as ledger:
        try:
            if other:
                run_whole(ledger, named(plan, "other"))
            for request in requests_of(plan, rounds):
                ledger.charge(request)
        except BudgetError:
            pass
        outlook = Budget(ledger.charges, caps, DELTA, YEAR).outlook(plan)
        assert outlook.rounds_charged == sum(
            charge.request.run == plan.run_id for charge in ledger.charges
        )
        if outlook.excess is not None:
            assert outlook.more_runs.count == 0
            with pytest.raises(BudgetError, match=f"budget of {outlook.excess.account.words} "):
                run_whole(ledger, plan)
            return
        run_whole(ledger, plan)
        for number in range(outlook.more_runs.count):
            run_whole(ledger, named(plan, f"more-{number}"))
        stopped_by = outlook.more_runs.stopped_by
        assert stopped_by is not None
        with pytest.raises(BudgetError, match=f"budget of {stopped_by.words} "):
            run_whole(ledger, named(plan, "one-too-many"))


def test_before_anything_is_charged_all_is_left() -> None:
    plan = plan_of(epsilon="8")
    budget = budget_of([], EpsilonCaps(8.5))
    (year,) = budget.accounts()
    assert (year.spent, year.left, budget.lifetime) == (0.0, 8.5, 0.0)
    outlook = budget.outlook(plan)
    assert (outlook.rounds_charged, outlook.finished, outlook.excess) == (0, False, None)
    assert outlook.more_runs.count == 0
    assert outlook.runs_a_year.count == 1


def test_a_run_under_way_is_told_before_its_last_round_that_it_is_not_paid_for() -> None:
    plan = named(plan_of(epsilon="8"), "run-1")
    budget = budget_of(requests_of(plan, 2), EpsilonCaps(7.5))
    outlook = budget.outlook(plan)
    assert not outlook.finished
    assert outlook.excess is not None
    assert outlook.excess.epsilon == epsilon(plan.privacy_events(), DELTA) > 7.5
    assert outlook.excess.account == Account("year", "2026", YEAR, 7.5)
    assert [each.more_rounds.count for each in outlook.mechanisms] == [0, 0]


def test_when_all_is_spent_nothing_fits_and_the_next_year_pays_again() -> None:
    plan = named(plan_of(epsilon="8"), "run-1")
    caps = EpsilonCaps(8)
    charged = requests_of(plan, plan.total_rounds)
    outlook = budget_of(charged, caps).outlook(plan)
    assert outlook.finished
    assert outlook.more_runs.count == 0
    assert outlook.runs_a_year.count == 1
    budget = replace(budget_of(charged, caps), year=YEAR + 1)
    (year,) = budget.accounts()
    assert year.spent == 0.0
    assert budget.lifetime == pytest.approx(epsilon(plan.privacy_events(), DELTA), rel=1e-6)
    assert budget.outlook(named(plan, "run-2")).excess is None


def outlook_under(plan: RunPlan, cap: float) -> PlanOutlook:
    return budget_of([], EpsilonCaps(cap)).outlook(plan)


@pytest.mark.parametrize("strategy", ["factors", "tied-autoencoder"])
def test_more_rounds_are_counted_to_the_cap_as_one_more_run(strategy: str) -> None:
    cap = 20.0
    plan = plan_of(epsilon="8") if strategy == "factors" else local_plan(strategy)
    outlook = outlook_under(plan, cap)
    for each in outlook.mechanisms:
        mechanism = each.mechanism

        def total(rounds: int) -> float:
            event = replace(mechanism.event, count=rounds * mechanism.steps)  # noqa: B023
            return epsilon_rdp([*plan.privacy_events(), event], DELTA)

        assert total(each.more_rounds.count) <= cap < total(each.more_rounds.count + 1)


def test_each_model_and_purpose_has_its_own_forecast() -> None:
    one = named(plan_of(epsilon="2"), "one")
    other = RunPlan.from_record({**one.to_record(), "run_id": "other", "model": "another"})
    caps = EpsilonCaps(50.0, {one.model: 2.5, "another": 20.0})
    budget = budget_of(requests_of(one, one.total_rounds), caps)
    states = {(each.account.kind, each.account.name): each for each in budget.accounts()}
    assert states["model", "another"].spent == 0.0
    assert states["model", one.model].spent == states["year", "2026"].spent > 1.9
    # Without a table of purposes what each has spent is told all the same.
    assert states["purpose", PURPOSE].left == float("inf")
    assert budget.outlook(one).more_runs.stopped_by == Account("model", one.model, YEAR, 2.5)
    assert budget.outlook(other).more_runs.count > 3
    unnamed = RunPlan.from_record({**one.to_record(), "run_id": "third", "model": "unnamed"})
    excess = budget.outlook(unnamed).excess
    assert excess is not None
    assert excess.account == Account("model", "unnamed", YEAR, 0.0)


def test_a_count_beyond_accounting_is_not_forecast() -> None:
    plan = local_plan(
        mechanisms=[
            {**each, "noise_multiplier": "1000000", "steps": steps}
            for each, steps in zip(
                local_plan().to_record()["mechanisms"], (1, 100_000), strict=True
            )
        ]
    )
    outlook = outlook_under(plan, 8.0)
    most = MAX_COUNT // 200_001
    assert outlook.more_runs.count == most - 1 < MAX_MORE
    assert outlook.more_runs.stopped_by is None


def test_runs_of_equal_plans_compose_as_they_would_one_by_one() -> None:
    events = [GaussianEvent(3.0), GaussianEvent(2.0, 0.2, 10)]
    one_by_one = composed_epsilon([events] * 4, DELTA)
    scaled = [replace(event, count=3 * event.count) for event in events]
    assert composed_epsilon([events, scaled], DELTA) == pytest.approx(one_by_one, rel=1e-12)


def test_a_run_of_another_year_counts_in_that_year_alone() -> None:
    plan = named(plan_of(epsilon="2"), "run-1")
    requests = requests_of(plan, plan.total_rounds)
    split = [replace(requests[0], time="2025-12-31T23:00:00.000Z"), *requests[1:]]
    budget = budget_of(split, EpsilonCaps(8.0))
    year, *_ = budget.accounts()
    assert 0 < year.spent < budget.lifetime
