"""A region's part in sums of which its own noise is only a share: double masking, step by step.

What is sealed under a plan with distributed noise protects nobody by itself, so it leaves once, for
one set of regions, under masks that only their shares can take off (`common.double_masking`). Keys
live in this process's memory: an engine that ends in the middle of an execution is lost to it, and
nobody can make it speak twice.

The seal is dead as soon as its masked values may have left: the mask's entry is logged before, and
a seal with such an entry is never masked again, whoever asks. Two sums of the same sealed update
would differ by other regions' shares, down to one. What is asked for after that is a new attempt at
the round, with a charge and noise of its own. So is it logged whose sum a region helped to open.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from client.engine.log_state import LogState
from client.engine.masking import bound_text
from client.engine.policy import RegionPolicy
from client.engine.request import MAX_ATTEMPT, ExecuteRequest
from client.engine.seal import Seal
from client.engine.sealed_rounds import SealedRounds
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog, LogMovedError
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.double_masking.codec import (
    bytes_to_json,
    deliveries_from_json,
    envelopes_from_json,
    reveal_to_json,
    shares_to_json,
)
from common.double_masking.messages import RegionIdentity
from common.double_masking.records import Execution, names
from common.double_masking.region import RegionExecution
from common.keys import Registry, Signer
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.release_bounds import release_norm_bound
from common.secure_aggregation import RoundContext, SecureSumRefusedError, from_ring
from common.secure_aggregation.roster import ROSTER_VERSION
from common.timestamps import format_time
from common.validate import exact_fields, whole_number

_MAX_ROSTER_BYTES = 1 << 17

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


class Executions:
    """Takes a region's steps. Calls are serialised by the engine.

    Args:
        log: The region's open log.
        state: What the log says.
        sealed: The sealed updates on their way.
        registry: The verified key registry.
        policy: The policy in force.
        signer: The region's ``trainer`` key.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        log: AuditLog,
        state: LogState,
        sealed: SealedRounds,
        *,
        registry: Registry,
        policy: RegionPolicy,
        signer: Signer,
        clock_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._state = state
        self._sealed = sealed
        self._policy = policy
        self._signer = signer
        self._clock_ms = clock_ms
        self._identity = RegionIdentity(policy.region, signer, registry, clock_ms)
        self._claimed: dict[tuple[str, int], int] = {}
        self._open: dict[str, tuple[str, RegionExecution]] = {}

    def offer(self, run: str, server_round: int, *, sealed_in: int) -> Header:
        """What an answer to a training request holds in the place of the update.

        Args:
            run: The run.
            server_round: The round.
            sealed_in: The attempt that the round's update was sealed in.

        Returns:
            The number of the newest execution that is behind: the next one is of a later number
            than all before it, and of none below the attempt of what it sums.
        """
        return {"attempted": max(self._newest_attempt(run, server_round), sealed_in - 1)}

    def is_dead(self, run: str, server_round: int, index: int) -> bool:
        """Whether a seal's values may have left, so that it is never masked again.

        Args:
            run: The run.
            server_round: The round.
            index: The index of the seal's round entry in the log.
        """
        self._state.refresh()
        masks = self._state.masks.get((run, server_round), [])
        return bool(masks) and masks[-1].index > index

    def take(self, request: ExecuteRequest, plan: RunPlan) -> tuple[Header, Arrays]:
        """Takes one step.

        Args:
            request: The request.
            plan: The permitted plan, with distributed noise.

        Raises:
            SecureSumRefusedError: Names the reason; the execution is over then.
            StorageError: The log refuses.
            FormatError: The request is malformed.
        """
        self._state.refresh()
        newest = self._state.newest_round.get(request.run, request.server_round)
        if newest > request.server_round:
            raise SecureSumRefusedError("round-over", "A later round was trained here.")
        if request.step == "pin":
            return self._reply(request, keys=bytes_to_json(self._begin(request, plan))), {}
        execution = self._running(request)
        if request.step == "share":
            fields = exact_fields(request.content, {"keys", "threshold"}, "The share request")
            given = execution.share(
                envelopes_from_json(fields["keys"]),
                threshold=whole_number(fields["threshold"], "threshold", least=1),
            )
            return self._reply(request, shares=shares_to_json(given)), {}
        if request.step == "mask":
            return self._mask(request, plan, execution)
        if request.step == "agree":
            agreement = execution.agree(names(request.content, "The survivors"))
            return self._reply(request, agreement=bytes_to_json(agreement)), {}
        return self._unmask(request, execution)

    def _begin(self, request: ExecuteRequest, plan: RunPlan) -> bytes:
        seal = self._living_seal(request)
        if request.attempt >= MAX_ATTEMPT:
            raise SecureSumRefusedError("too-many-attempts", "No round needs so many executions.")
        execution = RegionExecution(
            self._execution(request, plan, seal),
            self._identity,
            round_entry=leaf_hash(seal.round_entry).hex(),
            claim=lambda _: self._claim(request),
        )
        # Whatever went before is given up: its secrets are gone with it.
        self._open[request.run] = (execution.execution.name, execution)
        return execution.pin_keys()

    def _claim(self, request: ExecuteRequest) -> None:
        key = (request.run, request.server_round)
        if request.attempt <= self._newest_attempt(*key):
            raise SecureSumRefusedError("context-used", "This execution has begun before.")
        self._claimed[key] = request.attempt

    def _newest_attempt(self, run: str, server_round: int) -> int:
        masks = self._state.masks.get((run, server_round), [])
        logged = max((mask.attempt for mask in masks), default=0)
        return max(logged, self._claimed.get((run, server_round), 0))

    def _execution(self, request: ExecuteRequest, plan: RunPlan, seal: Seal) -> Execution:
        return Execution(
            context=RoundContext.of(plan, request.server_round, seal.model_in),
            attempt=request.attempt,
            planned=frozenset(plan.regions),
            least=max(plan.quorum, self._policy.quorum_min, plan.aggregation.honest_survivors_min),
        )

    def _living_seal(self, request: ExecuteRequest) -> Seal:
        seal = self._sealed.read(request.run, request.server_round)
        if seal is None:
            raise SecureSumRefusedError("round-not-sealed", "The round has no update here.")
        index = self._sealed.log(request.run, request.server_round, seal)
        if self.is_dead(request.run, request.server_round, index):
            raise SecureSumRefusedError(
                "seal-dead", "The round's update left once under masks; it never does again."
            )
        return seal

    def _running(self, request: ExecuteRequest) -> RegionExecution:
        name, execution = self._open.get(request.run, ("", None))
        if execution is None or name != f"{request.run}/{request.server_round}/{request.attempt}":
            raise SecureSumRefusedError("no-execution", "This execution has not begun here.")
        return execution

    def _mask(
        self, request: ExecuteRequest, plan: RunPlan, execution: RegionExecution
    ) -> tuple[Header, Arrays]:
        deliveries = deliveries_from_json(request.content)
        seal = self._living_seal(request)
        mechanism = plan.mechanism_of(request.server_round)
        bound = release_norm_bound(plan, mechanism)
        flat = [seal.arrays[name].astype("<i4").reshape(-1) for name in sorted(seal.arrays)]
        vector = np.concatenate(flat)
        length = np.linalg.norm(np.ldexp(vector.astype(np.float64), mechanism.grid_exponent))
        # Nobody else can see to it. Written so that a norm that is no number does not pass.
        if not float(length) <= bound:
            raise SecureSumRefusedError("norm-too-large", "The update is over the public bound.")
        masked = execution.mask(deliveries, vector.view(np.uint32))
        arrays: Arrays = {**from_ring(masked, plan.released_arrays(mechanism.name))}
        record = self._mask_record(request, execution, arrays, bound)
        index, entry = self._log_once(request, seal, record)
        reply = self._reply(
            request,
            roster=record["roster"],
            masked=record["masked"],
            mask_entry=base64.b64encode(entry).decode(),
            **self._sealed.proof(index),
        )
        return reply, arrays

    def _mask_record(
        self,
        request: ExecuteRequest,
        execution: RegionExecution,
        arrays: Mapping[str, np.ndarray],
        bound: float,
    ) -> Header:
        members: list[JsonValue] = [*execution.members()]
        roster = {
            **execution.execution.context.to_record(),
            "v": ROSTER_VERSION,
            "members": members,
        }
        data = canonical_json.encode(roster, max_bytes=_MAX_ROSTER_BYTES)
        return {
            **self._about(request, "mask"),
            "roster": hashlib.sha256(data).hexdigest(),
            "members": members,
            "masked": arrays_digest(arrays),
            "bytes": sum(array.nbytes for array in arrays.values()),
            "norm_bound": bound_text(bound),
        }

    def _unmask(self, request: ExecuteRequest, execution: RegionExecution) -> tuple[Header, Arrays]:
        agreements = envelopes_from_json(request.content)
        survivors = execution.survivors
        reveal = execution.unmask(agreements)
        record: Header = {**self._about(request, "unmask"), "survivors": [*survivors]}
        self._log.append([make_entry(self._dated(record), self._signer)])
        self._state.refresh()
        return self._reply(request, reveal=reveal_to_json(reveal)), {}

    def _log_once(self, request: ExecuteRequest, seal: Seal, record: Header) -> tuple[int, bytes]:
        """Logs that values are about to leave; only if the seal is still one that may."""
        while True:
            self._living_seal(request)
            if self._sealed.must_discard(request.run, seal):
                raise SecureSumRefusedError(
                    "discarded-for-withdrawal", "A customer in it withdrew before it could leave."
                )
            self._state.refresh()
            judged = self._state.size
            entry = make_entry(self._dated(record), self._signer)
            try:
                (index,) = self._log.append([entry], expected_size=judged)
            except LogMovedError:
                continue
            self._state.refresh()
            return index, entry

    def _about(self, request: ExecuteRequest, kind: str) -> Header:
        return {
            "v": f"fedpref-{kind}/1",
            "run": request.run,
            "round": request.server_round,
            "attempt": request.attempt,
            "region": self._policy.region,
        }

    def _dated(self, record: Header) -> Header:
        return {**record, "time": format_time(max(self._clock_ms(), self._state.newest_ms))}

    def _reply(self, request: ExecuteRequest, **fields: JsonValue) -> Header:
        return {
            "status": "ok",
            "run": request.run,
            "round": request.server_round,
            "attempt": request.attempt,
            "region": self._policy.region,
            "step": request.step,
            **fields,
        }
