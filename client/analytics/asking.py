"""A region asks its own customers: whether noise would swamp it, then signed, charged and logged.

Answers stay in the region, like those for its recommender (`client.engine.answering`), and go the
same way: nothing here has a path of its own to data, ledger or log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from client.analytics.askable import ASKABLE, statistics
from client.analytics.purchases import PurchaseStatistic
from client.engine.answering import LoggedAnswer
from client.engine.queries import Query
from client.engine.query_desk import QueryDraft, asks_the_same, make_query, sign_query
from client.engine.service import PrivacyEngine
from common.analytics.lines import Line, lines_of
from common.analytics.outlook import Outlook, require_worth
from common.catalogue import Catalogue
from common.consent import FEDERATED_ANALYTICS
from common.errors import InputError

#: What the ledger's accounts call it.
MODEL_NAME = "analytics"
#: So long a query may be answered: a crash in between is mended within that time.
VALID_FOR_S = 3600

__all__ = [
    "ASKABLE",
    "MODEL_NAME",
    "VALID_FOR_S",
    "Answered",
    "ask",
    "draft_query",
    "expect",
    "statistics",
    "unfinished",
]


@dataclass(frozen=True)
class Answered:
    """One answer.

    Attributes:
        statistic: What was asked.
        query: The query.
        answer: The logged answer.
        outlook: What noise was expected to do to it.
        lines: What it says.
    """

    statistic: PurchaseStatistic = field(repr=False)
    query: Query
    answer: LoggedAnswer
    outlook: Outlook
    lines: tuple[Line, ...] = field(repr=False)


def draft_query(
    asked: Sequence[PurchaseStatistic],
    *,
    epsilon: str,
    catalogue: Catalogue,
    start_ms: int,
    end_ms: int,
) -> QueryDraft:
    """What the region wants to know, on the ground of consent to analytics, which pays for it."""
    return QueryDraft(
        statistics=asked,
        epsilon=epsilon,
        purpose=FEDERATED_ANALYTICS,
        also=(),
        model=MODEL_NAME,
        catalogue=catalogue.digest,
        start_ms=start_ms,
        end_ms=end_ms,
    )


def expect(engine: PrivacyEngine, draft: QueryDraft) -> list[Outlook]:
    """What noise would do to each part of a draft; nothing is signed, and nothing is spent.

    Args:
        engine: The region's open engine.
        draft: What would be asked, of `PurchaseStatistic`.

    Raises:
        PolicyError: The policy does not allow it.
        ConsentError: No customer's consent is in force.
    """
    return _outlooks(engine, _made(engine, draft), draft)


def ask(engine: PrivacyEngine, draft: QueryDraft, *, anyway: bool = False) -> list[Answered]:
    """Asks for everything of a draft: signed, charged, logged, read.

    Interrupted, the same call goes on where it was: what was charged is used, nothing is charged
    twice, and what was sealed stays what it was.

    Args:
        engine: The region's open engine.
        draft: What is asked, of `PurchaseStatistic`.
        anyway: Spend budget on answers that noise will swamp, too.

    Raises:
        BudgetError: Noise would swamp an answer, or the budget does not pay.
        FedprefError: As the engine's; nothing more is released.
    """
    query = unfinished(engine, draft)
    if query is None:
        query = _made(engine, draft)
        require_worth(_outlooks(engine, query, draft), anyway=anyway)
        sign_query(engine.home, engine.log, query)
    expected = _outlooks(engine, query, draft)
    done = []
    for statistic, outlook in zip(_purchase_statistics(draft), expected, strict=True):
        answer = engine.answer(query.permit_id, statistic)
        values = answer.sealed.arrays[statistic.spec.name].astype(np.float64)
        stddev = query.part(statistic.name).noise_stddev
        lines = tuple(lines_of(statistic.question, values, stddev))
        done.append(Answered(statistic, query, answer, outlook, lines))
    return done


def unfinished(engine: PrivacyEngine, draft: QueryDraft) -> Query | None:
    """The newest query that asks the same, if a crash left it before all of it was answered."""
    for query in engine.queries.open_queries():
        if asks_the_same(query, draft):
            answered = [engine.queries.answered(query.permit_id, each.name) for each in query.parts]
            return None if all(answered) else query
    return None


def _made(engine: PrivacyEngine, draft: QueryDraft) -> Query:
    now_ms = engine.queries.now_ms()
    return make_query(draft, engine.policy, issued_at_ms=now_ms, valid_for_s=VALID_FOR_S)


def _outlooks(engine: PrivacyEngine, query: Query, draft: QueryDraft) -> list[Outlook]:
    customers = engine.queries.customers_at_least(query)
    return [
        each.question.outlook(customers, query.part(each.name).noise_stddev)
        for each in _purchase_statistics(draft)
    ]


def _purchase_statistics(draft: QueryDraft) -> list[PurchaseStatistic]:
    found = [each for each in draft.statistics if isinstance(each, PurchaseStatistic)]
    if len(found) != len(draft.statistics):
        raise InputError("Only questions of analytics can be read.")
    return found
