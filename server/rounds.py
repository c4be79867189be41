"""One open round: what was asked, what came back, and what it adds up to.

Each update is added when it arrives, and is not kept (`server.round_total`), unless the plan's rule
compares updates (`server.robust`). When the log has the round already, exactly the updates that it
names are added, whoever else answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message

from common.canonical_json import JsonValue
from common.errors import FederationError, VerificationError
from common.messages import decode_arrays
from common.parameters import arrays_digest
from common.plan import Mechanism, RunPlan
from common.planned_keys import keys_of
from common.release_bounds import release_norm_bound
from common.timestamps import format_time, now_ms
from server.answers import KeptAnswers, customers_kept, publishes_regions
from server.audit_trail import Aggregate, UsedRound
from server.early_stop import kept_change, signal_of
from server.key_answers import KeptKeys
from server.mask_replies import MaskOffer
from server.parameter_step import model_after
from server.reply_checks import ReplyRefusedError
from server.robust import RobustAggregator
from server.round_total import Aggregator, ExactSum, RoundTotal
from server.secure_sum import SecureTotal
from server.validation import (
    ENGINE_BUSY,
    ENGINE_UNREACHABLE,
    MISSING_REASONS,
    NOT_WITNESSED,
    Question,
    ReplyValidator,
    ValidatedUpdate,
)

#: The region's update of the round left once under double masks: it is not asked for again.
SEAL_DEAD = "seal-dead"

_WITHOUT_ENGINE = {ENGINE_UNREACHABLE, ENGINE_BUSY}
_MAY_BE_ASKED_AGAIN = {*MISSING_REASONS, NOT_WITNESSED, *_WITHOUT_ENGINE, SEAL_DEAD}

#: Every request of a round names the same attempt: a repeated one gets the same sealed bytes. Only
#: what is dead is asked for anew, as a higher one.
ATTEMPT = 1

#: Told of a refusal: the round, a region or None, a reason code, one sentence.
OnRefused = Callable[["OpenRound", str | None, str, str], None]


@dataclass(frozen=True)
class ClosedRound:
    """A round's outcome.

    Attributes:
        aggregate: What its log entry states.
        model: The model that came of it.
        optimizer: The coordinator's optimiser's state after it; empty without one.
    """

    aggregate: Aggregate
    model: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]


class OpenRound:
    """A round from its first request till it is closed.

    Args:
        plan: The run plan.
        server_round: The round's number.
        arrays: The model that is sent out.
        validator: Judges replies.
        optimizer: The coordinator's optimiser's state before it.
        logged: The round's aggregate if the log has it already: then exactly those updates count.
        on_refused: Told of each refusal.
    """

    def __init__(
        self,
        plan: RunPlan,
        server_round: int,
        arrays: ArrayRecord,
        *,
        validator: ReplyValidator,
        optimizer: Mapping[str, np.ndarray],
        logged: Aggregate | None,
        on_refused: OnRefused,
    ) -> None:
        self.server_round = server_round
        self.arrays = arrays
        self.mechanism = plan.mechanism_of(server_round)
        self.model = decode_arrays(arrays)
        self.model_in = arrays_digest(self.model)
        #: The updates that count, by region, as the aggregate entry names them.
        self.accepted: dict[str, UsedRound] = {}
        #: What each of them has offered for a secure sum; nothing where updates are seen.
        self.offers: dict[str, MaskOffer] = {}
        #: With distributed noise, how many executions of the round each of them has begun.
        self.attempted: dict[str, int] = {}
        #: What each of them says of itself, for display: its customers' interval, its ε.
        self.stated: dict[str, dict[str, JsonValue]] = {}
        self.refused: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._plan = plan
        self._validator = validator
        self._optimizer = optimizer
        self._logged = logged
        self._aggregator = (
            None if plan.aggregation.name == "confidential" else aggregator_of(plan, self.mechanism)
        )
        self._on_refused = on_refused
        self._start = format_time(now_ms())
        self._asked: list[tuple[Message, Question]] = []
        self._needed = {used.region for used in logged.used} if logged else set()
        if logged is not None and logged.model_in != self.model_in:
            raise VerificationError(
                f"Round {server_round} was aggregated from another model than the one at hand."
            )

    @property
    def unanswered(self) -> list[str]:
        """The plan's regions that may still be asked: no update, and nothing against them."""
        return [
            region
            for region in sorted(self._plan.regions)
            if region not in self.accepted
            and self.refused.get(region, "no-reply") in _MAY_BE_ASKED_AGAIN
        ]

    @property
    def unwitnessed(self) -> set[str]:
        """The regions that were asked, and lacked a fresh, cosigned checkpoint by then."""
        asked = {question.region for _, question in self._asked}
        return {each for each in asked if self.refused.get(each) == NOT_WITNESSED}

    @property
    def without_engine(self) -> set[str]:
        """The regions whose relays could not reach their engines, or found them at other work."""
        return {region for region, why in self.refused.items() if why in _WITHOUT_ENGINE}

    @property
    def complete(self) -> bool:
        """Whether the round can be closed."""
        if self._logged is not None:
            return self._needed <= set(self.accepted)
        return len(self.accepted) >= self._plan.quorum

    @property
    def least(self) -> int:
        """The fewest updates that the round may be closed with: all of a logged one's."""
        return len(self._needed) or self._plan.quorum

    @property
    def with_dead_seals(self) -> set[str]:
        """The regions that may be asked for a new attempt at the round."""
        return {region for region, why in self.refused.items() if why == SEAL_DEAD}

    def attempt_of(self, region: str) -> int:
        """Which attempt a region is asked for."""
        return self._attempts.get(region, ATTEMPT)

    def ask(self, message: Message, region: str) -> None:
        """Notes that a region is asked by a message."""
        question = Question(
            region=region,
            node=message.metadata.dst_node_id,
            server_round=self.server_round,
            attempt=self.attempt_of(region),
            mechanism=self.mechanism,
            model_in=self.model_in,
        )
        self._asked.append((message, question))

    def take(self, reply: Message) -> str | None:
        """Judges a reply, and gives its region if its update counts."""
        question = self._question_of(reply)
        if question is None:
            self._on_refused(self, None, "unsolicited-reply", "A reply to nothing that was asked.")
            return None
        region = question.region
        if region not in self.unanswered:
            detail = f"{region} replied more than once; its first reply stands."
            self._on_refused(self, region, "duplicate-reply", detail)
            return None
        try:
            update = self._validator.validate(reply, question, now_ms=now_ms())
            self._check_as_logged(update)
        except ReplyRefusedError as error:
            if error.reason == SEAL_DEAD and question.attempt == self.attempt_of(region):
                # How many attempts the region has made, it does not say.
                self._attempts[region] = 2 * question.attempt
            self.refuse(region, error.reason, error.message)
            return None
        if not self._needed or region in self._needed:
            if self._aggregator is not None:
                self._aggregator.add(region, update.arrays)
            if update.offer is not None:
                self.offers[region] = update.offer
            self.attempted[region] = update.attempted
        self.refused.pop(region, None)
        self.accepted[region] = update.used
        self.stated[region] = {
            "customers": update.customers,
            "epsilon_total": update.epsilon_total,
        }
        return region

    def refuse(self, region: str, reason: str, detail: str) -> None:
        """Notes why a region's update does not count."""
        self.refused[region] = reason
        self._on_refused(self, region, reason, detail)

    def drop(self, region: str, reason: str, detail: str) -> None:
        """Notes that an update that was accepted does not count after all."""
        del self.accepted[region]
        self.offers.pop(region, None)
        self.attempted.pop(region, None)
        self.refuse(region, reason, detail)

    def refuse_absent(self) -> None:
        """Refuses every region that neither answered nor was refused."""
        asked = {question.region for _, question in self._asked}
        absent = [region for region in self.unanswered if region not in self.refused]
        for region in absent:
            if region in asked:
                self.refuse(region, "no-reply", f"{region} did not answer in time.")
            else:
                self.refuse(region, "no-node", f"{region} is not connected.")

    def close(self, secured: SecureTotal | None = None) -> ClosedRound:
        """Makes the next model of what the updates that count come to; to be called once.

        Args:
            secured: Their sum, where it is all that is to be seen.

        Raises:
            VerificationError: The log has another model for this round.
        """
        total = self._total(secured)
        signal = signal_of(self.server_round, total, self._plan, self._optimizer)
        model, moments = model_after(
            self.server_round, self.model, total, self._plan, self._optimizer
        )
        optimizer = moments | kept_change(self.server_round, total, self._plan)
        if self._plan.asks:
            optimizer = {**self._optimizer, **self._kept_answers()}
        model_out = arrays_digest(model)
        if self._logged is not None:
            if model_out != self._logged.model_out:
                raise VerificationError(
                    f"Round {self.server_round} gives another model than its log entry names."
                )
            return ClosedRound(self._logged, model, optimizer)
        aggregate = Aggregate(
            server_round=self.server_round,
            attempt=ATTEMPT if secured is None else secured.attempt,
            mechanism=self.mechanism.name,
            used=tuple(used for _, used in sorted(self.accepted.items())),
            refused=tuple(sorted(self.refused.items())),
            model_in=self.model_in,
            model_out=model_out,
            start=self._start,
            end=format_time(now_ms()),
            signal=signal,
        )
        return ClosedRound(aggregate, model, optimizer)

    def _kept_answers(self) -> dict[str, np.ndarray]:
        """What is kept of a question till the run publishes: of how many customers, and whose."""
        counted = sorted(self._needed) or sorted(self.accepted)
        stated = {region: self.stated[region]["customers"] for region in counted}
        kept = customers_kept(
            self.mechanism.name,
            {region: None if each is None else str(each) for region, each in stated.items()},
        )
        if isinstance(self._aggregator, KeptAnswers | KeptKeys):
            return {**kept, **self._aggregator.kept}
        return kept

    def _total(self, secured: SecureTotal | None) -> RoundTotal:
        if self._aggregator is not None:
            return self._aggregator.total()
        if secured is None or list(secured.regions) != sorted(self._needed or self.accepted):
            raise FederationError(f"Round {self.server_round} has no sum of the regions it counts.")
        return secured.total

    def _question_of(self, reply: Message) -> Question | None:
        answered = reply.metadata.reply_to_message_id
        for message, question in self._asked:
            # A message has no id before it is sent.
            if answered and message.metadata.message_id == answered:
                return question
        return None

    def _check_as_logged(self, update: ValidatedUpdate) -> None:
        if (
            self._logged is not None
            and update.used.region in self._needed
            and update.used not in self._logged.used
        ):
            raise ReplyRefusedError(
                "other-than-logged", "It is another update than the one that was aggregated."
            )


def require_exact_sums(plan: RunPlan) -> None:
    """Requires of all of a plan's rounds, before anybody is asked, that their sums will be exact.

    Raises:
        InputError: A mechanism's numbers are too large for that.
    """
    for mechanism in plan.mechanisms:
        aggregator_of(plan, mechanism)


def aggregator_of(plan: RunPlan, mechanism: Mechanism) -> Aggregator:
    """What takes a round's updates, by the plan's rule.

    Raises:
        InputError: The plan's numbers are too large for a sum that is exact.
    """
    specs = plan.released_arrays(mechanism.name)
    if plan.aggregation.name == "robust":
        return RobustAggregator(specs, plan.aggregation)
    if keys_of(plan, mechanism) is not None:
        return KeptKeys(plan, mechanism)
    # A value is at most as large as the norm of what it is part of. Twice that, so that how the
    # norm was rounded when it was checked is of no account.
    most = 2.0 * release_norm_bound(plan, mechanism)
    if publishes_regions(plan, mechanism):
        return KeptAnswers(plan, mechanism, max_magnitude=most)
    return ExactSum(
        specs,
        grid_exponent=mechanism.grid_exponent,
        max_magnitude=most,
        max_regions=len(plan.regions),
    )
