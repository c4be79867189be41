"""The privacy engine: takes a round's requests, gives back a sealed, charged, logged update.

One round: publish the log's checkpoint and take the consent snapshot of that size → others cosign
it → train (`client.engine.round_training` has the order) → the egress guard looks at the answer.
Several runs may be under way: requests to train take turns, the phases around training do not wait
for them, and each run has its own snapshot. Whatever fails, fails before anything leaves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np

from client.data.quality import QualityReport
from client.engine.answering import LoggedAnswer, QueryAnswering
from client.engine.charging import Charging
from client.engine.egress import EgressGuard
from client.engine.home import RegionHome
from client.engine.incidents import Incidents
from client.engine.ledger import Ledger, open_ledger
from client.engine.log_state import LogState
from client.engine.observing import EngineObserver, Unobserved
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy, read_policy, require_logged
from client.engine.preparation import ConsentSnapshot, RegionData
from client.engine.provenance import engine_digest
from client.engine.relay_desk import METHODS as RELAY_METHODS
from client.engine.relay_desk import RelayDesk
from client.engine.release_evidence import ReleaseEvidence
from client.engine.request import (
    CosignRequest,
    ExecuteRequest,
    KeepRequest,
    MaskRequest,
    PublishRequest,
    TrainRequest,
)
from client.engine.round_training import Answer, RoundParts, RoundTraining
from client.engine.seal import SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.secure_sums import SecureSums
from client.engine.snapshots import Published, PublishedSnapshots
from client.engine.subjects import SubjectKeys, open_subject_keys
from client.engine.turns import Turns
from client.engine.witnessing import RegionWitness, open_region_witness
from client.training.bounded_sums import Statistic
from client.training.noise import NoiseSource, SystemNoise
from common.audit.log import AuditLog
from common.audit.registry_entry import registry_entry
from common.canonical_json import JsonValue
from common.egress_form import EgressRefusedError
from common.errors import FedprefError, FormatError, PolicyError
from common.failpoints import Point, reach
from common.keys import Registry, Signer
from common.messages import PROTOCOL_VERSION
from common.plan import RunPlan
from common.reason_codes import FAILED, EngineBusyError, reason_code
from common.registry_install import unlogged_versions
from common.timestamps import format_time, now_ms

# What trains or releases; one at a time. Nothing else waits for training.
_IN_TURN = frozenset({"train", "mask", "execute"})
_logger = logging.getLogger("fedpref.engine")


class PrivacyEngine:
    """One region's engine. Use `open_engine`; safe to call from several threads.

    Attributes:
        last_refusal: Why the last request was refused, in words that stay in the region.
    """

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
        observer: EngineObserver | None = None,
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
        self._observer = Unobserved() if observer is None else observer
        self._clock_ms = clock_ms
        self._witness = witness
        self._snapshots = PublishedSnapshots(home.region, self.policy, witness.cosigners)
        self._charging = Charging(
            home,
            log=log,
            state=self.state,
            ledger=ledger,
            permits=self._permits,
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
            purpose_of=lambda run: self._permits.open(run).plan.purpose,
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
        self._relay_desk = RelayDesk(home, self._permits, self._incidents)
        parts = self._round_parts(noise)
        self._rounds = RoundTraining(parts)
        #: What is asked is answered through `answer` alone, in turn with training.
        self.queries = QueryAnswering(parts, subjects, self.registry)
        self._guard = EgressGuard(
            home,
            self.policy,
            self.registry,
            log,
            ReleaseEvidence(home, self.registry, self._permits, log, self.state),
        )
        self._turns = Turns()
        self._phases = threading.Lock()
        self.state.refresh()
        require_logged(self.policy, self.state.policy_sha256, home.policy)
        self._charging.match_ledger_and_log()
        if observer is not None:
            year = int(format_time(clock_ms())[:4])
            spending = ledger.spending("", year)
            observer.charged(spending.year, spending.cap)

    def _round_parts(self, noise: NoiseSource) -> RoundParts:
        return RoundParts(
            home=self.home,
            policy=self.policy,
            log=self.log,
            state=self.state,
            ledger=self.ledger,
            permits=self._permits,
            snapshots=self._snapshots,
            witness=self._witness,
            charging=self._charging,
            seals=self._seals,
            sealed=self._sealed,
            secure=self._secure,
            data=self._data,
            trainer=self._trainer,
            noise=noise,
            clock_ms=self._clock_ms,
            observer=self._observer,
        )

    def call(
        self, method: str, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> Answer:
        """Answers one request of the relay (`common.engine_channel.EngineChannel`).

        A refusal is an answer, not an exception: it names the region and a reason code and nothing
        else. The whole story stays in `last_refusal` and, as an incident, in the region's log.

        Raises:
            EngineBusyError: Too many requests wait, or this one waited too long.
        """
        try:
            with self._admitted(method):
                answer, released = self._answer(method, header, arrays)
                self._guard.check(method, answer, released)
                return answer, released
        except EngineBusyError as error:
            self._observer.refused(reason_code(error))
            raise
        except FedprefError as error:
            self.last_refusal = error
            return self._refusal(method, self._incidents.refuse(error, header)), {}
        except Exception:
            # A defect of ours: its words stay in the region, in the engine's own log.
            _logger.exception("%s failed in region %s", method, self.home.region)
            self._observer.refused(FAILED)
            raise

    @contextmanager
    def _admitted(self, method: str) -> Iterator[None]:
        """A turn, for what trains or releases; the phases around it go on meanwhile, one by one."""
        if method in _IN_TURN:
            with self._turns.take():
                yield
        elif method == "describe":
            yield
        else:
            with self._phases:
                yield

    def _refusal(self, method: str, refusal: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """A refusal as it leaves: the guard looks at its code as at everything."""
        try:
            self._guard.check(method, refusal, {})
        except EgressRefusedError as error:
            _logger.error("a refusal was kept back: %s", error)
            refusal = refusal | {"reason": "refused"}
        self._observer.refused(str(refusal["reason"]))
        return refusal

    def note_peer(self, reason: str, detail: str) -> None:
        """Notes what was seen at the engine's door, where no request came of it.

        Args:
            reason: A kebab-case code.
            detail: One sentence of our own.

        Raises:
            StorageError: The log refuses.
        """
        self._incidents.note(None, reason, detail)

    def tell_refused(self, reason: str) -> None:
        """Counts a peer that got no answer."""
        self._observer.refused(reason)

    def _answer(
        self, method: str, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> Answer:
        if method == "train":
            return self._rounds.train(TrainRequest.parse(header), arrays)
        if method == "mask":
            return self._secure.mask(MaskRequest.parse(header))
        if method == "execute":
            return self._secure.execute(ExecuteRequest.parse(header))
        return self._short_answer(method, header), {}

    def _short_answer(self, method: str, header: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
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
        if method in RELAY_METHODS:
            return self._relay_desk.call(method, header)
        raise FormatError(f"The engine has no method {method[:32]!r}.")

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
        with self._turns.take():
            return self._data.quality_report()

    def answer(self, permit_id: str, statistic: Statistic) -> LoggedAnswer:
        """Answers one part of a query that the region signed; see `QueryAnswering.answer`.

        It is asked by the region itself and stays in it: the relay has no way to ask.
        """
        with self._turns.take():
            return self.queries.answer(permit_id, statistic)

    def preflight(self, plan: RunPlan) -> None:
        """Checks all that a run needs, before it starts and without spending anything.

        Raises:
            PolicyError, QualityGateError, ConsentError, BudgetError, InputError: As the case is.
        """
        with self._turns.take():
            permit = self._permits.open(plan.run_id)
            if permit.plan.digest != plan.digest:
                raise PolicyError(f"{self.home.region}: its permit is for another plan.")
            self._charging.admit(plan)
            self._data.require_catalogue_of(plan)
            for question in plan.questions:
                self._data.statistic(plan, question.name)
            self._data.quality_report()
            self._snapshot(plan)

    def publish(self, request: PublishRequest) -> dict[str, JsonValue]:
        """Publishes the log's checkpoint; if a round begins with it, who consents is fixed by it.

        Raises:
            PolicyError: There is no permit for the run.
            ConsentError: No customer's consent is in force.
            TooManyRunsError: As many other runs as may be are about to train.
        """
        self._permits.require_known(request.run)
        if request.server_round is None:
            self._secure.masking.forget(request.run)
            self._charging.end(request.run)
        begins = self._begins(request)
        if begins:
            self._snapshots.make_room(request.run, self._clock_ms())
        with self.state.lock:
            self.state.refresh()
            size, snapshot = self.state.size, None
            if begins:
                snapshot = self._snapshot(self._permits.open(request.run).plan)
        note = self.log.checkpoint_at(size)
        self._snapshots.publish(Published(request.run, request.server_round, size, note, snapshot))
        proofs = self._witness.proofs(request.since, size)
        reach(Point.PUBLISHED)
        self._observer.log_size(size)
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

    def _snapshot(self, plan: RunPlan) -> ConsentSnapshot:
        with self.state.lock:
            self.state.refresh()
            return ConsentSnapshot.take(
                self.state,
                self.policy,
                self.subjects.pseudonyms(),
                at_ms=self._clock_ms(),
                purpose=plan.purpose,
                log_root=self.log.root_at(self.state.size),
            )


@contextmanager
def open_engine(
    home: RegionHome,
    *,
    noise: NoiseSource | None = None,
    clock_ms: Callable[[], int] = now_ms,
    data: RegionData | None = None,
    observer: EngineObserver | None = None,
) -> Iterator[PrivacyEngine]:
    """Opens a region's engine and everything it holds; closes all of it on exit.

    Args:
        home: The region's home folder.
        noise: A test's own noise; by default the system's cryptographic generator.
        clock_ms: A test's own clock, in milliseconds since the epoch.
        data: The region's store, if it was read already; by default it is read when first needed.
        observer: Is told what the engine does, from several threads; nobody by default.

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
            observer=observer,
        )
