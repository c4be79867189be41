"""Statistics of further tables by name: events, feedback, experiments and receipts."""

from __future__ import annotations

from client.analytics.events import browsed_categories, events_done, journey_funnel
from client.analytics.experiments import uplift
from client.analytics.feedback import feedback_given, kano_answers, newest_score
from client.analytics.purchases import PurchaseStatistic
from client.analytics.shops import payment_shares, return_shares, store_scenes
from client.data.tables.declaration import DeclaredTables, labels_of
from client.data.tables.schema import FEEDBACK, PURCHASES
from client.recommend.local_statistics import Clock
from common.analytics.funnels import Funnel
from common.analytics.further_questions import (
    BROWSED,
    CSAT,
    EVENTS_DONE,
    FEEDBACK_GIVEN,
    FOLLOW_DAYS,
    JOURNEY,
    NPS,
    PAYMENTS,
    RETURNS,
    REVIEWS,
    STORE_SCENES,
    Named,
    further_constants,
    further_question,
)
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.question_records import Question
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.uplift import Uplift
from common.catalogue import Catalogue
from common.errors import InputError

_KIND_OF_SCORE = {NPS: "nps", CSAT: "csat", REVIEWS: "review"}


def named_in(
    declared: DeclaredTables, *, experiment: str = "", follow_days: int = FOLLOW_DAYS
) -> Named:
    """The public names that a region's declarations list.

    Args:
        declared: The region's further tables.
        experiment: The experiment that is asked about, if any.
        follow_days: For how many days its customers are followed.

    Raises:
        InputError: The number of days is none.
    """
    feedback, receipts = declared.get(FEEDBACK, ()), declared.get(PURCHASES, ())
    return Named(
        features=labels_of(feedback, "topic"),
        store_types=labels_of(receipts, "store_type"),
        payments=labels_of(receipts, "payment"),
        experiment=experiment,
        follow_days=follow_days,
    )


def further_statistic(
    name: str, named: Named, catalogue: Catalogue, clock: Clock, *, end_ms: int
) -> PurchaseStatistic:
    """What is asked of further tables under a name.

    Args:
        name: One of `common.analytics.further_questions.FURTHER`.
        named: The public names that it is made of.
        catalogue: The region's public catalogue.
        clock: How moments are told apart.
        end_ms: End of the window, milliseconds since the epoch.

    Raises:
        InputError: There is none of this name, or it needs names that are not given.
    """
    question = further_question(
        name, named, categories=catalogue.category_names, dayparts=clock.dayparts
    )
    return _statistic(question, named, catalogue, clock, end_ms)


def _statistic(
    question: Question, named: Named, catalogue: Catalogue, clock: Clock, end_ms: int
) -> PurchaseStatistic:
    name = question.name
    more = further_constants(name, named, end_ms=end_ms, clock=clock.to_record())
    match question:
        case Funnel() if name == JOURNEY:
            return journey_funnel(question)
        case Score():
            return newest_score(question, _KIND_OF_SCORE[name])
        case Kano():
            return kano_answers(question)
        case Uplift():
            return uplift(question, named, end_ms=end_ms, more=more)
        case Shares() if name == STORE_SCENES:
            return store_scenes(question, clock, more)
        case Shares() if name == PAYMENTS:
            return payment_shares(question)
        case Shares() if name == RETURNS:
            return return_shares(question)
        case Groups() if name == BROWSED:
            return browsed_categories(question, catalogue)
        case Groups() if name == EVENTS_DONE:
            return events_done(question)
        case Groups() if name == FEEDBACK_GIVEN:
            return feedback_given(question)
        case _:
            raise InputError(f"{name}: no rows of customers are made for it.")
