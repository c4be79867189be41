"""How well an attacker tells from the released model who trained it: membership inference.

The attacker has a score for each customer, higher for whom the model fits better, and calls those
above a threshold members. What counts is the true-positive rate where false positives are rare, not
the average case (Carlini et al., "Membership Inference Attacks From First Principles", 2022).

A measurement of one attack bounds the risk from below; ε bounds it from above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FALSE_POSITIVE_RATES = (0.001, 0.01)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class RocPoint:
    """What an attack finds at one rate of false positives.

    Attributes:
        false_positive_rate: Share of non-members that may be taken for members.
        true_positive_rate: Share of the members found at the threshold which that allows.
        low: Lower end of its exact 95% interval (Clopper and Pearson, 1934).
        high: The upper end.
    """

    false_positive_rate: float
    true_positive_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class MembershipRisk:
    """How well one attack works.

    Attributes:
        n_members: How many members were scored.
        n_non_members: How many others.
        auc: The probability that a member scores above a non-member; ½ is guessing.
        auc_low: Lower end of its 95% interval (DeLong, DeLong and Clarke-Pearson, 1988).
        auc_high: The upper end.
        points: The true-positive rates at `FALSE_POSITIVE_RATES`.
    """

    n_members: int
    n_non_members: int
    auc: float
    auc_low: float
    auc_high: float
    points: tuple[RocPoint, ...]

    def breaks(self, epsilon: float, delta: float) -> bool:
        """Whether even the lower ends of the intervals are beyond what ε allows."""
        return self.auc_low > highest_auc(epsilon, delta) or any(
            point.low > highest_true_positive_rate(epsilon, delta, point.false_positive_rate)
            for point in self.points
        )


def membership_risk(
    members: FloatArray,
    non_members: FloatArray,
    *,
    false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
) -> MembershipRisk:
    """What an attacker with these scores achieves.

    Args:
        members: float64[n], scores of customers who trained the model; higher is more of a member.
        non_members: float64[k], scores of customers like them who did not.
        false_positive_rates: Each within 0 and 1.

    Edge cases:
        Equal scores are no evidence: half of them count for the AUC, none for a rate. With fewer
        than 1 / rate non-members the threshold is the highest of their scores.

    Raises:
        InputError: There are fewer than two of either, or a score is not a number.
    """
    if min(len(members), len(non_members)) < 2:
        raise InputError("Membership inference is measured on two members and two others at least.")
    if np.isnan(members).any() or np.isnan(non_members).any():
        raise InputError("A score of membership inference is not a number.")
    auc, spread = _auc(members, non_members)
    width = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * spread
    return MembershipRisk(
        len(members),
        len(non_members),
        auc,
        max(0.0, auc - width),
        min(1.0, auc + width),
        tuple(_point(members, non_members, rate) for rate in false_positive_rates),
    )


def highest_true_positive_rate(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """The most that any attack achieves on an (ε, δ)-DP release at a rate of false positives.

    Kairouz, Oh and Viswanath, "The Composition Theorem for Differential Privacy" (2015).
    """
    growth = math.exp(min(epsilon, 700.0))
    return min(
        1.0,
        growth * false_positive_rate + delta,
        1.0 - (1.0 - delta - false_positive_rate) / growth,
    )


def highest_auc(epsilon: float, delta: float) -> float:
    """The largest AUC that any attack achieves on an (ε, δ)-DP release."""
    # Both straight parts of the boundary meet where the two error rates are equal.
    corner = (1.0 - delta) / (1.0 + math.exp(min(epsilon, 700.0)))
    false = np.array([0.0, corner, 1.0 - delta, 1.0])
    true = np.array([delta, 1.0 - corner, 1.0, 1.0])
    return float(np.trapezoid(true, false))


def calibrated(scores: FloatArray, reference_scores: FloatArray) -> FloatArray:
    """Scores less those by a model that none of these customers trained.

    Who is easy to fit for any model is no member for that (Watson et al., "On the Importance of
    Difficulty Calibration in Membership Inference Attacks", 2022).

    Args:
        scores: float64[n] by the model under attack.
        reference_scores: float64[n] of the same customers by the reference.
    """
    return scores - reference_scores


def likelihood_ratios(
    scores: FloatArray, shadow_scores: FloatArray, shadow_members: BoolArray
) -> FloatArray:
    """The scores of LiRA (Carlini et al., 2022): how much likelier a customer is to be a member.

    Each customer's score is compared with what it was under shadow models with and without her, as
    normal values of her own two means and of the two variances of all.

    Args:
        scores: float64[n] by the model under attack.
        shadow_scores: float64[shadows, n] by models trained as it was.
        shadow_members: bool[shadows, n]: whom each of them was trained on.

    Returns:
        float64[n], log-likelihood ratios.

    Raises:
        InputError: A customer is a member of no shadow model, or of all.
    """
    share = shadow_members.mean(axis=0)
    if not ((share > 0) & (share < 1)).all():
        raise InputError("A customer is in no shadow model's training, or in that of all.")
    terms = []
    for inside in (shadow_members, ~shadow_members):
        mean = np.where(inside, shadow_scores, 0.0).sum(axis=0) / inside.sum(axis=0)
        apart = np.where(inside, shadow_scores - mean, 0.0)
        spread = math.sqrt(float((apart**2).sum()) / max(1, int(inside.sum()) - inside.shape[1]))
        terms.append(stats.norm.logpdf(scores, mean, max(spread, 1e-12)))
    ratios: FloatArray = terms[0] - terms[1]
    return ratios


def _auc(members: FloatArray, non_members: FloatArray) -> tuple[float, float]:
    """The AUC and its standard error, by DeLong's placements."""
    above = _placements(members, non_members)
    below = _placements(non_members, members)
    variance = above.var(ddof=1) / len(members) + below.var(ddof=1) / len(non_members)
    return float(above.mean()), math.sqrt(float(variance))


def _placements(of: FloatArray, among: FloatArray) -> FloatArray:
    """The share of `among` that each is above of; half of those it equals."""
    ordered = np.sort(among)
    left = np.searchsorted(ordered, of, side="left")
    right = np.searchsorted(ordered, of, side="right")
    shares: FloatArray = (left + right) / (2.0 * len(among))
    return shares


def _point(members: FloatArray, non_members: FloatArray, rate: float) -> RocPoint:
    allowed = min(int(rate * len(non_members)), len(non_members) - 1)
    threshold = np.sort(non_members)[len(non_members) - 1 - allowed]
    found, n = int((members > threshold).sum()), len(members)
    alarm = 1 - CONFIDENCE
    low = float(stats.beta.ppf(alarm / 2, found, n - found + 1)) if found else 0.0
    high = float(stats.beta.isf(alarm / 2, found + 1, n - found)) if found < n else 1.0
    return RocPoint(rate, found / n, low, high)
