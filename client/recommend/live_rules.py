"""What live events do to a customer's next list: the configured weights, and rules on patterns.

An event raises items by a share of the customer's best score before it: the item itself, items of
its product type and category, and those that the model finds like it (`LiveSpread`). The share
fades with the event's age. If several events raise an item, the one that raises it most decides, so
that a customer who looks at one thing ten times does not see it alone.

What lies in the cart now is left out of the list: it is chosen already. A purchase raises nothing
here; it counts as the rest of the customer's history does, from the next list on.

A rule waits for a pattern, such as three carts abandoned in a row, and then does one of these with
the items of these events:

    alternatives   leaves them out, and raises what is of their type, or like them
    remind         raises them
    suppress       leaves them out
    usual          raises what the customer usually buys, whatever the events were about
    explore        spreads the list over categories

For one item the first rule in the settings' order decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.events import LiveEvent
from client.recommend.item_groups import Places
from client.recommend.likeness import Likeness
from client.recommend.settings import LiveRule, LiveSettings
from client.recommend.types import ReasonCode

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_SAME_PURCHASE_MS = 86_400_000
_CODES: dict[str, ReasonCode] = {
    "view": "viewed",
    "click": "viewed",
    "search": "searched",
    "cart": "in-cart",
    "abandon": "abandoned",
    "favourite": "favourite",
    "purchase": "just-bought",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an item is raised: the reason's code, and the item's number or category it is about."""

    code: ReasonCode
    item: int | None
    category: str | None = None


@dataclass(frozen=True, eq=False)
class LiveEffect:
    """What a customer's live events do.

    Attributes:
        items: int64[l], distinct numbers of the items raised.
        boosts: float64[l], by which share of the customer's best score.
        causes: Why, for each of them.
        left_out: Numbers of items that must not be listed.
        usual: By which share of the best score the customer's most usual item is raised.
        diversity: The least diversity of the list.
        bought: Numbers of the items bought, as often as they were.
    """

    items: IntArray = field(repr=False)
    boosts: FloatArray = field(repr=False)
    causes: tuple[Cause, ...] = field(repr=False)
    left_out: frozenset[int] = frozenset()
    usual: float = 0.0
    diversity: float = 0.0
    bought: tuple[int, ...] = ()

    @property
    def changes_scores(self) -> bool:
        """Whether any item's score is another one by it."""
        return bool(len(self.items) or self.usual or self.bought)


NO_EFFECT = LiveEffect(np.zeros(0, dtype=np.int64), np.zeros(0), ())


@dataclass(frozen=True, eq=False)
class LiveRules:
    """The settings for live events, with what they need to know of the items.

    Attributes:
        settings: The settings.
        places: The items of each place in the catalogue.
        likeness: Which items the model finds like another.
    """

    settings: LiveSettings
    places: Places = field(repr=False)
    likeness: Likeness = field(repr=False)

    def effect(
        self, events: Sequence[LiveEvent], now_ms: int, row: PreferenceDataset | None = None
    ) -> LiveEffect:
        """What a customer's events do to her list now.

        Args:
            events: Her events that still count, oldest first.
            now_ms: The time, milliseconds since the epoch.
            row: Her history as the store has it, one row or none: a purchase that is in it does not
                count again.
        """
        if not events:
            return NO_EFFECT
        raised = _Raised()
        for event in events:
            self._raise(event, now_ms, raised)
        decided: set[int] = set()
        left_out = _in_cart(events)
        usual = diversity = 0.0
        for rule in self.settings.rules:
            matched = _matched(rule, events, now_ms)
            if matched is None:
                continue
            items = [item for item in matched if item not in decided]
            decided.update(items)
            if rule.then == "usual":
                usual = max(usual, rule.strength)
            elif rule.then == "explore":
                diversity = max(diversity, rule.strength)
            else:
                self._apply(rule, items, raised, left_out)
        bought = _not_in_store(events, row)
        return LiveEffect(*raised.strongest(), frozenset(left_out), usual, diversity, bought)

    def _raise(self, event: LiveEvent, now_ms: int, raised: _Raised) -> None:
        weight = self.settings.weights.of(event.kind)
        age_s = max(0, now_ms - event.at_ms) / 1000
        weight *= 2.0 ** (-age_s / self.settings.half_life_s)
        if not weight:
            return
        code = _CODES[event.kind]
        if event.category is not None:
            named = self.places.named(event.category, self.settings.candidates)
            raised.add(named, weight, Cause(code, None, event.category))
        if event.item is not None:
            cause = Cause(code, event.item)
            raised.add(np.array([event.item]), weight * self.settings.spread.item, cause)
            self._spread(event.item, weight, cause, raised)

    def _spread(self, item: int, weight: float, cause: Cause, raised: _Raised) -> None:
        """Raises what is beside an item, but not the item itself."""
        spread, most = self.settings.spread, self.settings.candidates
        for share, groups in (
            (spread.product_type, self.places.product_type),
            (spread.category, self.places.category),
        ):
            beside = groups.beside(item, most)
            raised.add(beside[beside != item], weight * share, cause)
        like, cosines = self.likeness.like(item, most)
        raised.add(like, weight * spread.similar * cosines, cause)

    def _apply(
        self, rule: LiveRule, items: Sequence[int], raised: _Raised, left_out: set[int]
    ) -> None:
        code = _CODES[rule.when]
        for item in items:
            if rule.then == "remind":
                left_out.discard(item)
                raised.add(np.array([item]), rule.strength, Cause(code, item))
                continue
            left_out.add(item)
            if rule.then == "alternatives":
                self._spread(item, rule.strength, Cause(code, item), raised)


class _Raised:
    """The items that events raise, collected."""

    def __init__(self) -> None:
        self._items: list[IntArray] = []
        self._boosts: list[FloatArray] = []
        self._causes: list[Cause] = []

    def add(self, items: IntArray, boost: float | FloatArray, cause: Cause) -> None:
        self._items.append(items)
        self._boosts.append(np.broadcast_to(np.asarray(boost, dtype=np.float64), items.shape))
        self._causes.append(cause)

    def strongest(self) -> tuple[IntArray, FloatArray, tuple[Cause, ...]]:
        """For each item its greatest boost, and the cause of it; ties go to the later event."""
        if not self._items:
            return NO_EFFECT.items, NO_EFFECT.boosts, ()
        items, boosts = np.concatenate(self._items), np.concatenate(self._boosts)
        sources = np.repeat(np.arange(len(self._causes)), [len(each) for each in self._items])
        order = np.lexsort((-sources, -boosts))
        order = order[boosts[order] > 0]
        distinct, first = np.unique(items[order], return_index=True)
        chosen = order[first]
        causes = tuple(self._causes[source] for source in sources[chosen].tolist())
        return distinct.astype(np.int64), boosts[chosen], causes


def _in_cart(events: Sequence[LiveEvent]) -> set[int]:
    """Numbers of the items that lie in the cart now."""
    cart: set[int] = set()
    for event in events:
        if event.kind == "cart" and event.item is not None:
            cart.add(event.item)
        elif event.kind in ("abandon", "purchase"):
            if event.item is None:
                cart.clear()
            else:
                cart.discard(event.item)
    return cart


def _not_in_store(events: Sequence[LiveEvent], row: PreferenceDataset | None) -> tuple[int, ...]:
    """Numbers of the items bought, but for purchases that the store has by now.

    The store's clock and the sender's may differ: a purchase of the item that is not more than
    `_SAME_PURCHASE_MS` older is the same one.
    """
    known: dict[int, int] = {}
    if row is not None:
        known = dict(zip(row.indices.tolist(), row.last_ms.tolist(), strict=True))
    return tuple(
        event.item
        for event in events
        if event.kind == "purchase"
        and event.item is not None
        and known.get(event.item, -_SAME_PURCHASE_MS) < event.at_ms - _SAME_PURCHASE_MS
    )


def _matched(rule: LiveRule, events: Sequence[LiveEvent], now_ms: int) -> list[int] | None:
    """Numbers of the items of a pattern's events, in order; None if the pattern is not there."""
    since_ms = now_ms - rule.within_s * 1000
    found: list[list[int]] = []
    last_ms = 0
    cart: list[int] = []
    for event in events:
        if event.at_ms <= since_ms:
            continue
        if event.kind == "cart" and event.item is not None:
            cart.append(event.item)
        broken = rule.in_a_row and event.kind == "purchase" and rule.when != "purchase"
        if broken:
            found = []
        if event.kind == rule.when:
            # Of a whole cart: what was put into it since the one before.
            whole = event.kind == "abandon" and event.item is None
            found.append(list(cart) if whole else [] if event.item is None else [event.item])
            last_ms = event.at_ms
        if event.kind in ("abandon", "purchase"):
            cart = []
    if len(found) < rule.times or now_ms - last_ms > rule.for_s * 1000:
        return None
    return list(dict.fromkeys(item for items in found for item in items))
