"""Charges: paid from the ledger, then logged, before anything is trained.

The ledger is what the region spends from; the log is what others see. After a crash between the
two the missing entries are logged; a ledger that lacks what the log has is an old copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from client.engine.charges import Charge, ChargeRequest
from client.engine.entries import charge_record
from client.engine.home import RegionHome
from client.engine.ledger import Ledger
from client.engine.log_state import LogState
from client.engine.logged_charges import require_all_charged
from client.engine.permit import Permit
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy
from client.engine.queries import SAMPLING_PROBABILITY, STEPS, Query, QueryPart
from client.engine.refusals import ClockError
from client.engine.request import TrainRequest
from client.engine.under_way import RunsUnderWay, events_of_run
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.consent import new_ulid
from common.errors import BudgetError, PolicyError, StorageError
from common.keys import Signer
from common.plan import Mechanism, RunPlan, epsilon_bound
from common.timestamps import format_time, parse_time


class Charging:
    """Charges a region's budget and logs it.

    Args:
        home: The region's home.
        log: Its open log.
        state: What the log says.
        ledger: Its open ledger.
        permits: The region's permits.
        policy: The policy in force.
        signer: The region's ``trainer`` key.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        home: RegionHome,
        *,
        log: AuditLog,
        state: LogState,
        ledger: Ledger,
        permits: PermitShelf,
        policy: RegionPolicy,
        signer: Signer,
        clock_ms: Callable[[], int],
    ) -> None:
        self._home = home
        self._log = log
        self._state = state
        self._ledger = ledger
        self._under_way = RunsUnderWay(ledger, permits)
        self._policy = policy
        self._signer = signer
        self._clock_ms = clock_ms

    def admit(self, plan: RunPlan) -> None:
        """Checks that the budget pays for a whole run, and works out what its rounds will cost.

        Raises:
            BudgetError: It does not.
            ClockError: The clock is behind the log's newest entry.
        """
        self._require_paid(plan)
        self._ledger.foresee(
            plan.run_id,
            int(self._now()[:4]),
            [
                replace(plan.mechanism_of(number).event, count=plan.mechanism_of(number).steps)
                for number in range(1, plan.total_rounds + 1)
            ],
        )

    def _require_paid(self, plan: RunPlan) -> None:
        now = self._now()
        self._ledger.admit(
            plan.run_id,
            int(now[:4]),
            plan.privacy_events(),
            model=plan.model,
            purpose=plan.purpose,
            reserved=self._under_way.reserved(but=plan.run_id, now_ms=parse_time(now)),
        )

    def end(self, run: str) -> None:
        """The coordinator says that a run is over: what it did not spend is no longer reserved."""
        self._under_way.end(run)

    def charge(
        self, request: TrainRequest, permit: Permit, mechanism: Mechanism, *, anew: bool = False
    ) -> Charge:
        """The charge of a round: made and logged now, or the one that a crash left unused.

        Args:
            request: The request.
            permit: The run's permit.
            mechanism: The round's mechanism.
            anew: Whether what the round's last charge paid for is dead, and this is a new attempt:
                another mechanism, which is paid for by itself.

        Raises:
            BudgetError: The budget does not pay for the run, or the plan's ε for another attempt.
            ClockError: The clock is behind the log's or the ledger's newest entry.
            PolicyError: The run was charged under another permit.
            StorageError: The charge has paid for a release already.
        """
        # A charge without a seal released nothing, so a repeated request may still use it.
        charge = self._ledger.find(request.run, request.server_round)
        self._require_same_permit(request, permit)
        used = charge is not None and charge.request.charge_id in self._state.released
        if anew and used:
            self._require_spare(permit.plan, mechanism)
            charge = None
        elif used:
            raise StorageError(
                f"The seal of round {request.server_round} is gone; the log has its release.",
                remedy="Restore the seal from a backup; noise is never drawn twice for one charge.",
            )
        if charge is None:
            self._require_paid(permit.plan)
            charge = self._ledger.charge(
                ChargeRequest(
                    charge_id=new_ulid(),
                    run=request.run,
                    model=permit.plan.model,
                    purpose=permit.plan.purpose,
                    server_round=request.server_round,
                    attempt=request.attempt,
                    mechanism=mechanism.name,
                    noise_multiplier=mechanism.noise_multiplier,
                    clipping_norm=mechanism.clipping_norm,
                    sampling_probability=mechanism.sampling_probability,
                    steps=mechanism.steps,
                    permit_id=permit.permit_id,
                    time=self._now(),
                    key_delta=mechanism.key_delta,
                ),
                anew=anew,
            )
        # This one, and any that the log's disk refused when it was made: the log has no gaps.
        self._log_missing()
        return charge

    def charge_query(self, query: Query, part: QueryPart) -> Charge:
        """The charge of one part of a query: made and logged now, or what a crash left unused.

        Args:
            query: The query.
            part: Its part.

        Raises:
            BudgetError: The budget does not pay for the whole query.
            ClockError: The clock is behind the log's or the ledger's newest entry.
            PolicyError: What was charged is another mechanism than the part.
            StorageError: The charge has paid for an answer already.
        """
        charge = self._ledger.find(query.run, part.number)
        if charge is not None:
            _require_same_mechanism(charge, query, part)
        if charge is not None and charge.request.charge_id in self._state.released:
            raise StorageError(
                f"The answer to {part.name} of query {query.permit_id} is gone; the log has it.",
                remedy="Restore it from a backup, or ask anew: that is charged anew.",
            )
        if charge is None:
            now = self._now()
            # All parts, so that none is paid for in vain.
            self._ledger.admit(
                query.run,
                int(now[:4]),
                [each.event for each in query.parts],
                model=query.model,
                purpose=query.purpose,
                reserved=self._under_way.reserved(but=query.run, now_ms=parse_time(now)),
            )
            charge = self._ledger.charge(
                ChargeRequest(
                    charge_id=new_ulid(),
                    run=query.run,
                    model=query.model,
                    purpose=query.purpose,
                    server_round=part.number,
                    attempt=1,
                    mechanism=part.name,
                    noise_multiplier=part.noise_multiplier,
                    clipping_norm=part.clipping_norm,
                    sampling_probability=SAMPLING_PROBABILITY,
                    steps=STEPS,
                    permit_id=query.permit_id,
                    time=now,
                )
            )
        self._log_missing()
        return charge

    def _require_spare(self, plan: RunPlan, mechanism: Mechanism) -> None:
        """The permit is for the plan's ε: all its rounds, and every attempt beyond one at each."""
        events = events_of_run(plan, self._ledger.charges)
        events.append(replace(mechanism.event, count=mechanism.steps))
        total = epsilon_bound(tuple(events), float(plan.delta))
        # Written so that a NaN is refused too.
        if not total <= float(plan.epsilon):
            raise BudgetError(
                f"Another attempt at the round would bring the run to ε = {total:.4f}; its plan "
                f"and permit are for {plan.epsilon}.",
                remedy="Begin a new run. A plan whose mechanisms spend less than the ε it states "
                "leaves room for such attempts.",
            )

    def log(self, charge: Charge) -> None:
        """Logs a charge of the ledger."""
        spending = self._ledger.spending(
            charge.request.run, charge.request.year, upto_seq=charge.seq
        )
        record = charge_record(
            charge,
            spending,
            self._home.region,
            self._policy,
            honest_survivors_min=self._honest_survivors_min(charge.request.run),
        )
        self._log.append([make_entry(record, self._signer)])
        self._state.refresh()

    def match_ledger_and_log(self) -> None:
        """Logs charges that a crash left unlogged; refuses a ledger older than the log.

        Raises:
            StorageError: The log has a charge that the ledger lacks.
        """
        require_all_charged(self._state.charges.values(), self._ledger.charges, self._home.ledger)
        self._log_missing()

    def _log_missing(self) -> None:
        """Logs the ledger's charges that the log lacks, in order."""
        for charge in self._ledger.charges:
            if charge.request.charge_id not in self._state.charges:
                self.log(charge)

    def _honest_survivors_min(self, run: str) -> int:
        if (self._home.queries / f"{run}.json").is_file():
            return 0  # An answer's noise is all the region's own.
        return self._plan_of(run).aggregation.honest_survivors_min

    def _plan_of(self, run: str) -> RunPlan:
        """The plan that a run was charged under, from beside its permit."""
        path = self._home.permits / f"{run}.plan.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"A charge of run {run} is not logged yet, and its plan {path} cannot be read: "
                f"{error.strerror}.",
                remedy="Restore the run's plan from a backup.",
            ) from error
        return RunPlan.from_record(canonical_json.decode(data, max_bytes=1 << 20))

    def _now(self) -> str:
        """The time to charge at.

        A clock that was set back would book on a year that is over, or is spent less.
        """
        self._state.refresh()
        newest_ms, now_ms = self._state.newest_ms, self._clock_ms()
        if now_ms < newest_ms:
            raise ClockError(
                f"The clock says {format_time(now_ms)}, before the log's newest entry "
                f"({format_time(newest_ms)}).",
                remedy="Correct the clock; nothing is charged till then.",
            )
        return format_time(now_ms)

    def _require_same_permit(self, request: TrainRequest, permit: Permit) -> None:
        """A run is charged under one permit: what was reserved is what runs."""
        for charge in self._ledger.charges:
            if charge.request.run == request.run and charge.request.permit_id != permit.permit_id:
                raise PolicyError(
                    f"Run {request.run} was charged under another permit; a run has one permit.",
                    remedy="Begin a new run under the new permit.",
                )


def _require_same_mechanism(charge: Charge, query: Query, part: QueryPart) -> None:
    """A charge pays for what it says: not for less noise, nor for another query."""
    request = charge.request
    said = {
        "mechanism": (request.mechanism, part.name),
        "noise_multiplier": (request.noise_multiplier, part.noise_multiplier),
        "clipping_norm": (request.clipping_norm, part.clipping_norm),
        "permit_id": (request.permit_id, query.permit_id),
    }
    differing = [name for name, (charged, asked) in said.items() if charged != asked]
    if differing:
        raise PolicyError(
            f"Part {part.number} of query {query.permit_id} was charged with another "
            f"{', '.join(differing)}.",
            remedy="Ask anew: that is another query, with a charge of its own.",
        )
