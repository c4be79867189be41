"""The privacy engine: takes a round's requests, gives back a sealed, charged, logged update.

One round, in this order: publish the log's checkpoint and take the consent snapshot of that size →
others cosign it → check the permit → check the cosignatures → charge the ledger (durable) → train →
noise → seal (durable) → log the round and the release → answer. A repeated request gets the same
sealed bytes. Whatever fails, fails before anything leaves.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np

from client.data.quality import QualityReport
from client.engine.charging import Charging
from client.engine.entries import RoundContext, release_record, round_record
from client.engine.home import RegionHome
from client.engine.incidents import Incidents
from client.engine.ledger import Ledger, open_ledger
from client.engine.log_state import LogState
from client.engine.permit import Permit
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy, read_policy, require_logged
from client.engine.preparation import ConsentSnapshot, RegionData
from client.engine.provenance import engine_digest
from client.engine.request import (
    CosignRequest,
    ExecuteRequest,
    KeepRequest,
    MaskRequest,
    PublishRequest,
    TrainRequest,
)
from client.engine.seal import Seal, SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.secure_sums import SecureSums
from client.engine.snapshots import Published, PublishedSnapshots
from client.engine.subjects import SubjectKeys, open_subject_keys
from client.engine.witnessing import RegionWitness, open_region_witness
from client.training.noise import NoiseSource, SystemNoise
from client.training.releases import release
from client.training.shared_sums import shared_round
from client.training.turns import TRAINING_TURN
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.registry_entry import registry_entry
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError, PolicyError
from common.failpoints import Point, reach
from common.keys import Registry, Signer
from common.parameters import arrays_digest, check_arrays
from common.plan import Mechanism, RunPlan
from common.registry_install import unlogged_versions
from common.timestamps import now_ms

PROTOCOL_VERSION = 1
_logger = logging.getLogger("fedpref.engine")


class PrivacyEngine:
    """One region's engine. Use `open_engine`; calls are serialised."""

    def __init__(
        self,
        home: RegionHome,
        *,
        log: AuditLog,
        ledger: Ledger,
        subjects: SubjectKeys,
        witness: RegionWitness,
        noise: NoiseSource,
        clock_ms: Callable[[], int],
        data: RegionData | None = None,
    ) -> None:
        self.home = home
        self.log = log
        self.ledger = ledger
        self.subjects = subjects
        self.policy: RegionPolicy = read_policy(home.policy)
        self.registry: Registry = home.read_registry()
        self.state = LogState(log, self.registry, home.region)
        self._permits = PermitShelf(home, self.policy, self.registry, clock_ms)
        self.last_refusal: FedprefError | None = None
        self._trainer: Signer = home.signer("trainer")
        self._noise = noise
        self._clock_ms = clock_ms
        self._witness = witness
        self._snapshots = PublishedSnapshots(home.region, self.policy, witness.cosigners)
        self._charging = Charging(
            home,
            log=log,
            state=self.state,
            ledger=ledger,
            policy=self.policy,
            signer=self._trainer,
            clock_ms=clock_ms,
        )
        self._seals = SealStore(home.seals)
        self._seals.remove_leftovers()
        self._sealed = SealedRounds(
            log,
            self.state,
            self._seals,
            registry=self.registry,
            policy=self.policy,
            signer=self._trainer,
            clock_ms=clock_ms,
        )
        self._secure = SecureSums(
            home,
            log=log,
            state=self.state,
            sealed=self._sealed,
            permits=self._permits,
            registry=self.registry,
            policy=self.policy,
            signer=self._trainer,
            clock_ms=clock_ms,
        )
        self._data = data if data is not None else RegionData(home, self.policy)
        # A clock that was set back must not date an incident before its log's other entries.
        self._incidents = Incidents(
            log, self._trainer, home.region, lambda: max(clock_ms(), self.state.newest_ms)
        )
        self._lock = threading.RLock()
        self.state.refresh()
        require_logged(self.policy, self.state.policy_sha256, home.policy)
        self._charging.match_ledger_and_log()

    def call(
        self, method: str, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Answers one request of the relay (`common.engine_channel.EngineChannel`).

        A refusal is an answer, not an exception: it names the region and a reason code and nothing
        else. The whole story stays in `last_refusal` and, as an incident, in the region's log.
        """
        with self._lock:
            try:
                if method == "train":
                    return self.train(TrainRequest.parse(header), arrays)
                if method == "mask":
                    return self._secure.mask(MaskRequest.parse(header))
                if method == "execute":
                    return self._secure.execute(ExecuteRequest.parse(header))
                return self._answer(method, header), {}
            except FedprefError as error:
                self.last_refusal = error
                return self._incidents.refuse(error, header), {}
            except Exception:
                # A defect of ours: its words stay in the region, in the engine's own log.
                _logger.exception("%s failed in region %s", method, self.home.region)
                raise

    def _answer(self, method: str, header: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Answers a request that takes no arrays and gives none."""
        if method == "describe":
            return self.describe()
        if method == "publish":
            return self.publish(PublishRequest.parse(header))
        if method == "cosign":
            request = CosignRequest.parse(header)
            self._permits.require_known(request.run)
            return self._ok(cosignatures=self._witness.cosign(request, self._incidents))
        if method == "keep":
            keep = KeepRequest.parse(header)
            self._permits.require_known(keep.run)
            return self._ok(kept=self._witness.keep(keep.size, keep.cosignatures))
        raise FormatError(f"The engine has no method {method!r}.")

    def describe(self) -> dict[str, JsonValue]:
        """Who answers here: the region, the protocol, the engine's digest and its key."""
        return {
            "region": self.home.region,
            "protocol": PROTOCOL_VERSION,
            "engine": engine_digest(),
            "trainer_key": self._trainer.key_id,
        }

    def data_quality(self) -> QualityReport:
        """The quality gate's report on the region's store.

        Raises:
            QualityGateError: The store is below the policy's threshold.
            InputError: The store or the catalogue cannot be read.
        """
        with self._lock:
            return self._data.quality_report()

    def preflight(self, plan: RunPlan) -> None:
        """Checks all that a run needs, before it starts and without spending anything.

        Raises:
            PolicyError, QualityGateError, ConsentError, BudgetError, InputError: As the case is.
        """
        with self._lock:
            permit = self._permits.open(plan.run_id)
            if permit.plan.digest != plan.digest:
                raise PolicyError(f"{self.home.region}: its permit is for another plan.")
            self._charging.admit(plan)
            self._data.require_catalogue_of(plan)
            self._data.quality_report()
            self._snapshot(plan)

    def publish(self, request: PublishRequest) -> dict[str, JsonValue]:
        """Publishes the log's checkpoint; if a round begins with it, who consents is fixed by it.

        Raises:
            PolicyError: There is no permit for the run.
            ConsentError: No customer's consent is in force.
        """
        self._permits.require_known(request.run)
        if request.server_round is None:
            self._secure.masking.forget(request.run)
        with self.state.lock:
            self.state.refresh()
            size, snapshot = self.state.size, None
            if self._begins(request):
                snapshot = self._snapshot(self._permits.open(request.run).plan)
        note = self.log.checkpoint_at(size)
        self._snapshots.publish(Published(request.run, request.server_round, size, note, snapshot))
        proofs = self._witness.proofs(request.since, size)
        reach(Point.PUBLISHED)
        return self._ok(checkpoint=note.decode(), proofs=proofs)

    def _begins(self, request: PublishRequest) -> bool:
        """Whether training follows: a round that was sealed already needs no snapshot.

        Unless its seal is dead: then a new attempt may follow.
        """
        if request.server_round is None:
            return False
        seal = self._seals.read(request.run, request.server_round)
        return seal is None or self._secure.is_dead(request.run, request.server_round, seal)

    def _ok(self, **fields: JsonValue) -> dict[str, JsonValue]:
        return {"status": "ok", "region": self.home.region, **fields}

    def train(
        self, request: TrainRequest, arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """One region's part of one round; see the module's docstring for the order.

        Raises:
            FedprefError: Nothing was released.
        """
        permit = self._permits.open(request.run)
        if request.plan != permit.plan.digest:
            raise PolicyError("The request is for another plan than the permit's.")
        mechanism = permit.mechanism_of(request.server_round, request.mechanism)
        check_arrays(arrays, permit.plan.model_arrays(request.server_round), grid_exponent=None)
        model_in = arrays_digest(arrays)
        seal, included = self._sealed.read(request.run, request.server_round), None
        dead = False
        if seal is not None and self._secure.is_dead(request.run, request.server_round, seal):
            self._secure.require_new_attempt(request, seal)
            dead = True
        if seal is None or dead:
            reach(Point.BEGUN)
            seal, included = self._train_and_seal(
                request, permit, mechanism, dict(arrays), model_in, anew=dead
            )
        elif seal.model_in != model_in:
            raise PolicyError(
                f"Round {request.server_round} was sealed for another model; it is not trained "
                "a second time."
            )
        index = self._sealed.log(request.run, request.server_round, seal, included=included)
        reach(Point.LOGGED)
        reply = self._reply(request, seal, index)
        offered = self._secure.offer(permit.plan, request, seal)
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
    ) -> tuple[Seal, frozenset[str]]:
        """Trains and seals; gives the seal, and the pseudonyms it was trained on."""
        plan = permit.plan
        start_ms = self._clock_ms()
        snapshot = self._snapshots.use(
            request.run, request.server_round, request.cosignatures, start_ms=start_ms
        )
        self._witness.keep(snapshot.consent_size, request.cosignatures, renew=True)
        reach(Point.WITNESSED)
        charge = self._charging.charge(request, permit, mechanism, anew=anew)
        reach(Point.CHARGED)
        with TRAINING_TURN:
            update = (shared_round if plan.mode == "distributed" else release)(
                self._data.dataset(plan, snapshot.eligible),
                model,
                plan=plan,
                server_round=request.server_round,
                noise=self._noise,
            )
        reach(Point.NOISED)
        released = plan.released_arrays(mechanism.name)
        check_arrays(update, released, grid_exponent=mechanism.grid_exponent)
        context = RoundContext(
            request=request,
            permit=permit,
            mechanism=mechanism,
            charge=charge,
            spending=self.ledger.spending(request.run, charge.request.year, upto_seq=charge.seq),
            delta=self.policy.delta_max,
            snapshot=snapshot,
            origin=self.home.origin,
            region=self.home.region,
            prev_round=self.state.last_round(request.run),
            model_in=model_in,
            update=update,
            start_ms=start_ms,
            end_ms=self._clock_ms(),
        )
        seal = Seal(
            model_in=model_in,
            round_entry=make_entry(round_record(context), self._trainer),
            release_entry=make_entry(release_record(context), self._trainer),
            log_size=self.log.size,
            arrays=update,
        )
        self._seals.write(request.run, request.server_round, seal)
        reach(Point.SEALED)
        self._snapshots.spend()
        return seal, snapshot.eligible.sids

    def _reply(self, request: TrainRequest, seal: Seal, index: int) -> dict[str, JsonValue]:
        return {
            "status": "ok",
            "run": request.run,
            "round": request.server_round,
            "attempt": request.attempt,
            "region": self.home.region,
            "mechanism": request.mechanism,
            "update": arrays_digest(seal.arrays),
            "round_entry": base64.b64encode(seal.round_entry).decode(),
            **self._sealed.proof(index),
        }

    def _snapshot(self, plan: RunPlan) -> ConsentSnapshot:
        with self.state.lock:
            self.state.refresh()
            return ConsentSnapshot.take(
                self.state,
                self.policy,
                self.subjects.pseudonyms(),
                at_ms=self._clock_ms(),
                plan=plan,
                log_root=self.log.root_at(self.state.size),
            )


@contextmanager
def open_engine(
    home: RegionHome,
    *,
    noise: NoiseSource | None = None,
    clock_ms: Callable[[], int] = now_ms,
    data: RegionData | None = None,
) -> Iterator[PrivacyEngine]:
    """Opens a region's engine and everything it holds; closes all of it on exit.

    Args:
        home: The region's home folder.
        noise: A test's own noise; by default the system's cryptographic generator.
        clock_ms: A test's own clock, in milliseconds since the epoch.
        data: The region's store, if it was read already; by default it is read when first needed.

    Raises:
        StorageError: Another engine of this region is running, or a store is damaged.
        VerificationError: The region's own log does not verify.
    """
    policy = read_policy(home.policy)
    with ExitStack() as stack:
        log = stack.enter_context(
            AuditLog.open(home.log, origin=home.origin, signer=home.signer("log"))
        )
        if installed := unlogged_versions(home.registry, log):
            log.append([registry_entry(each, home.signer("trainer")) for each in installed])
        ledger = stack.enter_context(
            open_ledger(
                home.ledger,
                caps=policy.epsilon_caps,
                delta=float(policy.delta_max),
            )
        )
        subjects = stack.enter_context(open_subject_keys(home.subjects, home.stored_key))
        witness = stack.enter_context(
            open_region_witness(home, home.read_registry(), log, clock_ms=clock_ms)
        )
        yield PrivacyEngine(
            home,
            log=log,
            ledger=ledger,
            subjects=subjects,
            witness=witness,
            noise=noise if noise is not None else SystemNoise(),
            clock_ms=clock_ms,
            data=data,
        )
