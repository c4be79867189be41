"""Questions by name, for whoever makes a plan: what is asked, and all that rows depend on.

A region makes the same of the same name (`client.analytics.askable`), and answers only what is the
same to the last constant. Nothing here comes from anybody's data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.analytics.further_questions import (
    FURTHER,
    Named,
    further_constants,
    further_question,
)
from common.analytics.grouping import Grouping
from common.analytics.key_questions import KEY_DELTA, KEY_QUESTIONS, search_terms
from common.analytics.purchase_questions import (
    CATEGORIES,
    CATEGORY_TREND,
    CLUSTERS,
    FREQUENCY,
    RECENCY,
    REPEATS,
    SCENES,
    category_question,
    category_trend_question,
    cluster_constants,
    frequency_question,
    later_from,
    most_purchase_days,
    recency_question,
    repeat_question,
    scene_question,
    window_days,
)
from common.analytics.question_records import Question
from common.canonical_json import JsonValue
from common.errors import InputError

#: Parts of the day that cover it: by name the first hour of each, and the hour it ends before.
DAYPARTS: Mapping[str, tuple[int, int]] = {
    "morning": (5, 11),
    "noon": (11, 15),
    "evening": (15, 22),
    "night": (22, 5),
}
#: What stands in the place of a zone: each region tells its own moments apart in local time.
LOCAL_ZONE = "local"


@dataclass(frozen=True)
class Asking:
    """The public knowledge that questions are made of.

    Attributes:
        categories: The public catalogue's categories, in order.
        start_ms: Begin of the window that is asked about, milliseconds since the epoch, inclusive.
        end_ms: Its end, exclusive.
        dayparts: The parts of the day, as `DAYPARTS`.
        named: The retailers' public names, of which questions about further tables are made.
        grouping: By what customers are grouped, and where that begins.
        key_delta: The δ for keys of a question of keys that nobody can list, a decimal string.
    """

    categories: tuple[str, ...] = field(repr=False)
    start_ms: int
    end_ms: int
    dayparts: Mapping[str, tuple[int, int]] = field(default_factory=lambda: DAYPARTS)
    named: Named = field(default_factory=Named)
    grouping: Grouping = field(default_factory=Grouping)
    key_delta: str = KEY_DELTA

    @property
    def clock(self) -> dict[str, JsonValue]:
        """How moments are told apart, as regions state it, but for the zone: that is each one's."""
        return {
            "dayparts": [
                {"name": name, "first_hour": first, "end_hour": end}
                for name, (first, end) in self.dayparts.items()
            ],
            "zone": LOCAL_ZONE,
        }


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, and how it is asked.

    Attributes:
        question: What is asked.
        more: Public constants that rows depend on besides the question's.
    """

    question: Question
    more: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """All public constants that a customer's row depends on."""
        return {**self.question.parameters, **self.more}


def _trend(asking: Asking) -> Asked:
    later_ms = later_from(asking.start_ms, asking.end_ms)
    return Asked(category_trend_question(asking.categories), {"later_from_ms": later_ms})


def _recency(asking: Asking) -> Asked:
    days = window_days(asking.start_ms, asking.end_ms)
    return Asked(recency_question(window_days=days), {"end_ms": asking.end_ms})


def _frequency(asking: Asking) -> Asked:
    days = window_days(asking.start_ms, asking.end_ms)
    return Asked(frequency_question(most_days=most_purchase_days(days)))


def _clusters(asking: Asking) -> Asked:
    days = window_days(asking.start_ms, asking.end_ms)
    question = asking.grouping.question(days=days, categories=len(asking.categories))
    return Asked(question, cluster_constants(question, end_ms=asking.end_ms, clock=asking.clock))


_MAKERS: dict[str, Callable[[Asking], Asked]] = {
    CATEGORIES: lambda asking: Asked(category_question(asking.categories)),
    CATEGORY_TREND: _trend,
    SCENES: lambda asking: Asked(scene_question(asking.dayparts), {"clock": asking.clock}),
    RECENCY: _recency,
    FREQUENCY: _frequency,
    REPEATS: lambda _: Asked(repeat_question()),
    CLUSTERS: _clusters,
}
#: What a plan can ask, in the order in which it is shown: of purchases, then of further tables.
PLANNABLE = (*_MAKERS, *FURTHER, *KEY_QUESTIONS)


def asked(name: str, asking: Asking) -> Asked:
    """The question of a name.

    Raises:
        InputError: There is none of this name, it needs public names that are not given, or the
            window is empty.
    """
    if not asking.start_ms < asking.end_ms:
        raise InputError(
            "The window that is asked about is empty.",
            remedy="Let it begin before it ends.",
        )
    if name in _MAKERS:
        return _MAKERS[name](asking)
    if name in KEY_QUESTIONS:
        return Asked(search_terms(float(asking.key_delta)))
    if name not in FURTHER:
        raise InputError(
            f"{name[:64]!r} is nothing that a plan can ask.", remedy=f"Use {', '.join(PLANNABLE)}."
        )
    question = further_question(
        name, asking.named, categories=asking.categories, dayparts=asking.dayparts
    )
    more = further_constants(name, asking.named, end_ms=asking.end_ms, clock=asking.clock)
    return Asked(question, more)
