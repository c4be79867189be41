"""Which runs are under way in a region, and what of the budget is theirs.

A run is admitted for its whole plan before its first charge. Two runs at once, each admitted beside
what the other has spent so far, could together outgrow the cap, and both be broken off with their
budgets half spent. So a run that has begun has all of its plan reserved till it ends: its last
round is charged, the coordinator says that it is over, its permit ends, or nothing is asked of it
for as long as a few of its rounds may take. The cap itself needs none of this: the ledger holds
every charge against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from client.engine.charges import Charge, ChargeRequest
from client.engine.ledger import Ledger
from client.engine.permit_shelf import PermitShelf
from client.engine.spending import Reservation
from common.errors import FormatError, PolicyError
from common.plan import RunPlan
from common.privacy import GaussianEvent
from common.timestamps import parse_time

#: After how many of its rounds' timeouts without a charge a run counts as abandoned, and how long
#: the phases around a round may take besides, in seconds.
IDLE_ROUNDS, IDLE_SLACK_S = 3, 600

# No plan's rounds take longer than a week, so no permit need be opened for what is older.
_LONGEST_IDLE_S = IDLE_ROUNDS * 7 * 86_400 + IDLE_SLACK_S


class RunsUnderWay:
    """Knows them from the ledger and the permits, so that a restart forgets none.

    Args:
        ledger: The open ledger.
        permits: The region's permits.
    """

    def __init__(self, ledger: Ledger, permits: PermitShelf) -> None:
        self._ledger = ledger
        self._permits = permits
        self._ended: dict[str, int] = {}

    def end(self, run: str) -> None:
        """The coordinator says that a run is over; what it charges after that counts again."""
        self._ended[run] = self._charges_of(run)

    def reserved(self, *, but: str, now_ms: int) -> list[Reservation]:
        """What the runs under way will have come to.

        Args:
            but: A run that is left out.
            now_ms: Now, in milliseconds since the epoch.
        """
        newest: dict[str, ChargeRequest] = {}
        for charge in self._ledger.charges:
            newest[charge.request.run] = charge.request
        found = []
        for run, last in newest.items():
            if run == but or self._ended.get(run) == self._charges_of(run):
                continue
            plan = self._plan_under_way(run, last, now_ms)
            if plan is not None:
                events = events_of_run(plan, self._ledger.charges)
                found.append(Reservation(run, plan.model, plan.purpose, events))
        return found

    def _plan_under_way(self, run: str, last: ChargeRequest, now_ms: int) -> RunPlan | None:
        last_ms = parse_time(last.time)
        if now_ms - last_ms > _LONGEST_IDLE_S * 1000:
            return None
        try:
            plan = self._permits.open(run).plan
        except (PolicyError, FormatError):
            # Expired, or of another policy or engine: it is not trained for any more.
            return None
        idle_s = IDLE_ROUNDS * plan.round_timeout_s + IDLE_SLACK_S
        is_idle = now_ms - last_ms > idle_s * 1000
        return None if is_idle or last.server_round >= plan.total_rounds else plan

    def _charges_of(self, run: str) -> int:
        return sum(charge.request.run == run for charge in self._ledger.charges)


def events_of_run(plan: RunPlan, charges: Iterable[Charge]) -> list[GaussianEvent]:
    """The events that a run comes to: all its rounds, and every attempt beyond one at each.

    Args:
        plan: Its plan.
        charges: The ledger's charges, of whatever run.
    """
    events, rounds = list(plan.privacy_events()), set[int]()
    for charge in charges:
        if charge.request.run == plan.run_id:
            if charge.request.server_round in rounds:
                events.append(charge.request.event)
            rounds.add(charge.request.server_round)
    return events
