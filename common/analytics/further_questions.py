"""The questions that further tables answer, as public constants: events, feedback, experiments.

As `common.analytics.purchase_questions`: both sides understand the same by a name. Some need names
that only a retailer has (which features a survey asks about, which types of stores there are): they
are public constants too, `Named`, part of the question and never taken from customers' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.purchase_questions import WEEKDAY_NAMES
from common.analytics.question_records import Question
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.uplift import Uplift
from common.canonical_json import JsonValue
from common.errors import InputError

JOURNEY, EVENTS_DONE, BROWSED = "journey-funnel", "event-kinds", "browsed-categories"
NPS, CSAT, REVIEWS = "nps", "csat", "review-score"
FEEDBACK_GIVEN, KANO = "feedback-kinds", "kano"
CLICK_UPLIFT, PURCHASE_UPLIFT = "uplift-click", "uplift-purchase"
REPURCHASE_UPLIFT = "uplift-repurchase"
STORE_SCENES, PAYMENTS, RETURNS = "store-scenes", "payment-shares", "return-shares"
#: All of them, in the order in which they are asked.
FURTHER = (
    JOURNEY,
    EVENTS_DONE,
    BROWSED,
    NPS,
    CSAT,
    REVIEWS,
    FEEDBACK_GIVEN,
    KANO,
    CLICK_UPLIFT,
    PURCHASE_UPLIFT,
    REPURCHASE_UPLIFT,
    STORE_SCENES,
    PAYMENTS,
    RETURNS,
)
#: The further tables that each is asked of.
TABLES_OF: Mapping[str, frozenset[str]] = {
    **dict.fromkeys((JOURNEY, EVENTS_DONE, BROWSED), frozenset({"events"})),
    **dict.fromkeys((NPS, CSAT, REVIEWS, FEEDBACK_GIVEN, KANO), frozenset({"feedback"})),
    CLICK_UPLIFT: frozenset({"exposures", "events"}),
    **dict.fromkeys((PURCHASE_UPLIFT, REPURCHASE_UPLIFT), frozenset({"exposures"})),
    **dict.fromkeys((STORE_SCENES, PAYMENTS, RETURNS), frozenset({"purchases"})),
}
UPLIFTS = (CLICK_UPLIFT, PURCHASE_UPLIFT, REPURCHASE_UPLIFT)

#: What a customer may do short of buying, as the table of events has it.
EVENT_KINDS = ("view", "click", "search", "cart", "favourite", "dwell")
#: What a customer may say, as the table of feedback has it.
FEEDBACK_KINDS = ("review", "complaint", "service", "nps", "csat", "kano")
#: From the first sight of something to coming back for more.
JOURNEY_STAGES = ("awareness", "interest", "decision", "purchase", "repeat")
#: Which stage each kind of event is of.
STAGE_OF: Mapping[str, str] = {
    "view": "awareness",
    "search": "awareness",
    "click": "interest",
    "favourite": "interest",
    "dwell": "interest",
    "cart": "decision",
}
#: What a row of a receipt says of a return.
KEPT_OR_RETURNED = ("kept", "returned")
#: In how many categories a customer counts who browses; of how many features her answers count. As
#: squares of powers of two they leave counts whole on the integer grid of secure sums.
MOST_BROWSED, MOST_FEATURES = 16, 4
#: For how many days a customer of an experiment is followed from her first exposure.
FOLLOW_DAYS = 28


@dataclass(frozen=True)
class Named:
    """Public names that questions are made of, in order.

    Attributes:
        features: The features that a Kano survey asks about.
        store_types: The types of stores.
        payments: The ways to pay.
        experiment: The experiment whose uplift is asked for; empty for none.
        follow_days: For how many days its customers are followed.
    """

    features: tuple[str, ...] = field(default=(), repr=False)
    store_types: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    experiment: str = ""
    follow_days: int = FOLLOW_DAYS

    def __post_init__(self) -> None:
        if not 1 <= self.follow_days <= 366:
            raise InputError(
                f"Customers of an experiment cannot be followed for {self.follow_days} days.",
                remedy="Follow them for 1 to 366 days.",
            )

    def has(self, name: str) -> bool:
        """Whether the names are given that a question is made of; of most it is none."""
        needed: Mapping[str, tuple[str, ...] | str] = {
            KANO: self.features,
            STORE_SCENES: self.store_types,
            PAYMENTS: self.payments,
            **dict.fromkeys(UPLIFTS, self.experiment),
        }
        return bool(needed.get(name, "none"))

    @classmethod
    def of(cls, question: Question, parameters: Mapping[str, JsonValue]) -> Named:
        """The names that a question was made of, so that a region can make the same one.

        Args:
            question: What a plan asks.
            parameters: All public constants that it names.
        """
        days = parameters.get("follow_days", FOLLOW_DAYS)
        first = question.axes[0] if isinstance(question, Shares) else ()
        return cls(
            features=question.features if isinstance(question, Kano) else (),
            store_types=first if question.name == STORE_SCENES else (),
            payments=first if question.name == PAYMENTS else (),
            experiment=str(parameters.get("experiment", "")),
            follow_days=days if type(days) is int else 0,
        )


def further_question(
    name: str, named: Named, *, categories: Iterable[str], dayparts: Iterable[str]
) -> Question:
    """The question of a name.

    Args:
        name: One of `FURTHER`.
        named: The retailer's public names.
        categories: The public catalogue's categories, in order.
        dayparts: The names of the parts of the day, in order.

    Raises:
        InputError: There is none of this name, or it needs names that are not given.
    """
    made: dict[str, Callable[[], Question]] = {
        JOURNEY: lambda: Funnel(JOURNEY, JOURNEY_STAGES),
        EVENTS_DONE: lambda: Groups.counts(EVENTS_DONE, EVENT_KINDS, most=len(EVENT_KINDS)),
        BROWSED: lambda: Groups.counts(BROWSED, tuple(categories), most=MOST_BROWSED),
        NPS: lambda: Score.nps(NPS),
        CSAT: lambda: Score.csat(CSAT),
        REVIEWS: lambda: Score.csat(REVIEWS),
        FEEDBACK_GIVEN: lambda: Groups.counts(
            FEEDBACK_GIVEN, FEEDBACK_KINDS, most=len(FEEDBACK_KINDS)
        ),
        KANO: lambda: Kano(KANO, _given(name, named.features, "features"), MOST_FEATURES),
        **{each: lambda: _uplift(name, named) for each in UPLIFTS},
        STORE_SCENES: lambda: Shares(
            STORE_SCENES,
            (_given(name, named.store_types, "store types"), tuple(dayparts), WEEKDAY_NAMES),
        ),
        PAYMENTS: lambda: Shares(PAYMENTS, (_given(name, named.payments, "ways to pay"),)),
        RETURNS: lambda: Shares(RETURNS, (KEPT_OR_RETURNED,)),
    }
    if name not in made:
        raise InputError(
            f"{name[:64]!r} is nothing that further tables are asked.",
            remedy=f"Use {', '.join(FURTHER)}.",
        )
    return made[name]()


def further_constants(
    name: str, named: Named, *, end_ms: int, clock: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """The public constants that rows depend on besides the question's.

    Args:
        name: One of `FURTHER`.
        named: The retailer's public names.
        end_ms: End of the window that is asked about, milliseconds since the epoch.
        clock: How moments are told apart, as JSON values.
    """
    if name in UPLIFTS:
        return {
            "experiment": named.experiment,
            "follow_days": named.follow_days,
            "end_ms": end_ms,
        }
    return {"clock": dict(clock)} if name == STORE_SCENES else {}


def _uplift(name: str, named: Named) -> Uplift:
    if not named.experiment:
        raise InputError(
            f"{name}: no experiment is named.",
            remedy="Say which one: --experiment NAME.",
        )
    return Uplift(name)


def _given(name: str, names: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not names:
        raise InputError(
            f"{name}: which {what} there are is not said.",
            remedy="List them in tables.toml, as the codes of their column: they are part of the "
            "question, and never taken from customers' rows.",
        )
    return names
