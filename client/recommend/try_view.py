"""What the try page shows of an answer: names, reasons in words, and how the list moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from client.recommend.types import Answer, Reason, Recommended
from client.web.language import Messages
from common.catalogue import UNLABELLED, Catalogue
from common.timestamps import format_time

#: The longest history that the page shows.
MOST_BOUGHT = 12
#: What moved further moves in from here, in places; the page's style has a rule for each.
FURTHEST = 9

#: Codes whose `about` is an item, not a category's name.
_ABOUT_ITEM = frozenset(
    {
        "like",
        "viewed",
        "in-cart",
        "abandoned",
        "favourite",
        "just-bought",
        "also-bought",
    }
)


@dataclass(frozen=True)
class Why:
    """One reason.

    Attributes:
        text: In words; an item in them goes by what it is.
        about: The item or category itself; empty if the reason is about none.
    """

    text: str
    about: str


@dataclass(frozen=True)
class Row:
    """One place of the list.

    Attributes:
        place: 1 for the best.
        item: The item's reference.
        name: What it is, as the catalogue says; empty if it does not.
        share: Its score as a share of the best one's, 0 to 1.
        reasons: Why, the strongest first.
        moved: By how many places it rose (above 0) or fell since the list before; None if it was
            not on it, or there was none.
        new: Whether it was not on the list before, and there was one.
    """

    place: int
    item: str
    name: str
    share: float
    reasons: tuple[Why, ...]
    moved: int | None
    new: bool

    @property
    def comes_from(self) -> int:
        """From how many places below (above 0) or above it moves in, for the page's style."""
        return max(-FURTHEST, min(FURTHEST, self.moved or 0))


@dataclass(frozen=True)
class Bought:
    """One item of the history."""

    item: str
    name: str
    time: str


@dataclass(frozen=True)
class TryView:
    """An answer as the page shows it.

    Attributes:
        t: The page's words.
        catalogue: What items are.
        before: The list that was shown before; empty if there was none.
        answer: The answer.
        history: What the customer bought, latest first.
    """

    t: Messages
    catalogue: Catalogue
    before: tuple[str, ...]
    answer: Answer
    history: Sequence[tuple[str, int]]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The list."""
        places = {item: place for place, item in enumerate(self.before, start=1)}
        best = self.answer.items[0].score if self.answer.items else 0.0
        return tuple(
            self._row(place, each, places, best)
            for place, each in enumerate(self.answer.items, start=1)
        )

    @property
    def gone(self) -> tuple[str, ...]:
        """What was on the list before and is no more."""
        now = {each.item for each in self.answer.items}
        return tuple(self.named(item) for item in self.before if item not in now)

    @property
    def moved(self) -> bool:
        """Whether the list is another than before."""
        return bool(self.before) and self.before != tuple(r.item for r in self.rows)

    @property
    def bought(self) -> tuple[Bought, ...]:
        """The latest of the history."""
        return tuple(
            Bought(item, self.name(item), format_time(at_ms))
            for item, at_ms in self.history[:MOST_BOUGHT]
        )

    @property
    def more_bought(self) -> int:
        """How many items of the history are not shown."""
        return max(0, len(self.history) - MOST_BOUGHT)

    def name(self, item: str) -> str:
        """What an item is: its type, else its category; empty if the catalogue does not say."""
        index = self.catalogue.index_of.get(item)
        if index is None:
            return ""
        labels = (
            self.catalogue.product_type_names[self.catalogue.product_type[index]],
            self.catalogue.category_names[self.catalogue.category[index]],
        )
        return next((label for label in labels if label != UNLABELLED), "")

    def named(self, item: str) -> str:
        """An item's reference with what it is."""
        name = self.name(item)
        return self.t("item.named", item=item, name=name) if name else item

    def _row(self, place: int, each: Recommended, places: dict[str, int], best: float) -> Row:
        before = places.get(each.item)
        return Row(
            place=place,
            item=each.item,
            name=self.name(each.item),
            share=min(1.0, max(0.0, each.score / best)) if best > 0 else 0.0,
            reasons=tuple(map(self._why, each.reasons)),
            moved=None if before is None else before - place,
            new=bool(places) and before is None,
        )

    def _why(self, reason: Reason) -> Why:
        key, about = f"reason.{reason.code}", reason.about or ""
        if not about or f"{key}.about" not in self.t.texts:
            return Why(self.t(key), about)
        shown = (self.name(about) or about) if reason.code in _ABOUT_ITEM else about
        return Why(self.t(f"{key}.about", about=shown), about)
