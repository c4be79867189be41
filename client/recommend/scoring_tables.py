"""What all customers' scores have in common, and the shared model's part of them.

Computed once for a model and a catalogue (`ScoringTables`), so that a request costs the products
with the item factors and little else. The functions here take one customer's row or many.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.recommend.cold_places import ColdPlaces
from client.recommend.histories import Histories, HistoryWindow, with_purchases
from client.training.personalisation import (
    CATEGORY_TILT,
    TILT_SMOOTHING,
    TYPE_TILT,
    bought,
    popularity_power,
)
from client.training.rows import recency
from client.training.strategies import model_scores
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from common.ranking import by_score
from common.strategies import SUMS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Of a customer who is only thought of.
_NOBODY = "0" * 64


class ScoresNotFiniteError(InputError):
    """A customer's scores are no numbers; she is shown popularity instead."""


@dataclass(frozen=True, eq=False)
class TiltTable:
    """One level of the catalogue for the tilts; see `personalisation.tilted_scores`.

    Attributes:
        of_item: int32[n_items], each item's code's place among the vocabulary's; −1 for others.
        of_vocabulary: int32[m], those of the vocabulary's items.
        overall: float64[n_used], the released share of each, adding up to 1.
        exponent: What the ratio of shares is raised to.
    """

    of_item: npt.NDArray[np.int32] = field(repr=False)
    of_vocabulary: npt.NDArray[np.int32] = field(repr=False)
    overall: FloatArray = field(repr=False)
    exponent: float

    @classmethod
    def of(cls, codes: npt.NDArray[np.int32], model: ModelState, exponent: float) -> TiltTable:
        """Prepares a level.

        Args:
            codes: int32[n_items], each item's code.
            model: The model, over the same items.
            exponent: Of the tilt.
        """
        used, of_vocabulary = np.unique(codes[model.vocabulary], return_inverse=True)
        column = np.full(int(codes.max()) + 1, -1, dtype=np.int32)
        column[used] = np.arange(len(used), dtype=np.int32)
        released = np.maximum(model.popularity[model.vocabulary].astype(np.float64), 0.0)
        overall = np.bincount(of_vocabulary, weights=released, minlength=len(used))
        overall = np.maximum(overall, 1e-6 * max(overall.sum(), 1e-300))
        return cls(column[codes], of_vocabulary.astype(np.int32), overall / overall.sum(), exponent)

    def ratios(self, rows: PreferenceDataset) -> FloatArray:
        """float64[n, n_used]: each customer's own share over the released one, of each code."""
        own = bought(rows)
        places = self.of_item[own.items]
        known = places >= 0
        cells = own.owners[known] * len(self.overall) + places[known]
        counts = np.bincount(cells, minlength=rows.n_customers * len(self.overall))
        shares = counts.reshape(rows.n_customers, -1) + TILT_SMOOTHING * self.overall
        shares /= own.sizes[:, None] + TILT_SMOOTHING
        ratios: FloatArray = shares / self.overall
        return ratios

    def tilts(self, rows: PreferenceDataset) -> FloatArray:
        """float64[n, n_used]: what a positive shared score is multiplied by, for each code."""
        tilted: FloatArray = self.ratios(rows) ** self.exponent
        return tilted


@dataclass(frozen=True, eq=False)
class ScoringTables:
    """What all customers' scores have in common. Make it with `of`; immutable.

    Attributes:
        catalogue: The region's catalogue.
        model: The published model over all items of that catalogue; those that are newer than it
            have popularity 0.
        n_released: How many items the model was made over; the others are newer.
        cold: Scores of the items outside the vocabulary.
        numbers: int64[c], the candidates that every customer has: the vocabulary, then cold items.
        column: int32[n_items], each item's place in `numbers`; −1 for others.
        factors: float64[m, d].
        weights: float64[m], of items in a customer's row.
        power: float64[n_items], what the fused score is multiplied by, regional bias included.
        popularity: float64[n_items], what lists for nobody in particular go by, likewise.
        by_popularity: int64[n_items], all items by it, the most popular first.
        category: The tilt by category.
        product_type: The tilt by the finer type.
        usual_total: About what a customer's positive shared scores add up to. Scores of one whom
            the model misses are scaled to it: her purchases weigh beside them as others' do.
        cold_places: The cold items by their places in the catalogue.
    """

    catalogue: Catalogue = field(repr=False)
    model: ModelState = field(repr=False)
    n_released: int
    cold: ColdScores = field(repr=False)
    numbers: IntArray = field(repr=False)
    column: npt.NDArray[np.int32] = field(repr=False)
    factors: FloatArray = field(repr=False)
    weights: FloatArray = field(repr=False)
    power: FloatArray = field(repr=False)
    popularity: FloatArray = field(repr=False)
    by_popularity: IntArray = field(repr=False)
    category: TiltTable = field(repr=False)
    product_type: TiltTable = field(repr=False)
    usual_total: float
    cold_places: ColdPlaces = field(repr=False)

    @classmethod
    def of(
        cls,
        model: ModelState,
        catalogue: Catalogue,
        *,
        popularity_noise_stddev: float,
        regional_bias: npt.NDArray[np.floating] | None = None,
    ) -> ScoringTables:
        """Prepares the tables of a published model.

        Args:
            model: The model.
            catalogue: The region's catalogue: the model's, or one that extends it.
            popularity_noise_stddev: Of its popularity, from the run plan.
            regional_bias: float[n_items of the model], above 0, by how much each item is bought
                more in the region than elsewhere, as released; None for none.

        Raises:
            InputError: The catalogue has fewer items than the model, or a bias is not above 0.
        """
        cold = ColdScores.of(catalogue, model, popularity_noise_stddev=popularity_noise_stddev)
        extended = cold.extended(model)
        bias = _bias(regional_bias, model.n_items, catalogue.n_items)
        column = np.full(catalogue.n_items, -1, dtype=np.int32)
        column[extended.vocabulary] = np.arange(len(extended.vocabulary), dtype=np.int32)
        missing = catalogue.n_items - model.n_items
        padded = replace(model, popularity=np.pad(model.popularity, (0, missing)))
        # As `rank_fused` has it, in single precision.
        popularity = extended.popularity.astype(np.float64) * bias
        power = popularity_power(extended, popularity_noise_stddev=popularity_noise_stddev)
        tables = cls(
            catalogue=catalogue,
            model=padded,
            n_released=model.n_items,
            cold=cold,
            numbers=extended.vocabulary,
            column=column,
            factors=np.ascontiguousarray(model.item_factors, dtype=np.float64),
            weights=model.item_weights.astype(np.float64),
            power=power * bias,
            popularity=popularity,
            by_popularity=by_score(popularity),
            category=TiltTable.of(catalogue.category, padded, CATEGORY_TILT),
            product_type=TiltTable.of(catalogue.product_type, padded, TYPE_TILT),
            usual_total=1.0,
            cold_places=ColdPlaces.of(cold, power * bias),
        )
        return replace(tables, usual_total=_usual_total(tables))

    @property
    def n_items(self) -> int:
        """The number of items of the region's catalogue."""
        return self.catalogue.n_items

    @property
    def n_vocabulary(self) -> int:
        """m, the number of items of the model's vocabulary: the first of `numbers`."""
        return len(self.weights)


def shared_row(
    tables: ScoringTables, rows: PreferenceDataset
) -> tuple[IntArray, IntArray, FloatArray]:
    """The customers' weighted unit rows over the vocabulary, as `rows.sparse_factor_rows` has them.

    Returns:
        int64[n + 1] bounds, int64[n_entries] columns and float64[n_entries] values.
    """
    columns = tables.column[rows.indices].astype(np.int64)
    known = (columns >= 0) & (columns < tables.n_vocabulary)
    bounds = np.concatenate([[0], np.cumsum(known)])[rows.indptr].astype(np.int64)
    # Single precision first, as in training.
    faded = recency(rows).astype(np.float32)[known]
    columns = columns[known]
    values = faded * tables.weights[columns]
    owners = np.repeat(np.arange(rows.n_customers), np.diff(bounds))
    squares = np.bincount(owners, weights=values**2, minlength=rows.n_customers)
    norms = np.sqrt(np.where(squares > 0, squares, 1.0))
    return bounds, columns, values / norms[owners]


def hidden_rows(tables: ScoringTables, rows: PreferenceDataset) -> FloatArray:
    """float64[n, d]: each customer's row times the item factors; scores are its products with them.

    For models of sums over customers alone (`common.strategies.SUMS`).
    """
    bounds, columns, values = shared_row(tables, rows)
    hidden = np.zeros((rows.n_customers, tables.factors.shape[1]))
    for row in range(rows.n_customers):
        entries = slice(int(bounds[row]), int(bounds[row + 1]))
        hidden[row] = values[entries] @ tables.factors[columns[entries]]
    return hidden


def shared_scores(tables: ScoringTables, rows: PreferenceDataset) -> FloatArray:
    """The shared model's scores of all candidates, tilted, cold items' in the same units.

    Args:
        tables: What all customers have in common.
        rows: n customers' histories, over the region's catalogue.

    Returns:
        float64[n, c], for `ScoringTables.numbers`; not above 0 where the model has nothing to say.

    Raises:
        ScoresNotFiniteError: A score is no number.
    """
    scores = finite_part(tables, rows)
    own = bought(rows)
    unknown: npt.NDArray[np.bool_] = np.logical_not((scores > 0).any(axis=1))
    if unknown.all():
        # What the model would make of cold items is asked of nobody here.
        cold = np.empty((len(scores), len(tables.cold.items)))
    else:
        cold = tables.cold.scores(own, scores).astype(np.float64)
        # Where all items have factors, nothing is scaled to match them.
        if len(tables.cold.items):
            scores = tables.cold.floored(own, scores)
    if unknown.any():
        # The model has nothing to say of them; the catalogue does.
        whole = tables.cold.whole(bought(_taken(rows, unknown))).astype(np.float64)
        of_vocabulary = whole[:, tables.model.vocabulary]
        scale = tables.usual_total / np.maximum(of_vocabulary.sum(axis=1), 1e-300)
        scores[unknown] = of_vocabulary * scale[:, None]
        cold[unknown] = whole[:, tables.cold.items] * scale[:, None]
    return np.concatenate([scores, cold], axis=1)


def finite_part(tables: ScoringTables, rows: PreferenceDataset) -> FloatArray:
    """float64[n, m]: the shared model's scores of the vocabulary, tilted.

    Raises:
        ScoresNotFiniteError: A score is no number.
    """
    scores = _of_model(tables, rows)
    if not np.isfinite(scores).all():
        raise ScoresNotFiniteError("The shared model's scores of a customer are not finite.")
    return scores


def _of_model(tables: ScoringTables, rows: PreferenceDataset) -> FloatArray:
    """float64[n, m]: the shared model's scores of the vocabulary, tilted; finite or not."""
    # What is no number is told of by the caller, not by a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        if tables.model.strategy in SUMS:
            scores = hidden_rows(tables, rows) @ tables.factors.T
        else:
            scores = model_scores(rows, tables.model)
        tilt = np.ones_like(scores)
        for level in (tables.category, tables.product_type):
            tilt *= level.tilts(rows)[:, level.of_vocabulary]
        tilted: FloatArray = np.where(scores > 0, scores * tilt, scores)
    return tilted


def _usual_total(tables: ScoringTables) -> float:
    """What the positive shared scores add up to of whoever bought the most popular item."""
    window = HistoryWindow(0, 1)
    popular = int(tables.model.vocabulary[np.argmax(tables.popularity[tables.model.vocabulary])])
    nobody = Histories.none(window, tables.n_items).row(_NOBODY)
    scores = _of_model(tables, with_purchases(nobody, _NOBODY, [popular]))
    total = float(np.maximum(scores, 0.0).sum())
    return total if 0 < total < np.inf else 1.0


def _bias(released: npt.NDArray[np.floating] | None, n_released: int, n_items: int) -> FloatArray:
    """float64[n_items]: the regional bias; 1 for items that are newer than the model."""
    bias = np.ones(n_items)
    if released is not None:
        # Written so that NaN fails it.
        if released.shape != (n_released,) or not ((released > 0) & (released < np.inf)).all():
            raise InputError("The regional bias is not one number above 0 for each item.")
        bias[:n_released] = released
    return bias


def _taken(rows: PreferenceDataset, which: npt.NDArray[np.bool_]) -> PreferenceDataset:
    """Some customers' purchase counts: enough for `personalisation.bought`."""
    kept = np.flatnonzero(which)
    return replace(
        rows, sids=tuple(rows.sids[row] for row in kept), counts=rows.counts.gather(kept)
    )
