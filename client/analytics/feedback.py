"""Statistics of feedback: scores, what customers get in touch for, and Kano surveys."""

from __future__ import annotations

import numpy as np

from client.analytics.purchases import PurchaseStatistic
from client.analytics.rows import count_rows, kano_rows, score_rows
from client.data.table_rows import NONE
from client.data.tables.schema import FEEDBACK
from client.data.transactions import Purchases
from client.training.bounded_sums import Contributions
from common.analytics.groups import Groups
from common.analytics.kano import ANSWERS, Kano
from common.analytics.scores import Score


def newest_score(question: Score, kind: str) -> PurchaseStatistic:
    """The mean of customers' newest answers of one kind.

    An answer off the scale is none: reading leaves such rows out and counts them, and whatever
    comes here all the same is not guessed at.

    Args:
        question: What is asked.
        kind: Of which kind of feedback: ``nps``, ``csat`` or ``review``.
    """

    def rows(purchases: Purchases) -> Contributions:
        feedback = purchases.further[FEEDBACK]
        score = feedback.number("score")
        with np.errstate(invalid="ignore"):
            on_scale = (score >= question.lowest) & (score <= question.most_of_class[-1])
        kept = (feedback.text("kind").among([kind]) != NONE) & on_scale
        return score_rows(
            question,
            feedback.owner[kept].astype(np.int64),
            score[kept].astype(np.int64),
            feedback.time_ms[kept],
        )

    return PurchaseStatistic(question, rows, tables=(FEEDBACK,))


def feedback_given(question: Groups) -> PurchaseStatistic:
    """How many customers review, complain, ask for help or answer surveys."""

    def rows(purchases: Purchases) -> Contributions:
        feedback = purchases.further[FEEDBACK]
        kind = feedback.text("kind").among(question.labels)
        known = kind != NONE
        return count_rows(question, feedback.owner[known].astype(np.int64), kind[known])

    return PurchaseStatistic(question, rows, tables=(FEEDBACK,))


def kano_answers(question: Kano) -> PurchaseStatistic:
    """Pairs of answers about features, by the class that they put a feature into."""

    def rows(purchases: Purchases) -> Contributions:
        feedback = purchases.further[FEEDBACK]
        feature = feedback.text("topic").among(question.features)
        # The table has answers from 1 on.
        pair = [feedback.number(name) - 1 for name in ("functional", "dysfunctional")]
        kept = (feedback.text("kind").among(["kano"]) != NONE) & (feature != NONE)
        for answers in pair:
            with np.errstate(invalid="ignore"):
                kept &= (answers >= 0) & (answers < len(ANSWERS))
        functional, dysfunctional = (answers[kept].astype(np.int64) for answers in pair)
        owner = feedback.owner[kept].astype(np.int64)
        return kano_rows(
            question, owner, feature[kept], functional, dysfunctional, feedback.time_ms[kept]
        )

    return PurchaseStatistic(question, rows, tables=(FEEDBACK,))
