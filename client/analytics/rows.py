"""Rows of customers, made of facts: for every kind of question, none longer than 1.

A fact is whose it is (a position among the customers who are asked of) and what it says. Whatever
facts there are of one customer, a million or contradictory ones, make one bounded row.

Formal guarantees, of every function here:
    A customer's row depends on her own facts alone, and has an L2 norm of at most 1, but for
    rounding; so the clipping norm of 1 that queries have (`client.engine.query_desk`) cuts nothing,
    and an answer is unbiased for the sum of the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.training.bounded_sums import Contributions
from common.analytics.clusters import Clusters
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import CLASSES, Kano
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.errors import InputError

LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# A moment before every other, and one after.
_NEVER, _BEFORE_ALL = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def count_rows(question: Groups, owner: LongArray, group: LongArray) -> Contributions:
    """Each customer in the groups that most of her facts are in, in at most `most` of them.

    Args:
        question: Made by `Groups.counts`.
        owner: int64[n], whose each fact is.
        group: int64[n], its group.

    Raises:
        InputError: The question is one of sums, or a group is none of its.
    """
    if question.most is None:
        raise InputError(f"{question.name} asks for sums of amounts, not for counts.")
    owner, group = largest_groups(owner, group, question.size, question.most)
    return Contributions(owner, group, np.full(len(owner), 1.0 / question.bound))


def sum_rows(
    question: Groups, owner: LongArray, group: LongArray, amount: FloatArray
) -> Contributions:
    """Each customer's amounts by group, scaled down as a whole to the question's bound.

    Args:
        question: What is asked.
        owner: int64[n], whose each fact is.
        group: int64[n], its group.
        amount: float64[n], what it comes to.

    Raises:
        InputError: A group is none of the question's, or an amount is not finite.
    """
    if not np.isfinite(amount).all():
        raise InputError(
            f"{question.name}: an amount is not finite; nothing is released.",
            remedy="Let the quality gate leave such rows out.",
        )
    key, owner, group = _keys(owner, group, question.size)
    total = np.bincount(key, weights=amount / question.bound, minlength=len(owner))
    # Squares of what a float can hold may overflow: scaled by each customer's largest first.
    place = np.searchsorted(np.unique(owner), owner)
    largest = np.zeros(int(place.max(initial=-1)) + 1)
    np.maximum.at(largest, place, np.abs(total))
    scale = np.where(largest > 0, largest, 1.0)
    norm = scale * np.sqrt(np.bincount(place, weights=(total / scale[place]) ** 2))
    return Contributions(owner, group, total / np.maximum(norm, 1.0)[place])


def share_rows(question: Shares, owner: LongArray, cell: LongArray) -> Contributions:
    """The share of each customer's facts in each cell; they add up to 1.

    Args:
        question: What is asked.
        owner: int64[n], whose each fact is.
        cell: int64[n], its cell, the table flattened in C order.

    Raises:
        InputError: A cell is none of the question's.
    """
    key, owner, cell = _keys(owner, cell, question.size)
    count = np.bincount(key, minlength=len(owner)).astype(np.float64)
    place = np.searchsorted(np.unique(owner), owner)
    return Contributions(owner, cell, count / np.bincount(place, weights=count)[place])


def cut_rows(question: Cuts, owner: LongArray, number: FloatArray) -> Contributions:
    """Each customer in the cell of her number, and in the sums that the cell is in.

    Args:
        question: What is asked.
        owner: int64[n], distinct.
        number: float64[n], each customer's one number.

    Raises:
        InputError: A customer has two numbers, or a number is none.
    """
    _require_once(question.name, owner)
    if np.isnan(number).any():
        raise InputError(f"{question.name}: a number is none; nothing is released.")
    places = question.tree.places()[:, question.cell(number)]
    value = np.full(places.size, question.tree.scale)
    return Contributions(np.tile(owner, len(places)), places.ravel(), value)


def funnel_rows(
    question: Funnel, owner: LongArray, stage: LongArray, time_ms: LongArray
) -> Contributions:
    """Each customer at the last stage she reached: each stage after the one before it.

    Args:
        question: What is asked.
        owner: int64[n], whose each fact is.
        stage: int64[n], the stage it is of.
        time_ms: int64[n], when; at the same moment counts as after.

    Raises:
        InputError: A stage is none of the question's.
    """
    _require_within(stage, question.size)
    names, whose = np.unique(owner, return_inverse=True)
    reached_ms = np.full(len(names), _BEFORE_ALL)
    last = np.full(len(names), -1, dtype=np.int64)
    for number in range(question.size):
        counts = (stage == number) & (time_ms >= reached_ms[whose])
        first_ms = np.full(len(names), _NEVER)
        np.minimum.at(first_ms, whose[counts], time_ms[counts])
        # Nothing is after never: who missed a stage reaches none behind it.
        reached_ms = np.where(first_ms == _NEVER, _NEVER, first_ms)
        last[first_ms != _NEVER] = number
    inside = last >= 0
    return Contributions(names[inside], last[inside], np.ones(int(inside.sum())))


def trend_rows(
    question: Trend, owner: LongArray, group: LongArray, later: BoolArray
) -> Contributions:
    """Each customer in the groups of her facts, in the earlier and in the later period.

    Args:
        question: What is asked.
        owner: int64[n], whose each fact is.
        group: int64[n], its group.
        later: bool[n], whether it is of the later period.

    Raises:
        InputError: A group is none of the question's.
    """
    groups = len(question.labels)
    found = [
        largest_groups(owner[period], group[period], groups, question.most)
        for period in (~later, later)
    ]
    place = np.concatenate([part[1] + n * groups for n, part in enumerate(found)])
    whose = np.concatenate([part[0] for part in found])
    return Contributions(whose, place, np.full(len(whose), 1.0 / question.bound))


def score_rows(
    question: Score, owner: LongArray, answer: LongArray, time_ms: LongArray
) -> Contributions:
    """Each customer in the class of her newest answer; of two of one moment, of the lower.

    Args:
        question: What is asked.
        owner: int64[n], whose each answer is.
        answer: int64[n], the answers.
        time_ms: int64[n], when they were given.

    Raises:
        InputError: An answer is off the scale.
    """
    order = np.lexsort((-answer, time_ms, owner))
    whose, classes = owner[order], question.class_of(answer[order])
    newest = np.append(whose[1:] != whose[:-1], True)[: len(whose)]
    return Contributions(whose[newest], classes[newest], np.ones(int(newest.sum())))


def kano_rows(
    question: Kano,
    owner: LongArray,
    feature: LongArray,
    functional: LongArray,
    dysfunctional: LongArray,
    time_ms: LongArray,
) -> Contributions:
    """Each customer in the classes of her newest pairs: one for a feature, at most `most` features.

    Of two pairs of one moment about a feature, that of the later class in `CLASSES` counts; of two
    features of one moment, the earlier one.

    Args:
        question: What is asked.
        owner: int64[n], whose each pair is.
        feature: int64[n], the feature it is about.
        functional: int64[n], how she would feel with it, a place in `kano.ANSWERS`.
        dysfunctional: int64[n], likewise, without it.
        time_ms: int64[n], when she answered.

    Raises:
        InputError: A feature is none of the question's, or an answer none at all.
    """
    _require_within(feature, len(question.features))
    classes = question.class_of(functional, dysfunctional)
    order = np.lexsort((classes, time_ms, feature, owner))
    whose, what = owner[order], feature[order]
    newest = np.append((whose[1:] != whose[:-1]) | (what[1:] != what[:-1]), True)[: len(whose)]
    order = order[newest]
    order = order[np.lexsort((feature[order], -time_ms[order], owner[order]))]
    whose = owner[order]
    kept = order[np.arange(len(whose)) - np.searchsorted(whose, whose, side="left") < question.most]
    place = feature[kept] * len(CLASSES) + classes[kept]
    return Contributions(owner[kept], place, np.full(len(kept), 1.0 / question.bound))


def uplift_rows(
    question: Uplift, owner: LongArray, treated: BoolArray, did: BoolArray
) -> Contributions:
    """Each customer in the cell of her arm and outcome.

    Args:
        question: What is asked.
        owner: int64[n], distinct: the customers of the experiment.
        treated: bool[n], their arms.
        did: bool[n], their outcomes.

    Raises:
        InputError: A customer is in it twice, so perhaps in both arms.
    """
    _require_once(question.name, owner)
    cell = 2 * treated.astype(np.int64) + did.astype(np.int64)
    return Contributions(owner, cell, np.ones(len(owner)))


def cluster_rows(question: Clusters, owner: LongArray, points: FloatArray) -> Contributions:
    """Each customer at the centre that is nearest to her point.

    Args:
        question: What is asked.
        owner: int64[n], distinct.
        points: float64[n, dimensions]; coordinates beyond −1 and 1 are limited to those.

    Raises:
        InputError: A customer has two points, or a coordinate is none.
    """
    _require_once(question.name, owner)
    dimensions = question.centres.shape[1]
    if points.shape != (len(owner), dimensions) or np.isnan(points).any():
        raise InputError(f"{question.name}: points are no {dimensions} numbers each.")
    inside, (count, coordinate) = np.clip(points, -1.0, 1.0), question.scales
    first = question.nearest(inside) * (1 + dimensions)
    place = first[:, None] + np.arange(1 + dimensions)[None, :]
    value = np.column_stack([np.full(len(owner), count), inside * coordinate])
    return Contributions(np.repeat(owner, 1 + dimensions), place.ravel(), value.ravel())


def largest_groups(
    owner: LongArray, group: LongArray, n_groups: int, most: int
) -> tuple[LongArray, LongArray]:
    """The groups that most of each customer's facts are in; ties go to the earlier group.

    Args:
        owner: int64[n], whose each fact is.
        group: int64[n], its group.
        n_groups: How many groups there are.
        most: How many groups of a customer are kept.

    Returns:
        Owners and their distinct groups.

    Raises:
        InputError: A group is none.
    """
    key, owner, group = _keys(owner, group, n_groups)
    count = np.bincount(key, minlength=len(owner))
    order = np.lexsort((group, -count, owner))
    owner, group = owner[order], group[order]
    kept = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left") < most
    return owner[kept], group[kept]


def _keys(
    owner: LongArray, group: LongArray, n_groups: int
) -> tuple[LongArray, LongArray, LongArray]:
    """Each fact's number among the distinct pairs of owner and group, and these, ascending."""
    _require_within(group, n_groups)
    pairs, key = np.unique(owner * n_groups + group, return_inverse=True)
    return key.astype(np.int64), pairs // n_groups, pairs % n_groups


def _require_within(number: LongArray, most: int) -> None:
    if len(number) and not 0 <= int(number.min()) <= int(number.max()) < most:
        raise InputError(
            "A fact is of a group that there is not.",
            remedy="Name all groups in the question, one for the others among them.",
        )


def _require_once(name: str, owner: LongArray) -> None:
    if len(np.unique(owner)) != len(owner):
        raise InputError(f"{name}: a customer is in it twice; nothing is released.")
