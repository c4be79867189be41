"""One customer's scores: the fused score of `client.training.personalisation`, made for serving.

What all customers have in common is computed once (`ScoringTables`); a request costs the products
with the item factors and little else. For a customer without live events, in no particular scene,
the scores are those of `rank_fused` over the model with its cold items:

    fused(u, i) = (own(u, i) + SHARED_WEIGHT · max(shared(u, i), 0)) · power(i)

with own(u, i) the recent purchases of the item, shared(u, i) the shared model's score with the
tilts by category and type, or a cold item's score in its units, and power(i) the popularity with
its floor to a small power. A live event adds a share of the customer's best score to some items
before the power is applied; a scene multiplies by a released factor of the item's category, and the
regional bias, released too, by one of the item.

Formal guarantees:
    Of customers' data only this customer's own enter, beside released values: the scores stay with
    her (joint differential privacy, Kearns et al., 2014), so they cost no ε. No other customer's
    row is reachable from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.cold_places import ColdLifts
from client.recommend.live_rules import NO_EFFECT, LiveEffect
from client.recommend.scoring_tables import (
    ScoresNotFiniteError,
    ScoringTables,
    TiltTable,
    finite_part,
    hidden_rows,
    shared_row,
    shared_scores,
)
from client.recommend.settings import Method
from client.training.personalisation import SHARED_WEIGHT, bought

__all__ = [
    "Scored",
    "ScoresNotFiniteError",
    "ScoringTables",
    "TiltTable",
    "hidden_rows",
    "score_customer",
    "shared_row",
    "shared_scores",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scored:
    """One customer's candidates.

    Attributes:
        items: int64[e], distinct numbers.
        scores: float64[e], what they are ranked by; at 0, popularity decides.
        own: float64[e], what the customer's recent purchases gave, before the power.
        shared: float64[e], what the shared model gave, likewise.
        live: float64[e], what live events gave, likewise.
        factor: float64[e], what all of these were multiplied by.
    """

    items: IntArray = field(repr=False)
    scores: FloatArray = field(repr=False)
    own: FloatArray = field(repr=False)
    shared: FloatArray = field(repr=False)
    live: FloatArray = field(repr=False)
    factor: FloatArray = field(repr=False)


def score_customer(
    tables: ScoringTables,
    row: PreferenceDataset,
    *,
    method: Method = "fused",
    effect: LiveEffect = NO_EFFECT,
    scene: npt.NDArray[np.floating] | None = None,
    most: int | None = None,
) -> Scored:
    """One customer's scores.

    Args:
        tables: What all customers have in common.
        row: Her history, one row or none; purchases of this moment among them.
        method: ``history`` leaves the shared model out.
        effect: What her live events do.
        scene: float[n_categories], by what a scene raises each category, as released; None for no
            scene.
        most: Only so many of the highest scores are asked for: cold items that cannot be among
            them may be left out. None for all.

    Raises:
        ScoresNotFiniteError: A score is no number.
    """
    own_items = row.indices.astype(np.int64)
    if method == "history" or not row.n_customers:
        common, others = tables.numbers[:0], np.union1d(own_items, effect.items)
        shared = np.zeros(len(others))
    else:
        common, others, shared = _shared(tables, row, effect, scene, most)
    items = np.concatenate([common, others])
    own, live = np.zeros(len(items)), np.zeros(len(items))
    places = _places(tables, common, others, own_items)
    own[places] = row.history().values
    live[_places(tables, common, others, effect.items)] = effect.boosts
    if effect.usual and len(own_items):
        live = np.maximum(live, effect.usual * own / max(float(own.max()), 1e-300))
    # Of the vocabulary and her own items: not all cold ones may be here.
    best = max(
        float(shared[: min(len(common), tables.n_vocabulary)].max(initial=0.0)),
        float((own + shared)[places].max(initial=0.0)),
    )
    live *= best if best > 0 else 1.0
    factor = tables.power[items]
    if scene is not None:
        factor = factor * scene[tables.catalogue.category[items]]
    scores = (own + shared + live) * factor
    if not np.isfinite(scores).all():
        raise ScoresNotFiniteError("The scores of a customer are not finite.")
    return Scored(items, scores, own, shared, live, factor)


def _shared(
    tables: ScoringTables,
    row: PreferenceDataset,
    effect: LiveEffect,
    scene: npt.NDArray[np.floating] | None,
    most: int | None,
) -> tuple[IntArray, IntArray, FloatArray]:
    """The candidates that all customers have, this one's others, and what the model gives each.

    Returns:
        int64[c], the first of `ScoringTables.numbers`; int64[o], ascending; float64[c + o].
    """
    hers = np.concatenate([row.indices.astype(np.int64), effect.items])
    beyond = hers[tables.column[hers] < 0]
    if most is not None:
        of_model = finite_part(tables, row)[0]
        # Of whom the model has nothing to say, all cold items are scored in another way.
        if (of_model > 0).any():
            parts = ColdLifts.of(tables.cold_places, bought(row), of_model)
            of_model = parts.floored(of_model)
            hers = hers[tables.column[hers] >= tables.n_vocabulary]
            cold = np.union1d(hers, parts.leading(most, scene))
            others = np.union1d(cold, beyond)
            of_others = np.zeros(len(others))
            of_others[np.searchsorted(others, cold)] = parts.scores(cold)
            of_all = np.concatenate([of_model, of_others])
            return tables.model.vocabulary, others, np.maximum(of_all, 0.0) * SHARED_WEIGHT
    others = np.unique(beyond)
    of_all = np.concatenate([shared_scores(tables, row)[0], np.zeros(len(others))])
    return tables.numbers, others, np.maximum(of_all, 0.0) * SHARED_WEIGHT


def _places(tables: ScoringTables, common: IntArray, others: IntArray, items: IntArray) -> IntArray:
    """Where items are among the candidates: of every customer, then this one's others."""
    places = tables.column[items].astype(np.int64)
    beyond = len(common) + np.searchsorted(others, items)
    return np.where((places >= 0) & (places < len(common)), places, beyond)
