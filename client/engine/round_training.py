"""One region's part of one round, from the request till its sealed update is in the log.

In this order: check the permit → check the cosignatures → charge the ledger (durable) → train →
noise → seal (durable) → log the round and the release → answer. A repeated request gets the same
sealed bytes. Whatever fails, fails before anything leaves.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from client.engine.charging import Charging
from client.engine.entries import RoundContext, release_record, round_record
from client.engine.home import RegionHome
from client.engine.ledger import Ledger
from client.engine.log_state import LogState
from client.engine.observing import EngineObserver
from client.engine.permit import Permit
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy
from client.engine.preparation import ConsentSnapshot, RegionData
from client.engine.request import TrainRequest
from client.engine.seal import Seal, SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.secure_sums import SecureSums
from client.engine.snapshots import PublishedSnapshots
from client.engine.witnessing import RegionWitness
from client.training.noise import NoiseSource
from client.training.turns import TRAINING_TURN
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.errors import PolicyError
from common.failpoints import Point, reach
from common.keys import Signer
from common.parameters import arrays_digest, check_arrays
from common.plan import Mechanism
from common.planned_keys import check_release

Answer = tuple[dict[str, JsonValue], dict[str, np.ndarray]]


@dataclass(frozen=True)
class RoundParts:
    """What a round is made with: the open parts of one engine.

    Attributes:
        home: The region's home.
        policy: The policy in force.
        log: The region's open log.
        state: What the log says.
        ledger: The open ledger.
        permits: The region's permits.
        snapshots: The published consent snapshots.
        witness: The region's witness, and what it keeps.
        charging: Charges the ledger and logs it.
        seals: The folder of seals.
        sealed: Sealed updates on their way into the log.
        secure: What is asked for secure sums.
        data: The region's store.
        trainer: The region's ``trainer`` key.
        noise: Where noise comes from.
        clock_ms: Now, in milliseconds since the epoch.
        observer: Is told what is done.
    """

    home: RegionHome
    policy: RegionPolicy
    log: AuditLog
    state: LogState
    ledger: Ledger
    permits: PermitShelf
    snapshots: PublishedSnapshots
    witness: RegionWitness
    charging: Charging
    seals: SealStore
    sealed: SealedRounds
    secure: SecureSums
    data: RegionData
    trainer: Signer
    noise: NoiseSource
    clock_ms: Callable[[], int]
    observer: EngineObserver


class RoundTraining:
    """Trains rounds. Calls are serialised by the engine.

    Args:
        parts: The engine's parts.
    """

    def __init__(self, parts: RoundParts) -> None:
        self._parts = parts

    def train(self, request: TrainRequest, arrays: Mapping[str, np.ndarray]) -> Answer:
        """A round's answer; see the module's docstring for the order.

        Args:
            request: The request.
            arrays: The model that the round starts from.

        Raises:
            FedprefError: Nothing was released.
        """
        parts, begun_s = self._parts, time.monotonic()
        permit = parts.permits.open(request.run)
        if request.plan != permit.plan.digest:
            raise PolicyError("The request is for another plan than the permit's.")
        mechanism = permit.mechanism_of(request.server_round, request.mechanism)
        check_arrays(arrays, permit.plan.model_arrays(request.server_round), grid=None)
        model_in = arrays_digest(arrays)
        seal = parts.sealed.read(request.run, request.server_round)
        snapshot: ConsentSnapshot | None = None
        dead = False
        if seal is not None and parts.secure.is_dead(request.run, request.server_round, seal):
            parts.secure.require_new_attempt(request, seal)
            dead = True
        if seal is None or dead:
            reach(Point.BEGUN)
            seal, snapshot = self._train_and_seal(
                request, permit, mechanism, dict(arrays), model_in, anew=dead
            )
        elif seal.model_in != model_in:
            raise PolicyError(
                f"Round {request.server_round} was sealed for another model; it is not trained "
                "a second time."
            )
        included = None if snapshot is None else snapshot.eligible.sids
        index = parts.sealed.log(request.run, request.server_round, seal, included=included)
        reach(Point.LOGGED)
        if snapshot is not None:
            self._tell_done(request, seal, snapshot, time.monotonic() - begun_s)
        reply = self._reply(request, seal, index)
        offered = parts.secure.offer(permit.plan, request, seal)
        reach(Point.ANSWERED)
        if offered is not None:
            return reply | offered, {}
        return reply, dict(seal.arrays)

    def _train_and_seal(
        self,
        request: TrainRequest,
        permit: Permit,
        mechanism: Mechanism,
        model: dict[str, np.ndarray],
        model_in: str,
        *,
        anew: bool,
    ) -> tuple[Seal, ConsentSnapshot]:
        """Trains and seals; gives the seal, and the snapshot of those it was trained on."""
        # Takes seconds the first time, and most of what opens an engine trains nothing. An engine's
        # process has done it before anyone asks (`client.commands.engine_process`).
        from client.engine.round_release import release_maker

        parts, plan = self._parts, permit.plan
        start_ms = parts.clock_ms()
        # Items that are others, or said to be, cost the region nothing.
        parts.data.require_catalogue_of(plan)
        snapshot = self._witnessed(request, start_ms)
        made = release_maker(
            parts.data,
            parts.noise,
            plan=plan,
            mechanism=mechanism,
            server_round=request.server_round,
            model=model,
            snapshot=snapshot,
        )
        charge = parts.charging.charge(request, permit, mechanism, anew=anew)
        reach(Point.CHARGED)
        spending = parts.ledger.spending(request.run, charge.request.year, upto_seq=charge.seq)
        parts.observer.charged(spending.year, spending.cap)
        with TRAINING_TURN:
            update = made()
        reach(Point.NOISED)
        check_release(update, plan, mechanism)
        context = RoundContext(
            request=request,
            permit=permit,
            mechanism=mechanism,
            charge=charge,
            spending=spending,
            delta=parts.policy.delta_max,
            snapshot=snapshot,
            origin=parts.home.origin,
            region=parts.home.region,
            prev_round=parts.state.last_round(request.run),
            model_in=model_in,
            update=update,
            start_ms=start_ms,
            end_ms=parts.clock_ms(),
        )
        seal = Seal(
            model_in=model_in,
            round_entry=make_entry(round_record(context), parts.trainer),
            release_entry=make_entry(release_record(context), parts.trainer),
            log_size=parts.log.size,
            arrays=update,
        )
        parts.seals.write(request.run, request.server_round, seal)
        reach(Point.SEALED)
        parts.snapshots.spend(request.run)
        return seal, snapshot

    def _witnessed(self, request: TrainRequest, start_ms: int) -> ConsentSnapshot:
        """The published snapshot that enough others have cosigned; their lines are kept."""
        parts = self._parts
        witnessed = parts.snapshots.use(
            request.run, request.server_round, request.cosignatures, start_ms=start_ms
        )
        if witnessed.cosigned_s is not None:
            parts.observer.witness_lag(max(0.0, start_ms / 1000 - witnessed.cosigned_s))
        size = witnessed.snapshot.consent_size
        parts.witness.keep(size, request.cosignatures, renew=True)
        reach(Point.WITNESSED)
        return witnessed.snapshot

    def _tell_done(
        self, request: TrainRequest, seal: Seal, snapshot: ConsentSnapshot, seconds: float
    ) -> None:
        num_bytes = sum(array.nbytes for array in seal.arrays.values())
        self._parts.observer.round_done(
            request.run, request.server_round, seconds, num_bytes, snapshot.size_bucket
        )

    def _reply(self, request: TrainRequest, seal: Seal, index: int) -> dict[str, JsonValue]:
        return {
            "status": "ok",
            "run": request.run,
            "round": request.server_round,
            "attempt": request.attempt,
            "region": self._parts.home.region,
            "mechanism": request.mechanism,
            "update": arrays_digest(seal.arrays),
            "round_entry": base64.b64encode(seal.round_entry).decode(),
            **self._parts.sealed.proof(index),
        }
