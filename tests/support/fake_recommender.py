"""A recommender over a handful of items that keeps the protocol's promises, without any model.

Personal lists put what the customer bought first, then what is of her favourite category; live
events raise their item and its category. What the service and its page rest on is kept faithfully:
consent is asked at every call, unknown items are refused, every list has the same form.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace

from client.recommend.settings import RecommendSettings
from client.recommend.types import (
    Answer,
    Event,
    NotPersonal,
    Query,
    Reason,
    ReasonCode,
    Recommended,
    RecommenderClosedError,
    UnknownItemError,
)
from common.catalogue import Catalogue
from common.errors import InputError

CATEGORIES = ("bakery", "dairy", "fruit", "phones")
CATALOGUE = Catalogue.of(
    [f"item-{number:03}" for number in range(40)],
    category=[CATEGORIES[number % 4] for number in range(40)],
    product_type=[f"{CATEGORIES[number % 4]} {number % 8}" for number in range(40)],
)
MODEL = "4d" * 32
WEIGHTS = {"view": 0.5, "click": 0.6, "search": 0.8, "cart": 0.7, "abandon": 0.2}
WEIGHTS |= {"favourite": 0.8, "purchase": 1.0}
CODES: dict[str, ReasonCode] = {
    "view": "viewed",
    "click": "viewed",
    "search": "searched",
    "cart": "in-cart",
    "abandon": "abandoned",
    "favourite": "favourite",
    "purchase": "just-bought",
}


@dataclass
class FakeRecommender:
    """See the module's docstring.

    Attributes:
        histories: What each customer bought, latest first: item and time in ms.
        consenting: Whose consent stands; change it to withdraw.
        settings: What scenes may name.
    """

    histories: dict[str, list[tuple[str, int]]] = field(
        default_factory=lambda: {
            "ada": [("item-004", 1_700_000_000_000), ("item-008", 1_690_000_000_000)],
            "bo": [("item-001", 1_700_000_000_000)],
        }
    )
    consenting: set[str] = field(default_factory=lambda: {"ada", "bo", "new"})
    settings: RecommendSettings = field(default_factory=RecommendSettings)
    faults: tuple[str, ...] = ()
    refreshed: int = 0
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        return MODEL

    def recommend(self, query: Query) -> Answer:
        with self._lock:
            self._check()
            self.settings.scenes.require(query.scene)
            why = self._why_not(query.customer)
            scores, reasons = self._scores(query, personal=why is None)
        bought = {item for item, _ in self.histories.get(query.customer or "", [])}
        hidden = set(query.exclude)
        if query.new_only and why is None:
            hidden |= bought
        candidates = [
            item
            for item in CATALOGUE.items
            if item not in hidden and (query.in_stock is None or item in query.in_stock)
        ]
        best = sorted(candidates, key=lambda item: -scores[item])[: query.k]
        return Answer(
            items=tuple(Recommended(item, scores[item], tuple(reasons[item])) for item in best),
            personal=why is None,
            why_not_personal=why,
            model=MODEL,
            variant="none",
            consent_size=100 + len(self.consenting),
        )

    def similar(self, item: str, k: int) -> tuple[Recommended, ...]:
        self._check()
        return self._of_category(item, k, Reason("like", item))

    def also_bought(self, item: str, k: int) -> tuple[Recommended, ...]:
        self._check()
        return self._of_category(item, k, Reason("also-bought", item))

    def observe(self, event: Event) -> bool:
        with self._lock:
            self._check()
            if event.item is not None and event.item not in CATALOGUE.index_of:
                raise UnknownItemError(f"No item {event.item}.")
            if event.category is not None and event.category not in CATEGORIES:
                raise UnknownItemError(f"No category {event.category}.")
            if event.customer not in self.consenting:
                return False
            self.events.append(event)
            return True

    def history(self, customer: str) -> tuple[tuple[str, int], ...]:
        self._check()
        return tuple(self.histories.get(customer, [])) if customer in self.consenting else ()

    @property
    def served(self) -> SimpleNamespace:
        return SimpleNamespace(catalogue=CATALOGUE)

    def customers(self, limit: int) -> tuple[str, ...]:
        return tuple(sorted(self.consenting & self.histories.keys()))[:limit]

    def refresh(self) -> None:
        self._check()
        self.refreshed += 1

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.closed:
            raise RecommenderClosedError("The recommender is closed.")
        if self.failure is not None:
            raise self.failure

    def _why_not(self, customer: str | None) -> NotPersonal | None:
        if customer is None:
            return "no-customer"
        known = customer in self.histories or customer in self.consenting
        if not known:
            return "unknown-customer"
        if customer not in self.consenting:
            return "no-consent"
        live = any(event.customer == customer for event in self.events)
        return None if self.histories.get(customer) or live else "no-history"

    def _scores(
        self, query: Query, *, personal: bool
    ) -> tuple[dict[str, float], dict[str, list[Reason]]]:
        scores = {item: 1.0 - place / 100 for place, item in enumerate(CATALOGUE.items)}
        reasons: dict[str, list[Reason]] = {item: [Reason("popular")] for item in scores}
        if not personal or query.customer is None:
            return scores, reasons
        for item, _ in self.histories.get(query.customer, []):
            scores[item] += 2.0
            reasons[item].insert(0, Reason("bought-before"))
            self._raise(scores, reasons, category_of(item), 0.3, Reason("like", item))
        for event in self.events:
            if event.customer != query.customer:
                continue
            about = event.item or event.category
            reason = Reason(CODES[event.kind], about)
            weight = WEIGHTS[event.kind]
            if event.item is not None:
                scores[event.item] += 3 * weight
                reasons[event.item].insert(0, reason)
            category = event.category or (category_of(event.item) if event.item else None)
            if category is not None:
                self._raise(scores, reasons, category, weight, reason)
        return scores, reasons

    @staticmethod
    def _raise(
        scores: dict[str, float],
        reasons: dict[str, list[Reason]],
        category: str,
        by: float,
        reason: Reason,
    ) -> None:
        for item in items_of(category):
            scores[item] += by
            if reason not in reasons[item]:
                reasons[item].insert(0, reason)

    def _of_category(self, item: str, k: int, reason: Reason) -> tuple[Recommended, ...]:
        if item not in CATALOGUE.index_of:
            raise UnknownItemError(f"No item {item}.")
        if not 1 <= k <= 1000:
            raise InputError(f"A list of {k} items cannot be made.")
        others = [other for other in items_of(category_of(item)) if other != item]
        return tuple(
            Recommended(other, 1.0 - place / 10, (reason,))
            for place, other in enumerate(others[:k])
        )


def category_of(item: str) -> str:
    """The category of an item."""
    return CATALOGUE.category_names[CATALOGUE.category[CATALOGUE.index_of[item]]]


def items_of(category: str) -> Iterable[str]:
    """The items of a category."""
    return [item for item in CATALOGUE.items if category_of(item) == category]
