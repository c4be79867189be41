"""Answers queries: from a signed query to a noisy sum that is sealed, logged and stays here.

The order is a round's (`client.engine.round_training`): the query holds → who consents is fixed by
the log's size → charge the ledger (durable), log the charge → compute, noise → seal (durable) → log
the answer. A repeated question gets the same sealed values. A crash may burn a charge; nothing is
computed without one, and noise is never drawn anew for values that were sealed.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.engine.entries import AnswerContext, answer_record
from client.engine.incidents import incident_record
from client.engine.log_state import DISCARDED, OUTDATED, LogState
from client.engine.preparation import ConsentSnapshot
from client.engine.provenance import dependencies_digest, engine_digest
from client.engine.queries import Query, QueryPart, open_query, read_query
from client.engine.refusals import DiscardedError, OutdatedError
from client.engine.round_training import RoundParts
from client.engine.sealed_answers import AnswerStore, SealedAnswer
from client.engine.subjects import SubjectKeys
from client.training.bounded_sums import Statistic, noisy_sum, tables_of
from client.training.turns import TRAINING_TURN
from common.audit.entry import make_entry
from common.audit.log import LogMovedError
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import InputError, PolicyError
from common.failpoints import AnswerPoint, reach
from common.keys import Registry
from common.parameters import check_arrays
from common.timestamps import parse_time


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer that the log has.

    Attributes:
        sealed: The answer.
        index: Where its entry stands in the region's log.
    """

    sealed: SealedAnswer
    index: int


class QueryAnswering:
    """Answers queries. Calls are serialised by the engine.

    Args:
        parts: The engine's parts.
        subjects: The subjects' table.
        registry: The verified key registry.
    """

    def __init__(self, parts: RoundParts, subjects: SubjectKeys, registry: Registry) -> None:
        self._parts = parts
        self._subjects = subjects
        self._registry = registry
        self._store = AnswerStore(parts.home.queries)
        self._store.remove_leftovers()

    def query(self, permit_id: str) -> Query:
        """A query that was signed here, whether it still holds or not.

        Raises:
            PolicyError: There is none, or it does not verify.
        """
        return read_query(self._signed(permit_id), self._registry, self._parts.home.region)

    def now_ms(self) -> int:
        """Now, in milliseconds since the epoch, by the engine's clock."""
        return self._parts.clock_ms()

    def open_queries(self) -> list[Query]:
        """The queries that still hold and of which no part was given up, the newest first."""
        found = []
        for permit_id in self._store.queries():
            try:
                query = self._open(permit_id)
            except PolicyError:
                # It has expired, or is of another policy or engine: nobody goes on with it.
                continue
            if not any(self._is_given_up(query, part) for part in query.parts):
                found.append(query)
        return found

    def customers_at_least(self, query: Query) -> int:
        """How many customers a query would count at least: a power of two, as rounds log it.

        Raises:
            ConsentError: No customer's consent is in force.
        """
        count = len(self._snapshot(query, self._parts.clock_ms()).eligible.sids)
        return 1 << (count.bit_length() - 1)

    def answered(self, permit_id: str, name: str) -> LoggedAnswer | None:
        """The answer to a part of a query, if it was given before.

        Raises:
            PolicyError: There is no such query, or it has no such part.
            StorageError: The sealed answer was altered.
        """
        query = self.query(permit_id)
        sealed = self._store.read(query.run, query.part(name).number)
        index = None if sealed is None else self._logged(sealed)
        return None if sealed is None or index is None else LoggedAnswer(sealed, index)

    def answer(self, permit_id: str, statistic: Statistic) -> LoggedAnswer:
        """Answers one part of a query.

        Args:
            permit_id: The query, as `client.engine.query_desk` signed it.
            statistic: What is asked: it must be what the query says of its part.

        Raises:
            PolicyError: The query does not hold, does not ask this, or the part was given up.
            ConsentError: No customer's consent is in force.
            BudgetError: The budget does not pay for it.
            QualityGateError, InputError, StorageError: The store or the disk refuses.
        """
        query = self.query(permit_id)
        part = query.part(statistic.name)
        self._require_same(query, part, statistic)
        self._require_not_given_up(query, part)
        sealed = self._store.read(query.run, part.number)
        included: frozenset[str] | None = None
        if sealed is None:
            reach(AnswerPoint.ANSWER_BEGUN)
            sealed, snapshot = self._compute(self._open(permit_id), part, statistic)
            included = snapshot.eligible.sids
        index = self._log(query, part, sealed, included)
        reach(AnswerPoint.ANSWER_LOGGED)
        return LoggedAnswer(sealed, index)

    def _open(self, permit_id: str) -> Query:
        return open_query(
            self._signed(permit_id),
            self._parts.policy,
            self._registry,
            engine=engine_digest(),
            deps=dependencies_digest(),
            now_ms=self._parts.clock_ms(),
        )

    def _signed(self, permit_id: str) -> bytes:
        path = self._store.query_path(permit_id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise PolicyError(
                f"{self._parts.home.region}: there is no query {permit_id[:64]!r}: "
                f"{error.strerror}.",
                remedy="Ask anew.",
            ) from error

    def _require_same(self, query: Query, part: QueryPart, statistic: Statistic) -> None:
        if (part.spec, dict(part.parameters)) != (statistic.spec, dict(statistic.parameters)):
            raise PolicyError(
                f"{query.region}: what is asked is not the {part.name} that the query "
                f"{query.permit_id} was signed for.",
                remedy="Ask with the same model and settings, or ask anew.",
            )

    def _require_not_given_up(self, query: Query, part: QueryPart) -> None:
        if self._is_given_up(query, part):
            # A crash may have come between the incident and this.
            self._store.remove(query.run, part.number)
            raise PolicyError(
                f"{query.region}: the answer to {part.name} of query {query.permit_id} was given "
                "up, as its log says; its charge stays.",
                remedy="Ask anew: that is another query, with a charge of its own.",
            )

    def _is_given_up(self, query: Query, part: QueryPart) -> bool:
        state = self._parts.state
        state.refresh()
        return (query.run, part.number) in state.discarded | state.outdated

    def _compute(
        self, query: Query, part: QueryPart, statistic: Statistic
    ) -> tuple[SealedAnswer, ConsentSnapshot]:
        parts, start_ms = self._parts, self._parts.clock_ms()
        snapshot = self._snapshot(query, start_ms)
        # What is wrong with the store or its catalogue is found before anything is paid.
        purchases = parts.data.consented(snapshot.eligible, query.catalogue, tables_of(statistic))
        charge = parts.charging.charge_query(query, part)
        reach(AnswerPoint.ANSWER_CHARGED)
        spending = parts.ledger.spending(query.run, charge.request.year, upto_seq=charge.seq)
        parts.observer.charged(spending.year, spending.cap)
        with TRAINING_TURN:
            values = noisy_sum(
                purchases,
                statistic,
                start_ms=query.start_ms,
                end_ms=query.end_ms,
                clipping_norm=float(part.clipping_norm),
                noise_multiplier=float(part.noise_multiplier),
                grid_exponent=part.grid_exponent,
                noise=parts.noise,
            )
        reach(AnswerPoint.ANSWER_NOISED)
        arrays = {part.spec.name: values}
        check_arrays(arrays, (part.spec,), grid=part.grid)
        context = AnswerContext(
            query=query,
            part=part,
            charge=charge,
            spending=spending,
            delta=parts.policy.delta_max,
            snapshot=snapshot,
            origin=parts.home.origin,
            arrays=arrays,
            start_ms=start_ms,
            end_ms=parts.clock_ms(),
        )
        sealed = SealedAnswer(
            query=self._signed(query.permit_id),
            entry=make_entry(answer_record(context), parts.trainer),
            log_size=parts.log.size,
            arrays=arrays,
        )
        self._store.write(query.run, part.number, sealed)
        reach(AnswerPoint.ANSWER_SEALED)
        return sealed, snapshot

    def _snapshot(self, query: Query, at_ms: int) -> ConsentSnapshot:
        parts = self._parts
        with parts.state.lock:
            parts.state.refresh()
            # Signed now, so that every bundle can show this size's root.
            parts.log.checkpoint_at(parts.state.size)
            return ConsentSnapshot.take(
                parts.state,
                parts.policy,
                self._subjects.pseudonyms(),
                at_ms=at_ms,
                purpose=query.purpose,
                log_root=parts.log.root_at(parts.state.size),
                also=[each for each in query.consented if each != query.purpose],
            )

    def _log(
        self, query: Query, part: QueryPart, sealed: SealedAnswer, included: frozenset[str] | None
    ) -> int:
        """Logs a sealed answer once, and gives its index; or gives it up.

        Raises:
            DiscardedError: Someone in it has withdrawn, and the policy is ``discard``.
            OutdatedError: It was sealed longer ago than a consent snapshot may be old.
        """
        logged, state = self._logged(sealed), self._parts.state
        if logged is None and self._too_old(sealed):
            self._give_up(query, part, OUTDATED)
        while logged is None:
            state.refresh()
            judged = state.size
            if self._someone_left(query, sealed, included):
                self._give_up(query, part, DISCARDED)
            try:
                logged = self._parts.log.append([sealed.entry], expected_size=judged)[0]
            except LogMovedError:
                continue
            state.refresh()
        return logged

    def _logged(self, sealed: SealedAnswer) -> int | None:
        log, wanted = self._parts.log, leaf_hash(sealed.entry)
        for index in range(sealed.log_size, log.size):
            if log.leaf_hash(index) == wanted:
                return index
        return None

    def _too_old(self, sealed: SealedAnswer) -> bool:
        end_ms = parse_time(str(_record(sealed)["end"]))
        return self._parts.clock_ms() - end_ms > self._parts.policy.consent_age_max_s * 1000

    def _someone_left(
        self, query: Query, sealed: SealedAnswer, included: frozenset[str] | None
    ) -> bool:
        """Whether someone in it no longer consents, and the policy is to discard it then."""
        parts = self._parts
        if parts.policy.withdrawal_in_round != "discard":
            return False
        consent, counted = _record(sealed)["consent"], _record(sealed)["included"]
        if not isinstance(consent, dict) or not isinstance(counted, dict):
            raise InputError("The sealed answer names no consent snapshot.")
        at_ms = parse_time(str(counted["at"]))
        if included is None:
            # After a restart only the log still knows who was in it.
            then = LogState(parts.log, self._registry, parts.home.region)
            then.refresh(stop=int(str(consent["size"])))
            included = self._consenting(then, query, at_ms)
        return not included <= self._consenting(parts.state, query, at_ms)

    def _consenting(self, state: LogState, query: Query, at_ms: int) -> frozenset[str]:
        grace_s = self._parts.policy.notice_grace_s
        each = [
            state.consents.eligible(purpose, at_ms, notice_grace_s=grace_s)
            for purpose in query.consented
        ]
        return frozenset.intersection(*each)

    def _give_up(self, query: Query, part: QueryPart, reason: str) -> None:
        """Marks an answer as given up in the log, removes it, and says so."""
        parts = self._parts
        error: DiscardedError | OutdatedError
        if reason == DISCARDED:
            error = DiscardedError(
                f"{query.region}: the answer to {part.name} of query {query.permit_id} was "
                "discarded, for a customer in it withdrew before it was logged; its charge stays.",
                remedy="Ask anew: the next one is without that customer.",
            )
        else:
            error = OutdatedError(
                f"{query.region}: the answer to {part.name} of query {query.permit_id} was sealed, "
                f"and not logged within {parts.policy.consent_age_max_s} s; its charge stays.",
                remedy="Ask anew: that is another query, with a charge of its own.",
            )
        record = incident_record(
            run=query.run,
            server_round=part.number,
            region=query.region,
            reason=reason,
            detail=error.message,
            time_ms=max(parts.clock_ms(), parts.state.newest_ms),
        )
        # The incident marks it for good; only then may the seal go.
        parts.log.append([make_entry(record, parts.trainer)])
        parts.state.refresh()
        reach(AnswerPoint.ANSWER_GIVEN_UP)
        self._store.remove(query.run, part.number)
        raise error


def _record(sealed: SealedAnswer) -> dict[str, JsonValue]:
    return Envelope.decode(sealed.entry).record()
