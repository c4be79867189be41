"""The recommender of one region: library call of the service, of batches and of tests.

Whose consent stands is asked of the region's log at each request. Everybody else, and everybody of
whom nothing is known, is shown released popularity, in an answer of the same form that says why.
What a customer has just done changes her very next list.

Errors that a request can cause are `InputError`s and `UnknownItemError`s; all else that goes wrong
while serving makes the answer less personal, is logged, and is in `faults`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.recommend.answers import (
    Customer,
    bought_with,
    number_of,
    personal_items,
    popular_items,
    similar_items,
)
from client.recommend.consent_gate import ConsentGate, Judgement
from client.recommend.events import LiveEvent, LiveEvents
from client.recommend.experiment import Assignment, experiment_key
from client.recommend.exposure import FILE_NAME as EXPOSURES_NAME
from client.recommend.exposure import Exposure, ExposureLog
from client.recommend.histories import with_purchases
from client.recommend.live_rules import NO_EFFECT
from client.recommend.scoring import ScoresNotFiniteError
from client.recommend.served import Served, load_served
from client.recommend.settings import NO_VARIANT, Arm, RecommendSettings, recommend_folder
from client.recommend.types import (
    Answer,
    Event,
    NotPersonal,
    Query,
    Recommended,
    RecommenderClosedError,
    RefreshRunningError,
    UnknownItemError,
    require_places,
)
from common.errors import FedprefError, StorageError
from common.timestamps import now_ms

_logger = logging.getLogger("fedpref.recommend")
_MS_PER_DAY = 86_400_000


class Recommender:
    """One region's recommender. Make it with `open`; safe to use from several threads.

    Args:
        home: The region's home.
        settings: Its settings.
        gate: Whose consent stands.
        served: What answers are made of.
        clock_ms: Gives the time, milliseconds since the epoch.
    """

    def __init__(
        self,
        home: RegionHome,
        settings: RecommendSettings,
        gate: ConsentGate,
        served: Served,
        *,
        clock_ms: Callable[[], int],
    ) -> None:
        self.settings = settings
        #: Whose consent stands.
        self.gate = gate
        self._home = home
        self._served = served
        self._clock_ms = clock_ms
        self._live = LiveEvents(settings.live)
        self._refreshing = threading.Lock()
        self._closed = False
        self._exposure_fault: FedprefError | None = None
        self._assignment: Assignment | None = None
        self._exposures: ExposureLog | None = None
        if settings.experiment is not None:
            self._assignment = Assignment(settings.experiment, experiment_key(home))
            self._exposures = ExposureLog(recommend_folder(home) / EXPOSURES_NAME)

    @classmethod
    def open(
        cls,
        home: RegionHome,
        settings: RecommendSettings | None = None,
        *,
        clock_ms: Callable[[], int] = now_ms,
    ) -> Recommender:
        """Opens a region's recommender.

        Args:
            home: The region's home.
            settings: Its settings; those of the home by default.
            clock_ms: Gives the time.

        Raises:
            InputError: No model is installed, or log, catalogue or settings cannot be read.
            VerificationError: The model, its log entry, or the region's own log does not verify,
                or the catalogue is out of step with the model.
            StorageError: A file of the region cannot be used.
        """
        settings = settings or RecommendSettings.read(home)
        gate = ConsentGate(home, clock_ms=clock_ms)
        try:
            eligible = gate.eligible()
            served = load_served(home, settings, eligible, now_ms=clock_ms())
            recommender = cls(home, settings, gate, served, clock_ms=clock_ms)
            # Who withdrew or was erased while nobody served is not kept until the first refresh.
            recommender._forget_others(eligible)
            return recommender
        except BaseException:
            gate.close()
            raise

    @property
    def served(self) -> Served:
        """What answers are made of at the moment."""
        return self._served

    @property
    def model(self) -> str:
        """The digest of the model that is served."""
        return self._served.release.digest

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong at the moment and makes answers less personal; for the operator."""
        found = [self.gate.fault, self._exposure_fault]
        return (*(str(each) for each in found if each is not None), *self._served.faults)

    def recommend(self, query: Query) -> Answer:
        """The best items for a query.

        Raises:
            InputError: The scene has a daypart or store type that the settings do not know.
            RecommenderClosedError: It is closed.
        """
        self._require_open()
        self.settings.scenes.require(query.scene)
        served = self._served
        if query.customer is None:
            judged = Judgement(None, "no-customer", self.gate.size())
        else:
            judged = self._judge(query.customer)
        if judged.sid is None:
            items = popular_items(served, query)
            return _answer(served, items, judged.refused, NO_VARIANT, judged.consent_size)
        arm = self.arm(judged.sid)
        items, why = self._items(served, query, judged.sid, arm)
        answer = _answer(
            served, items, why, NO_VARIANT if arm is None else arm.name, judged.consent_size
        )
        if arm is not None and not query.dry:
            self._expose(judged.sid, answer)
        return answer

    def similar(self, item: str, k: int) -> tuple[Recommended, ...]:
        """The items most like an item; see `Recommends.similar`."""
        self._require_open()
        require_places(k)
        return similar_items(self._served, item, k)

    def also_bought(self, item: str, k: int) -> tuple[Recommended, ...]:
        """The items bought with an item; see `Recommends.also_bought`."""
        self._require_open()
        require_places(k)
        served = self._served
        try:
            return bought_with(served, item, k)
        except ScoresNotFiniteError as error:
            _logger.error("%s Items like it are shown instead.", error)
            return similar_items(served, item, k)

    def observe(self, event: Event) -> bool:
        """Takes in a live event; the very next answer has it. See `Recommends.observe`."""
        self._require_open()
        served = self._served
        # Before anything is asked about the customer: an error tells nothing of her.
        item = None if event.item is None else number_of(served.catalogue, event.item)
        if event.category is not None and not len(served.rules.places.named(event.category, 1)):
            raise UnknownItemError(
                "A category of the request is not in the region's catalogue.",
                remedy="Use the name of a product type, category or department.",
            )
        judged = self._judge(event.customer)
        if judged.sid is None:
            return False
        now = self._clock_ms()
        # A sender's clock that is ahead must not make an event outlast others.
        at_ms = min(event.at_ms, now)
        if at_ms <= now - self.settings.live.keep_s * 1000:
            return False
        self._live.add(judged.sid, LiveEvent(event.kind, item, event.category, at_ms))
        return True

    def history(self, customer: str) -> tuple[tuple[str, int], ...]:
        """What a customer bought, latest first; see `Recommends.history`."""
        self._require_open()
        served, judged = self._served, self._judge(customer)
        if judged.sid is None:
            return ()
        row = served.histories.row(judged.sid)
        bought = dict(zip(row.indices.tolist(), row.last_ms.tolist(), strict=True))
        for event in self._live.of(judged.sid, self._clock_ms()):
            if event.kind == "purchase" and event.item is not None:
                bought[event.item] = max(event.at_ms, bought.get(event.item, 0))
        ordered = sorted(bought.items(), key=lambda each: (-each[1], each[0]))
        return tuple((served.catalogue.items[item], last_ms) for item, last_ms in ordered)

    def customers(self, limit: int) -> tuple[str, ...]:
        """Some customers who would get a list of their own now, as the store refers to them.

        Args:
            limit: How many at most; no more are known than `client.recommend.served.SAMPLE`.
        """
        self._require_open()
        standing = (ref for ref, sid in self._served.sample if self.gate.stands(sid))
        return tuple(ref for ref, _ in zip(standing, range(limit), strict=False))

    def consenting(self) -> EligibleCustomers:
        """All customers whose consent stands now, with the store's references: for batches.

        Raises:
            InputError, StorageError, VerificationError: Consents cannot be read or do not verify.
        """
        self._require_open()
        return self.gate.eligible()

    def arm(self, sid: str) -> Arm | None:
        """The arm of the running experiment that a pseudonym is in; None without one."""
        return None if self._assignment is None else self._assignment.arm(sid)

    def refresh(self) -> None:
        """Reads the store's rows, the published model and the region's releases anew.

        Meanwhile, and if it fails, what was served goes on being served: it was verified when it
        was loaded. Nothing of those whose consent has ended is kept.

        Raises:
            InputError, StorageError, VerificationError: As `open`.
            RefreshRunningError: Another one is running; it is not waited for, as of a large region
                it takes minutes.
        """
        self._require_open()
        if not self._refreshing.acquire(blocking=False):
            raise RefreshRunningError(
                "A refresh is running.", remedy="Ask again when it is through, if need be."
            )
        try:
            self.gate.refresh()
            eligible = self.gate.eligible()
            self._forget_others(eligible)
            self._served = load_served(
                self._home,
                self.settings,
                eligible,
                now_ms=self._clock_ms(),
                before=self._served,
            )
        finally:
            self._refreshing.release()

    def close(self) -> None:
        """Closes files; later calls raise `RecommenderClosedError`. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self.gate.close()
        if self._exposures is not None:
            self._exposures.close()

    def _items(
        self, served: Served, query: Query, sid: str, arm: Arm | None
    ) -> tuple[tuple[Recommended, ...], NotPersonal | None]:
        """The list of a customer whose consent stands, and why it is not hers if it is not."""
        diversity = 0.0 if arm is None else arm.diversity
        if arm is not None and arm.method == "popular":
            return popular_items(served, query, diversity=diversity), "experiment"
        row, effect = served.histories.row(sid), NO_EFFECT
        if arm is None or arm.live:
            now = self._clock_ms()
            effect = served.rules.effect(self._live.of(sid, now), now, row)
            row = with_purchases(row, sid, effect.bought)
        customer = Customer(row, effect, "fused" if arm is None else arm.method, diversity)
        if not customer.is_known:
            nobody = served.histories.n_customers == 0
            why: NotPersonal = "cold-region" if nobody else "no-history"
            return popular_items(served, query, diversity=diversity), why
        try:
            return personal_items(served, query, customer), None
        except ScoresNotFiniteError as error:
            _logger.error("%s Popularity is shown instead.", error)
            return popular_items(served, query, diversity=diversity), "scores-not-finite"

    def _judge(self, customer: str) -> Judgement:
        judged = self.gate.judge(customer)
        if judged.ended is not None:
            # What she did is forgotten with her consent, also should she consent again.
            self._live.drop(judged.ended)
        return judged

    def _expose(self, sid: str, answer: Answer) -> None:
        assignment, log = self._assignment, self._exposures
        if assignment is None or log is None:
            return
        shown = Exposure(
            assignment.settings.name,
            assignment.pseudonym(sid),
            answer.variant,
            self._clock_ms(),
            tuple(each.item for each in answer.items),
        )
        with self._noting():
            log.add(shown)

    def _forget_others(self, eligible: EligibleCustomers) -> None:
        """Forgets what is kept of customers whose consent does not stand."""
        now = self._clock_ms()
        self._live.keep_only(eligible.sids.__contains__, now_ms=now)
        assignment, log = self._assignment, self._exposures
        if assignment is not None and log is not None:
            kept = {assignment.pseudonym(sid) for sid in eligible.sids}
            since_ms = now - assignment.settings.keep_days * _MS_PER_DAY
            with self._noting():
                log.keep_only(assignment.settings.name, kept, since_ms=since_ms)
        elif (path := recommend_folder(self._home) / EXPOSURES_NAME).exists():
            # Of an experiment that is over: without one, nobody would ever take it out.
            with self._noting(), closing(ExposureLog(path)) as over:
                over.clear()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """A disk that refuses exposures must not keep customers from their lists."""
        try:
            yield
        except StorageError as error:
            if self._exposure_fault is None:
                _logger.error("Exposures are not written: %s", error)
            self._exposure_fault = error
        else:
            self._exposure_fault = None

    def _require_open(self) -> None:
        if self._closed:
            raise RecommenderClosedError(
                "The recommender is closed.", remedy="Open it again: Recommender.open."
            )


def _answer(
    served: Served,
    items: tuple[Recommended, ...],
    why_not: NotPersonal | None,
    variant: str,
    consent_size: int,
) -> Answer:
    return Answer(
        items=items,
        personal=why_not is None,
        why_not_personal=why_not,
        model=served.release.digest,
        variant=variant,
        consent_size=consent_size,
    )
