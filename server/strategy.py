"""The federation's strategy: who is asked, which replies count, when a round may be published.

Flower's `Strategy` interface, with what it lacks: every wait is bounded, every reply is validated
before it is added, a round with fewer regions than the quorum publishes nothing, and a run goes on
where its log says it stopped. Weights are public: each region's update counts once, as it is; no
number that a region reports beside its noised update is read, or sent at all.

The order of a round: every log's checkpoint before every other party (`server.witness_phase`; a
region whose checkpoint they do not cosign is not asked) → ask → validate each reply as it arrives →
sum, by region in order → next model, kept on disk → aggregate entry in the log (durable) →
checkpoint. A crash between the last two leaves an entry without its checkpoint. The model kept
before then takes the checkpoint's place if it is the one that the entry names; without it the round
is asked for again, the regions answer with the bytes they sealed, and the model that comes of it
must be the one that the entry names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.bounded_inflation import bounded_inflation
from common.canonical_json import JsonValue
from common.errors import FederationError
from common.failpoints import CoordinatorPoint, reach
from common.keys import Registry
from common.messages import compose_message, encode_arrays
from common.plan import RunPlan
from common.secure_aggregation import RoundContext, SecureSumRefusedError
from server.audit_trail import AuditTrail
from server.checkpoint import CheckpointStore, make_checkpoint
from server.config import SERVER_PARTY
from server.double_masked_sum import DoubleMaskedSum
from server.early_stop import ends
from server.events import EventWriter
from server.grid_exchange import exchange
from server.reply_checks import largest_body_bytes
from server.roster import Roster
from server.rounds import ClosedRound, OpenRound
from server.secure_sum import SecureSum, SecureTotal
from server.validation import IMPOSTOR_REASONS, MISSING_REASONS, ReplyValidator
from server.witness_phase import PhaseOutcome, WitnessPhase

#: How often a round asks the regions that did not answer, while it lacks the quorum.
WAVES = 2
#: How often more it asks those whose seals are dead, each time for a later attempt.
MOST_ATTEMPTS = 8
# A reply is of no use once its round is closed.
_TTL_SLACK_S = 60.0
#: Refusals that are said apart from the region's own mark in the display.
_QUIET_REASONS = frozenset({"duplicate-reply"})

_log = logging.getLogger("fedpref.server")


@dataclass(frozen=True)
class Bounds:
    """How long the coordinator waits for nodes; how long for replies is in the plan.

    Attributes:
        nodes_wait_s: For the plan's regions to connect before the first round.
        describe_timeout_s: For a node to say which region it is.
        mask_timeout_s: For all regions of a secure sum to send their masked updates, each time they
            are asked.
    """

    nodes_wait_s: float
    describe_timeout_s: float
    mask_timeout_s: float


class RegionSumStrategy(Strategy):
    """Sums the noised updates of at least a quorum of regions, round by round.

    Args:
        plan: The run plan.
        registry: The verified key registry.
        trail: The coordinator's open log; it says which round is next.
        checkpoints: Where the model is kept between rounds.
        events: Who is told what happens.
        bounds: How long to wait for nodes.
        witnesses: Has the regions' checkpoints cosigned.

    Raises:
        StorageError: The checkpoint is damaged.
        VerificationError: The checkpoint does not match the log; names what differs.
    """

    def __init__(
        self,
        plan: RunPlan,
        registry: Registry,
        trail: AuditTrail,
        checkpoints: CheckpointStore,
        events: EventWriter,
        bounds: Bounds,
        witnesses: WitnessPhase,
    ) -> None:
        self._plan = plan
        self._trail = trail
        self._checkpoints = checkpoints
        self._events = events
        self._bounds = bounds
        self._witnesses = witnesses
        self._witnessed = PhaseOutcome()
        self._validator = ReplyValidator(plan, registry)
        self._secure_sum = SecureSum(plan, registry, timeout_s=bounds.mask_timeout_s)
        self._shared_sum = DoubleMaskedSum(plan, registry, timeout_s=bounds.mask_timeout_s)
        self._grid: Grid | None = None
        self._open: OpenRound | None = None
        self._roster = Roster(
            plan,
            registry,
            describe_timeout_s=bounds.describe_timeout_s,
            on_refused=self._on_node_refused,
        )
        checkpoint = checkpoints.load(trail, plan)
        #: The first round still to be done.
        self.first_round = checkpoint.server_round + 1 if checkpoint else 1
        self._closed = self.first_round - 1
        #: The model before it.
        self.initial_arrays = encode_arrays(checkpoint.model if checkpoint else {})
        self._optimizer: Mapping[str, np.ndarray] = checkpoint.optimizer if checkpoint else {}

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs the rounds from `first_round` to ``num_rounds``.

        Args:
            grid: Flower's connection to the nodes.
            initial_arrays: The model before `first_round`: `initial_arrays`.
            num_rounds: The last round's number, not how many remain.
            timeout: For how long a round waits for replies, in seconds, each time it asks.
            train_config: Unused: what a region is asked is in the plan that it permitted.
            evaluate_config: Unused: regions report no metrics.
            evaluate_fn: Told of each round's model, if given.

        Returns:
            The last model, and how many regions each round counts.

        Raises:
            FederationError: A round lacked its quorum; names each region's reason.
        """
        del evaluate_config
        arrays, result = initial_arrays, Result()
        result.arrays = initial_arrays
        if self.first_round > num_rounds or self.finished():
            return result
        self.summary()
        self._grid = grid
        with bounded_inflation(largest_body_bytes(self._plan)):
            self._roster.wait(grid, timeout_s=self._bounds.nodes_wait_s)
            for server_round in range(self.first_round, num_rounds + 1):
                config = train_config or ConfigRecord()
                self._round(server_round, arrays)
                replies = self._ask(grid, server_round, arrays, config, timeout)
                closed, counts = self.aggregate_train(server_round, replies)
                if closed is None or counts is None:
                    raise self._no_quorum(server_round)
                arrays = result.arrays = closed
                result.train_metrics_clientapp[server_round] = counts
                if evaluate_fn and (evaluated := evaluate_fn(server_round, arrays)) is not None:
                    result.evaluate_metrics_serverapp[server_round] = evaluated
                if self.finished():
                    # Its charges were made round by round: what is left of the budget stays.
                    break
        return result

    @property
    def kept(self) -> Mapping[str, np.ndarray]:
        """What is kept beside the model since the last closed round."""
        return self._optimizer

    def finished(self) -> bool:
        """Whether no round is left: the plan's last is done, or its signals have ended the run."""
        if self._closed >= self._plan.total_rounds:
            return True
        logged = [self._trail.aggregates[number][1] for number in range(1, self._closed + 1)]
        return ends(self._plan.early_stop, [each.signal for each in logged])

    def witness_end(self, grid: Grid) -> None:
        """Has every log cosigned once more: all that the run has logged is then covered.

        At a run's end, and where it pauses.

        Args:
            grid: Flower's connection to the nodes.

        Raises:
            FederationError: The coordinator's log, or that of a region whose updates are in the
                model, is not covered; names each, and the same command tries again.
        """
        counted = {
            used.region
            for _, aggregate in self._trail.aggregates.values()
            for used in aggregate.used
        } - self._witnesses.barred
        open_ends = {*counted, SERVER_PARTY}
        reasons: dict[str, str] = {}
        self._roster.pardon()
        with bounded_inflation(largest_body_bytes(self._plan)):
            for _ in range(WAVES):
                self._roster.gather(grid, counted & open_ends, timeout_s=self._bounds.nodes_wait_s)
                nodes = self._roster.nodes
                outcome = self._witnesses.run(grid, nodes, open_ends - {SERVER_PARTY}, None)
                self._tell_witnessed(outcome)
                open_ends -= self._witnesses.keep(grid, nodes, outcome)
                if SERVER_PARTY in outcome.cosigned:
                    open_ends.discard(SERVER_PARTY)
                if not open_ends:
                    return
                reasons = {
                    party: "not-kept"
                    if party in outcome.cosigned
                    else outcome.refused.get(party, ("no-node", ""))[0]
                    for party in open_ends
                }
                for region in open_ends - {SERVER_PARTY}:
                    # Its engine may be just starting: it is waited for till it says who it is.
                    self._roster.drop(region)
        told = ", ".join(f"{party}: {why}" for party, why in sorted(reasons.items()))
        raise FederationError(
            f"The rounds are done, but the last entries of some logs are not cosigned ({told}).",
            remedy="Mend the parties named; the same command then goes on from here.",
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Makes a request to every region that may still be asked and was just witnessed."""
        del config
        self._roster.refresh(grid)
        current = self._round(server_round, arrays)
        nodes = self._roster.nodes
        messages = []
        for region in current.unanswered:
            if region in nodes and region in self._witnessed.cosigned:
                header: dict[str, JsonValue] = {
                    "run": self._plan.run_id,
                    "round": server_round,
                    "attempt": current.attempt_of(region),
                    "mechanism": current.mechanism.name,
                    "plan": self._plan.digest,
                    "cosignatures": [*self._witnessed.lines(region)],
                }
                message = Message(
                    compose_message(header, current.arrays),
                    dst_node_id=nodes[region],
                    message_type=MessageType.TRAIN,
                    group_id=str(server_round),
                    ttl=self._plan.round_timeout_s + _TTL_SLACK_S,
                )
                current.ask(message, region)
                messages.append(message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Validates each reply as it comes, and closes the round if the quorum is there.

        Returns:
            The next model, and how many regions count and how many do not; None for both below
            the quorum, and then there is no aggregate.

        Raises:
            VerificationError: The log has another model for this round.
        """
        current = self._round(server_round, None)
        for reply in replies:
            region = current.take(reply)
            if region is not None:
                reach(CoordinatorPoint.REPLY_TAKEN)
                self._event("region-replied", current, region=region, **current.stated[region])
            # It may be as large as the model: it goes before the next one comes.
            del reply
        current.refuse_absent()
        if not current.complete:
            return None, None
        reach(CoordinatorPoint.HEARD)
        secured = self._secured(current)
        if secured is None and self._plan.aggregation.name == "confidential":
            return None, None
        closed = current.close(secured)
        reach(CoordinatorPoint.SUMMED)
        self._record(closed)
        self._event("round-closed", current)
        reach(CoordinatorPoint.ROUND_CLOSED)
        self._open = None
        used = len(closed.aggregate.used)
        counts = {"regions": used, "regions-refused": len(self._plan.regions) - used}
        return encode_arrays(closed.model), MetricRecord(dict(counts))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Asks nothing: metrics that are not noised and charged do not leave a region."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Aggregates nothing; see `configure_evaluate`."""
        del server_round, replies

    def summary(self) -> None:
        """Says what the run is."""
        _log.info(
            "run %s: rounds %d to %d, a quorum of %d of %d regions",
            self._plan.run_id,
            self.first_round,
            self._plan.total_rounds,
            self._plan.quorum,
            len(self._plan.regions),
        )

    def _secured(self, current: OpenRound) -> SecureTotal | None:
        """The sum of a confidential round; whose update is not in it is dropped from the round.

        Raises:
            FederationError: All regions answered, and what is left is no sum of theirs.
        """
        if self._plan.aggregation.name != "confidential" or self._grid is None:
            return None
        context = RoundContext.of(self._plan, current.server_round, current.model_in)
        try:
            if self._plan.mode == "distributed":
                return self._shared_sum.run(
                    self._grid,
                    self._nodes_of,
                    context,
                    current.attempted,
                    least=current.least,
                    on_dropped=current.drop,
                )
            return self._secure_sum.run(
                self._grid,
                self._nodes_of,
                context,
                current.offers,
                least=current.least,
                on_dropped=current.drop,
            )
        except SecureSumRefusedError as error:
            self._on_refused(current, None, error.reason, error.message)
            raise FederationError(
                f"Round {current.server_round} is not published: {error.message}",
                remedy="A region did not mask what it sealed, and masks hide which: let each "
                "compare its log with its seal, and begin a run without the one that differs.",
            ) from error

    def _nodes_of(self, absent: AbstractSet[str]) -> Mapping[str, int]:
        """The regions' nodes, once who is absent had time to come back."""
        if self._grid is not None:
            for region in absent:
                self._roster.drop(region)
            if absent:
                self._roster.settle(self._grid, timeout_s=self._bounds.describe_timeout_s)
            self._roster.refresh(self._grid)
        return self._roster.nodes

    def _ask(
        self,
        grid: Grid,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        timeout: float,
    ) -> Iterator[Message]:
        """Asks, and once more whom it may help; gives replies as they arrive."""
        current = self._round(server_round, arrays)
        regions = current.unanswered
        for wave in range(WAVES + MOST_ATTEMPTS):
            if wave >= WAVES and not current.with_dead_seals:
                return
            self._witness(grid, current, regions)
            reach(CoordinatorPoint.COSIGNED)
            messages = self.configure_train(server_round, arrays, config, grid)
            reach(CoordinatorPoint.REQUESTED)
            yield from exchange(grid, messages, timeout_s=timeout)
            regions = current.unanswered
            if current.complete:
                # A region that was restarted in between has its checkpoint cosigned anew.
                regions = [each for each in regions if each in current.unwitnessed]
            if not regions:
                return
            if not current.complete:
                for region in current.without_engine:
                    self._roster.drop(region)
                # A region whose node was lost may have another by now, or its engine be up again.
                self._roster.settle(grid, timeout_s=self._bounds.describe_timeout_s)

    def _witness(self, grid: Grid, current: OpenRound, regions: Sequence[str]) -> None:
        """Has these regions' checkpoints cosigned; refuses those that are not, for now."""
        self._roster.refresh(grid)
        outcome = self._witnesses.run(grid, self._roster.nodes, regions, current.server_round)
        self._witnessed = outcome
        self._tell_witnessed(outcome, round=current.server_round, mechanism=current.mechanism.name)
        for region, (reason, detail) in sorted(outcome.refused.items()):
            if region != SERVER_PARTY:
                current.refuse(region, reason, detail)

    def _tell_witnessed(self, outcome: PhaseOutcome, **fields: JsonValue) -> None:
        """Says that enough others have just cosigned the coordinator's own log, if they have."""
        if SERVER_PARTY in outcome.cosigned:
            log, _ = outcome.cosigned[SERVER_PARTY]
            self._events.write("log-witnessed", size=log.size, **fields)

    def _round(self, server_round: int, arrays: ArrayRecord | None) -> OpenRound:
        if self._open is None or self._open.server_round != server_round:
            if arrays is None:
                raise FederationError(f"Round {server_round} was not begun.")
            _, logged = self._trail.aggregates.get(server_round, (None, None))
            self._open = OpenRound(
                self._plan,
                server_round,
                arrays,
                validator=self._validator,
                optimizer=self._optimizer,
                logged=logged,
                on_refused=self._on_refused,
            )
            self._event("round-started", self._open)
            reach(CoordinatorPoint.ROUND_STARTED)
        return self._open

    def _record(self, closed: ClosedRound) -> None:
        """Keeps the model, logs the aggregate if the log lacks it, replaces the checkpoint."""
        server_round = closed.aggregate.server_round
        self._checkpoints.prepare(server_round, closed.model, closed.optimizer)
        reach(CoordinatorPoint.MODEL_KEPT)
        if server_round not in self._trail.aggregates:
            self._trail.log_aggregate(closed.aggregate)
        reach(CoordinatorPoint.AGGREGATED)
        self._checkpoints.write(
            make_checkpoint(self._trail, self._plan, server_round, closed.model, closed.optimizer)
        )
        self._optimizer = closed.optimizer
        self._closed = server_round

    def _no_quorum(self, server_round: int) -> FederationError:
        current = self._round(server_round, None)
        reasons = ", ".join(f"{region}: {why}" for region, why in sorted(current.refused.items()))
        message = (
            f"Round {server_round} has {len(current.accepted)} of the {self._plan.quorum} regions "
            f"it needs, so nothing is published ({reasons})."
        )
        self._on_refused(current, None, "below-quorum", message)
        return FederationError(
            message, remedy="Mend the regions named; the same command then goes on from here."
        )

    def _on_refused(self, current: OpenRound, region: str | None, reason: str, detail: str) -> None:
        self._trail.log_incident(
            server_round=current.server_round, region=region, reason=reason, detail=detail
        )
        if region is not None and reason not in _QUIET_REASONS:
            self._event("region-refused", current, region=region, reason=reason)
            # One that had no node when the round asked may have been found meanwhile.
            if reason in IMPOSTOR_REASONS or reason in MISSING_REASONS - {"no-node"}:
                # It is asked who it is in the meantime: later rounds do not wait for it.
                self._roster.drop(region, bar=reason in IMPOSTOR_REASONS)

    def _on_node_refused(self, region: str | None, reason: str, detail: str) -> None:
        self._trail.log_incident(server_round=None, region=region, reason=reason, detail=detail)

    def _event(self, event: str, current: OpenRound, **fields: JsonValue) -> None:
        self._events.write(
            event, round=current.server_round, mechanism=current.mechanism.name, **fields
        )
