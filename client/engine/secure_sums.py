"""A region's part where only the sum of updates is to be seen: by pairwise or by double masks.

With local noise an update is private by itself, and the same sealed bytes may be masked again for
survivors (`client.engine.masking`). With distributed noise they may leave once
(`client.engine.executions`). The plan says which.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from client.engine.executions import Executions
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.masking import Masking
from client.engine.masking_keys import MaskingKeyStore
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy
from client.engine.request import ExecuteRequest, MaskRequest, TrainRequest
from client.engine.seal import Seal
from client.engine.sealed_rounds import SealedRounds
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import PolicyError
from common.keys import Registry, Signer
from common.plan import RunPlan
from common.secure_aggregation import SecureSumRefusedError

Answer = tuple[dict[str, JsonValue], dict[str, np.ndarray]]


class SecureSums:
    """Answers what is asked for secure sums. Calls are serialised by the engine.

    Args:
        home: The region's home.
        log: Its open log.
        state: What the log says.
        sealed: The sealed updates on their way.
        permits: The region's permits.
        registry: The verified key registry.
        policy: The policy in force.
        signer: The region's ``trainer`` key.
        clock_ms: Now, in milliseconds since the epoch.

    Attributes:
        masking: The sums with local noise.
    """

    def __init__(
        self,
        home: RegionHome,
        *,
        log: AuditLog,
        state: LogState,
        sealed: SealedRounds,
        permits: PermitShelf,
        registry: Registry,
        policy: RegionPolicy,
        signer: Signer,
        clock_ms: Callable[[], int],
    ) -> None:
        self._sealed = sealed
        self._permits = permits
        self.masking = Masking(
            log,
            state,
            sealed,
            MaskingKeyStore(home.masking),
            registry=registry,
            policy=policy,
            signer=signer,
            clock_ms=clock_ms,
        )
        self.masking.forget_expired(home.permits)
        self._executions = Executions(
            log,
            state,
            sealed,
            registry=registry,
            policy=policy,
            signer=signer,
            clock_ms=clock_ms,
        )

    def offer(
        self, plan: RunPlan, request: TrainRequest, seal: Seal
    ) -> dict[str, JsonValue] | None:
        """What an answer to a training request holds in the update's place; None if that goes.

        Args:
            plan: The run plan.
            request: The request.
            seal: The round's sealed update, logged.

        Raises:
            FedprefError: It cannot be offered; the update does not leave either.
        """
        if plan.mode == "distributed":
            # A share of the noise protects nobody: it leaves under masks that open once.
            return self._executions.offer(
                request.run, request.server_round, sealed_in=_attempt_of(seal)
            )
        if plan.aggregation.rule == "secure-sum":
            self.masking.forget(request.run, before=request.server_round)
            # Nothing leaves but under masks, once it is known whose sum it is for.
            return self.masking.offer(plan, request.server_round, seal)
        return None

    def mask(self, request: MaskRequest) -> Answer:
        """A sealed update under pairwise masks.

        Raises:
            FedprefError: Nothing was released.
        """
        plan = self._permits.open(request.run).plan
        if (plan.aggregation.rule, plan.mode) != ("secure-sum", "local"):
            raise PolicyError("The permitted plan does not ask for sums of masked updates.")
        return self.masking.mask(request, plan)

    def execute(self, request: ExecuteRequest) -> Answer:
        """A step of an execution of double masking.

        Raises:
            FedprefError: Nothing was released.
        """
        plan = self._permits.open(request.run).plan
        if plan.mode != "distributed":
            raise PolicyError("The permitted plan does not ask for distributed noise.")
        return self._executions.take(request, plan)

    def is_dead(self, run: str, server_round: int, seal: Seal) -> bool:
        """Whether a seal's values may have left under double masks."""
        if self._permits.open(run).plan.mode != "distributed":
            return False
        index = self._sealed.logged(seal)
        return index is not None and self._executions.is_dead(run, server_round, index)

    def require_new_attempt(self, request: TrainRequest, seal: Seal) -> None:
        """Requires that what is dead is asked for as a new attempt.

        Raises:
            SecureSumRefusedError: ``seal-dead``.
        """
        if request.attempt <= _attempt_of(seal):
            raise SecureSumRefusedError(
                "seal-dead",
                f"Round {request.server_round} left once under masks, and not again: what is asked "
                "for must be a new attempt, with a charge of its own.",
            )


def _attempt_of(seal: Seal) -> int:
    return int(str(Envelope.decode(seal.round_entry).record()["attempt"]))
