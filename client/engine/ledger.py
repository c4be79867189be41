"""The region's budget ledger: every charge, durable before its mechanism may run.

A *privacy filter* (it refuses) and an *odometer* (it tells) over one append-only table. A charge is
committed to disk before any noise is drawn, so a crash may waste a charge but can never release
anything uncharged. Each row's head is a hash over the row and the previous head; heads go into the
audit log, so that a ledger restored from an old disk is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from client.engine.charges import GENESIS_HEAD, Charge, ChargeRequest
from client.engine.ledger_store import insert, open_for_writing, read_chain
from client.engine.refusals import ClockError
from client.engine.spending import (
    Account,
    EpsilonCaps,
    Reservation,
    Spending,
    composed_epsilon,
    events_by_run,
    spending_of,
    spent_by,
)
from common.errors import BudgetError, StorageError
from common.failpoints import Point, reach
from common.privacy import UNIT_AND_RELATION, GaussianEvent

# Of a longer run the later rounds' compositions are worked out when they come: each takes a tenth
# of a second or so.
_FORESEEN_ROUNDS = 32


class Ledger:
    """An open budget ledger. One writer at a time; use `open_ledger`."""

    def __init__(
        self, connection: apsw.Connection, path: Path, *, caps: EpsilonCaps, delta: float
    ) -> None:
        self._connection = connection
        self._path = path
        self._caps = caps
        self._delta = delta
        self._charges = read_chain(connection, path)

    @property
    def head(self) -> str:
        """The newest row's head, or `GENESIS_HEAD`."""
        return self._charges[-1].head if self._charges else GENESIS_HEAD

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every charge, oldest first."""
        return tuple(self._charges)

    def find(self, run: str, server_round: int) -> Charge | None:
        """The newest charge of one round of a run, if one was made."""
        for charge in reversed(self._charges):
            if (charge.request.run, charge.request.server_round) == (run, server_round):
                return charge
        return None

    def spending(self, run: str, year: int, *, upto_seq: int | None = None) -> Spending:
        """The odometer's reading, after charge ``upto_seq`` if given."""
        seen = [charge for charge in self._charges if upto_seq is None or charge.seq <= upto_seq]
        return spending_of(seen, run, year, self._caps.year, self._delta)

    def admit(
        self,
        run: str,
        year: int,
        planned: Sequence[GaussianEvent],
        *,
        model: str,
        purpose: str,
        reserved: Sequence[Reservation] = (),
    ) -> float:
        """Asks whether a whole run fits under every cap, before its first charge.

        Args:
            run: The run's id; what it was charged already counts as part of ``planned``.
            year: The budget year.
            planned: All events of the run's plan.
            model: The plan's model.
            purpose: The plan's purpose.
            reserved: What other runs that are under way will come to: they were admitted first, and
                one that would not leave them enough is refused rather than both broken off.

        Returns:
            ε of the year if the plan is carried out, and those of the runs under way.

        Raises:
            BudgetError: A cap could not pay for it.
        """
        totals = []
        for account in self._caps.accounts(year, model, purpose):
            others = events_by_run(each for each in self._booked(account) if each.run != run)
            under_way = {
                each.run: list(each.events)
                for each in reserved
                if each.run != run and account.covers(each.model, each.purpose)
            }
            runs = [*(others | under_way).values(), list(planned)]
            totals.append(composed_epsilon(runs, self._delta))
            self._require_within(account, totals[-1], f"run {run} as planned")
        return totals[0]

    def foresee(self, run: str, year: int, rounds: Sequence[GaussianEvent]) -> None:
        """Works out what ε each round of an admitted run will come to, before there is a hurry.

        The charges of the rounds ask for the same compositions, which are remembered (see
        `common.privacy`). Nothing depends on whether this was called.

        Args:
            run: The run's id.
            year: The budget year.
            rounds: The events of its rounds, in order.
        """
        others = [charge.request for charge in self._charges if charge.request.run != run]
        for done in range(1, min(len(rounds), _FORESEEN_ROUNDS) + 1):
            own = rounds[:done]
            for counted in ([], [each for each in others if each.year == year], others):
                composed_epsilon([*events_by_run(counted).values(), own], self._delta)

    def charge(self, request: ChargeRequest, *, anew: bool = False) -> Charge:
        """Commits a charge; returns only after it is durable.

        Args:
            request: What is charged.
            anew: Whether it may be for another attempt at a round that was charged before: what
                the earlier charge paid for is dead, and this pays for another mechanism.

        Raises:
            BudgetError: A cap would be exceeded, or the round is charged already.
            ClockError: The clock is behind the newest charge.
            StorageError: The ledger cannot be written; nothing is charged.
        """
        charged = self.find(request.run, request.server_round)
        if charged is not None and not (anew and charged.request.attempt < request.attempt):
            raise BudgetError(
                f"Round {request.server_round} of run {request.run} is charged already; "
                "a round is paid for once."
            )
        if self._charges and request.time < self._charges[-1].request.time:
            # A clock set back a year would find that year's budget unspent.
            raise ClockError(
                f"The clock says {request.time}, before the ledger's newest charge "
                f"({self._charges[-1].request.time}).",
                remedy="Correct the clock; nothing is charged till then.",
            )
        for account in self._caps.accounts(request.year, request.model, request.purpose):
            total = spent_by([*self._booked(account), request], self._delta)
            self._require_within(
                account, total, f"round {request.server_round} of run {request.run}"
            )
        reach(Point.LEDGER_ADMITTED)
        charge = Charge.after(self.head, request, len(self._charges) + 1)
        insert(self._connection, self._path, charge)
        self._charges.append(charge)
        return charge

    def adopt(self, request: ChargeRequest, head: str) -> Charge:
        """Takes back a charge that the log has and this restored ledger lacks.

        Raises:
            StorageError: It is not this ledger's next row.
        """
        charge = Charge.after(self.head, request, len(self._charges) + 1)
        if charge.head != head:
            raise StorageError(
                f"Charge {request.charge_id} of the log does not continue the ledger {self._path}.",
                remedy="The ledger is of another history: restore a newer backup of it.",
            )
        insert(self._connection, self._path, charge)
        self._charges.append(charge)
        return charge

    def _booked(self, account: Account) -> list[ChargeRequest]:
        return [charge.request for charge in self._charges if account.counts(charge.request)]

    def _require_within(self, account: Account, total: float, what: str) -> None:
        # Written so that a NaN is refused too.
        if not total <= account.cap:
            spent = spent_by(self._booked(account), self._delta)
            raise BudgetError(
                f"The privacy budget of {account.words} cannot pay for {what}: it would bring ε to "
                f"{total:.4f} (δ = {self._delta:g}; {UNIT_AND_RELATION}), the cap is "
                f"{account.cap:g}, {spent:.4f} is spent ({self._path.parent.name}).",
                remedy="Ask for a smaller ε or fewer rounds, or wait for the next budget year.",
            )


@contextmanager
def open_ledger(path: Path, *, caps: EpsilonCaps, delta: float) -> Iterator[Ledger]:
    """Opens a ledger and checks its chain of heads. It must be there: see `make_ledger`.

    Args:
        path: The database file.
        caps: The caps on ε per budget year.
        delta: δ at which every ε of this ledger is stated.

    Raises:
        StorageError: Missing, locked by another process, unreadable, altered, of another version,
            or not a ledger.
    """
    with open_for_writing(path) as connection:
        yield Ledger(connection, path, caps=caps, delta=delta)
