"""What the budget still pays for: the ledger's own question, of charges that were not made.

A forecast adds up events exactly as `client.engine.ledger` does when it is asked: one run by
privacy loss distributions, several by RDP, account by account. So the ledger admits as many runs as
are forecast, and refuses the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from client.engine.charges import Charge, ChargeRequest
from client.engine.spending import (
    Account,
    EpsilonCaps,
    composed_epsilon,
    events_by_run,
    spent_by,
)
from common.plan import Mechanism, RunPlan
from common.privacy import MAX_COUNT, GaussianEvent
from common.search import MAX_MORE, largest_that_fits

# The events of several runs, run by run.
_Runs = list[list[GaussianEvent]]


@dataclass(frozen=True)
class AccountState:
    """An account and the ε spent on it.

    Attributes:
        account: The cap, and what counts towards it.
        spent: ε of what counts.
    """

    account: Account
    spent: float

    @property
    def left(self) -> float:
        """What is left under its own cap, never below 0; ε does not simply add up."""
        return max(0.0, self.account.cap - self.spent)


@dataclass(frozen=True)
class Excess:
    """A cap that is too small, and the ε that it would take."""

    account: Account
    epsilon: float


@dataclass(frozen=True)
class Fit:
    """How often something more is paid for.

    Attributes:
        count: So often; `common.search.MAX_MORE` stands for as often and more.
        stopped_by: Whose cap the next one would exceed; None if none was found that would.
    """

    count: int
    stopped_by: Account | None


@dataclass(frozen=True)
class MechanismOutlook:
    """A plan's mechanism, and how many rounds of it are paid for besides the run.

    Attributes:
        mechanism: The mechanism.
        more_rounds: As one further run of nothing else.
    """

    mechanism: Mechanism
    more_rounds: Fit


@dataclass(frozen=True)
class PlanOutlook:
    """What the budget means for a run, and for more runs like it.

    Attributes:
        plan: The run's plan.
        rounds_charged: How many of its rounds are charged.
        excess: Why the rest of it is not paid for; None if it is.
        more_runs: How many more runs like it, once it is finished.
        runs_a_year: How many such runs a year pays for in which nothing was spent.
        mechanisms: Its mechanisms, in the plan's order.
    """

    plan: RunPlan
    rounds_charged: int
    excess: Excess | None
    more_runs: Fit
    runs_a_year: Fit
    mechanisms: tuple[MechanismOutlook, ...]

    @property
    def finished(self) -> bool:
        """Whether every round is charged."""
        return self.rounds_charged >= self.plan.total_rounds


@dataclass(frozen=True)
class Budget:
    """A ledger at one moment.

    Attributes:
        charges: Every charge, oldest first.
        caps: The caps of the policy in force.
        delta: δ at which every ε is stated.
        year: The budget year that it is now.
    """

    charges: Sequence[Charge]
    caps: EpsilonCaps
    delta: float
    year: int

    @property
    def lifetime(self) -> float:
        """ε of everything ever charged: told, not capped."""
        return spent_by(self._requests, self.delta)

    def accounts(self) -> list[AccountState]:
        """The year's accounts: its total first, then each model's and each purpose's part."""
        return [
            AccountState(account, spent_by(filter(account.counts, self._requests), self.delta))
            for account in self.caps.all_accounts(self.year, self._requests)
        ]

    def outlook(self, plan: RunPlan) -> PlanOutlook:
        """Forecasts a run and what could follow it.

        Edge cases:
            A run that is not paid for to its end is taken for begun all the same: nothing fits
            after it.
        """
        charged = sum(request.run == plan.run_id for request in self._requests)
        finished = charged >= plan.total_rounds
        accounts = self.caps.accounts(self.year, plan.model, plan.purpose)
        bases = [(account, self._with_run(account, plan, finished)) for account in accounts]
        empty: list[tuple[Account, _Runs]] = [(account, []) for account in accounts]
        return PlanOutlook(
            plan=plan,
            rounds_charged=charged,
            excess=None if finished else self._excess(bases),
            more_runs=self._fit(bases, _runs_like(plan)),
            runs_a_year=self._fit(empty, _runs_like(plan)),
            mechanisms=tuple(
                MechanismOutlook(mechanism, self._fit(bases, _rounds_of(mechanism)))
                for mechanism in plan.mechanisms
            ),
        )

    @property
    def _requests(self) -> list[ChargeRequest]:
        return [charge.request for charge in self.charges]

    def _with_run(self, account: Account, plan: RunPlan, finished: bool) -> _Runs:
        """What is booked on an account once the run is finished."""
        booked = [request for request in self._requests if account.counts(request)]
        if finished:
            return list(events_by_run(booked).values())
        others = [request for request in booked if request.run != plan.run_id]
        return [*events_by_run(others).values(), list(plan.privacy_events())]

    def _excess(self, bases: Iterable[tuple[Account, _Runs]]) -> Excess | None:
        for account, runs in bases:
            total = composed_epsilon(runs, self.delta)
            if not total <= account.cap:
                return Excess(account, total)
        return None

    def _fit(self, bases: Sequence[tuple[Account, _Runs]], more: Callable[[int], _Runs]) -> Fit:
        """How often ``more`` fits under every cap."""
        found = Fit(MAX_MORE, None)
        for account, runs in bases:
            # What is beyond accounting the ledger refuses as well.
            room = max(0, MAX_COUNT - _count(runs)) // _count(more(1))
            if room < found.count:
                found = Fit(room, None)
            count = largest_that_fits(self._fits(account, runs, more), found.count)
            if count < found.count:
                found = Fit(count, account)
        return found

    def _fits(
        self, account: Account, runs: _Runs, more: Callable[[int], _Runs]
    ) -> Callable[[int], bool]:
        return lambda count: composed_epsilon([*runs, *more(count)], self.delta) <= account.cap


def _runs_like(plan: RunPlan) -> Callable[[int], _Runs]:
    """So many runs of a plan. All but one of them stand together: RDP only counts."""
    events = plan.privacy_events()

    def runs(count: int) -> _Runs:
        if count == 1:
            return [list(events)]
        others = [replace(event, count=event.count * (count - 1)) for event in events]
        return [list(events), others]

    return runs


def _rounds_of(mechanism: Mechanism) -> Callable[[int], _Runs]:
    """So many rounds of a mechanism, as one run."""
    return lambda count: [[replace(mechanism.event, count=mechanism.steps * count)]]


def _count(runs: _Runs) -> int:
    return sum(event.count for events in runs for event in events)
