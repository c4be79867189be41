"""What charges have spent, account by account, and which caps hold it.

An account is what one cap is held against: all charges of a calendar year, or those of them for one
model or one purpose. The lifetime has none: it is told (an odometer), not capped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from client.engine.charges import Charge, ChargeRequest
from common.privacy import GaussianEvent, epsilon, epsilon_rdp


@dataclass(frozen=True)
class Account:
    """A cap, and what counts towards it.

    Attributes:
        kind: ``year`` for the hard total; ``model`` or ``purpose`` for a part of it.
        name: The model's or the purpose's name; of a year, the year.
        year: The budget year (UTC).
        cap: The most ε; 0 where nothing may be spent, infinity where there is no cap.
    """

    kind: Literal["year", "model", "purpose"]
    name: str
    year: int
    cap: float

    def counts(self, request: ChargeRequest) -> bool:
        """Whether a charge counts towards it."""
        return request.year == self.year and self.covers(request.model, request.purpose)

    def covers(self, model: str, purpose: str) -> bool:
        """Whether what is spent in its year for a model and a purpose counts towards it."""
        return self.kind == "year" or self.name == (model if self.kind == "model" else purpose)

    @property
    def words(self) -> str:
        """Whose budget it is, to name it in a sentence."""
        return f"{self.year}" if self.kind == "year" else f"{self.year} for {self.kind} {self.name}"


@dataclass(frozen=True)
class Reservation:
    """What a run under way will have spent at its end.

    Attributes:
        run: The run.
        model: Its plan's model.
        purpose: Its plan's purpose.
        events: All events of its plan, and of attempts beyond it.
    """

    run: str
    model: str
    purpose: str
    events: Sequence[GaussianEvent]


@dataclass(frozen=True)
class EpsilonCaps:
    """The caps of one region, each per calendar year.

    Attributes:
        year: The hard total.
        models: The cap of each model; None sets none below the total. A model that is not in the
            table has no budget: whoever names a run's model cannot name one past it.
        purposes: The same of each purpose.
    """

    year: float
    models: Mapping[str, float] | None = None
    purposes: Mapping[str, float] | None = None

    def accounts(self, year: int, model: str, purpose: str) -> list[Account]:
        """What a charge for a model and a purpose is held against."""
        found = [Account("year", str(year), year, self.year)]
        if self.models is not None:
            found.append(Account("model", model, year, self.models.get(model, 0.0)))
        if self.purposes is not None:
            found.append(Account("purpose", purpose, year, self.purposes.get(purpose, 0.0)))
        return found

    def all_accounts(self, year: int, charged: Iterable[ChargeRequest]) -> list[Account]:
        """The year, and each model and purpose that a table names or a charge was booked on.

        Without a table, what was booked is told all the same, under a cap of infinity.
        """
        requests = [request for request in charged if request.year == year]
        models = self._parts(self.models, (request.model for request in requests))
        purposes = self._parts(self.purposes, (request.purpose for request in requests))
        return [
            Account("year", str(year), year, self.year),
            *(Account("model", name, year, cap) for name, cap in models),
            *(Account("purpose", name, year, cap) for name, cap in purposes),
        ]

    @staticmethod
    def _parts(table: Mapping[str, float] | None, booked: Iterable[str]) -> list[tuple[str, float]]:
        caps, missing = ({}, math.inf) if table is None else (table, 0.0)
        return [(name, caps.get(name, missing)) for name in sorted({*caps, *booked})]


@dataclass(frozen=True)
class Spending:
    """ε spent, at the ledger's δ; add-or-remove-one-customer, unit: customer.

    Attributes:
        run: By one run.
        year: By everything charged in the budget year.
        lifetime: By everything ever charged.
        cap: The year's hard total.
    """

    run: float
    year: float
    lifetime: float
    cap: float


def composed_epsilon(runs: Iterable[Sequence[GaussianEvent]], delta: float) -> float:
    """ε of all runs' events together, at ``delta``.

    Formal guarantees:
        One run's parameters are fixed when it is reserved, so its privacy loss distribution
        composes tightly (PLD). Several runs are chosen one after another, each perhaps because of
        what the last one showed: they compose by RDP, whose filter holds for adaptively chosen
        mechanisms (Feldman and Zrnic, 2021). Where it depends on the first run's outcome whether
        there is a second one, both statements are used, and δ of the whole is at most 2·δ.

    Args:
        runs: The events, run by run; empty runs are ignored.
        delta: δ of the statement, in (0, 1).
    """
    charged = [list(events) for events in runs if events]
    if not charged:
        return 0.0
    if len(charged) == 1:
        return epsilon(charged[0], delta)
    return epsilon_rdp([event for events in charged for event in events], delta)


def spent_by(requests: Iterable[ChargeRequest], delta: float) -> float:
    """ε of some charges together, at ``delta``; see `composed_epsilon`."""
    return composed_epsilon(events_by_run(requests).values(), delta)


def spending_of(
    charges: Sequence[Charge], run: str, year: int, cap: float, delta: float
) -> Spending:
    """The odometer's reading over some charges."""
    requests = [charge.request for charge in charges]
    return Spending(
        run=spent_by((request for request in requests if request.run == run), delta),
        year=spent_by((request for request in requests if request.year == year), delta),
        lifetime=spent_by(requests, delta),
        cap=cap,
    )


def events_by_run(requests: Iterable[ChargeRequest]) -> dict[str, list[GaussianEvent]]:
    """The events of some charges, run by run."""
    runs: dict[str, list[GaussianEvent]] = {}
    for request in requests:
        runs.setdefault(request.run, []).append(request.event)
    return runs
