"""What one customer's score is made of, for thousands of customers at a time and sparsely.

`client.recommend.scoring` and `client.recommend.cold` say what scores are; here the same numbers
come out up to the order of sums, without a table of customers × groups for each level of the
catalogue: a customer's tilt towards a group that she bought nothing of is one number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from client.data.dataset import PreferenceDataset
from client.recommend.cold import COLD_WEIGHT, SMOOTHING, ColdScores, Level
from client.recommend.scoring import ScoringTables, TiltTable, shared_row
from client.recommend.topk_tables import Tilt
from client.training.personalisation import TILT_SMOOTHING
from common.ranking import ItemSets

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def hidden_rows(tables: ScoringTables, rows: PreferenceDataset) -> FloatArray:
    """float64[n, d]: as `scoring.hidden_rows`, all customers in one product."""
    bounds, columns, values = shared_row(tables, rows)
    shape = (rows.n_customers, tables.n_vocabulary)
    hidden: FloatArray = csr_matrix((values, columns, bounds), shape=shape) @ tables.factors
    return hidden


def tilt_of(level: TiltTable, own: ItemSets) -> Tilt:
    """As `scoring.TiltTable.tilts`."""
    smoothed = own.sizes.astype(np.float64) + TILT_SMOOTHING
    places = level.of_item[own.items]
    return _tilt(own, places, level.overall, smoothed, TILT_SMOOTHING, exponent=level.exponent)


def lift_of(level: Level, own: ItemSets) -> Tilt:
    """As `cold.Level.lifts`."""
    smoothed = own.sizes.astype(np.float64) + SMOOTHING
    return _tilt(
        own, level.codes[own.items], level.shares, smoothed, SMOOTHING, exponent=level.exponent
    )


def _tilt(
    own: ItemSets,
    codes: npt.NDArray[np.int32],
    overall: FloatArray,
    smoothed: FloatArray,
    smoothing: float,
    *,
    exponent: float,
) -> Tilt:
    """(own share / global share) ** exponent; codes below 0 are of no group."""
    n_codes = len(overall)
    known = codes >= 0
    cells, counts = np.unique(
        own.owners[known] * n_codes + codes[known].astype(np.int64), return_counts=True
    )
    owners, named = cells // n_codes, cells % n_codes
    shares = (counts + smoothing * overall[named]) / smoothed[owners]
    sizes = np.bincount(owners, minlength=own.n_customers)
    return Tilt(
        (smoothing / smoothed) ** exponent,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        named.astype(np.int32),
        (shares / overall[named]) ** exponent,
        n_codes,
    )


@dataclass(frozen=True, eq=False)
class ColdParts:
    """Cold items' scores of n customers: base × scale × the tilts towards an item's groups.

    Attributes:
        scale: float64[n], what makes them comparable with the customer's shared scores.
        warm: float32[n, m], the scores of the vocabulary's items, weighed as the cold ones' are.
        tilts: By category, where the shared model's part is in it, by product type and by brand.
    """

    scale: FloatArray = field(repr=False)
    warm: npt.NDArray[np.float32] = field(repr=False)
    tilts: tuple[Tilt, ...] = field(repr=False)

    @classmethod
    def of(cls, cold: ColdScores, own: ItemSets, positive: FloatArray) -> ColdParts:
        """Computes the parts.

        Args:
            cold: The model's cold items.
            own: What each of n customers bought.
            positive: float64[n, m], her tilted shared scores of the vocabulary, at least 0.
        """
        category, *finer = (lift_of(level, own) for level in cold.levels)
        both = category.table() * cold.shared_groups.lifts(positive)
        n, n_groups = both.shape
        dense = Tilt(
            np.zeros(n),
            np.arange(n + 1, dtype=np.int64) * n_groups,
            np.tile(np.arange(n_groups, dtype=np.int32), n),
            both.reshape(-1),
            n_groups,
        )
        vocabulary = cold.vocabulary
        warm = both[:, cold.levels[0].codes[vocabulary]] * cold.base[vocabulary]
        for level, tilt in zip(cold.levels[1:], finer, strict=True):
            warm *= tilt.table()[:, level.codes[vocabulary]]
        known, formula = positive.sum(axis=1), warm.sum(axis=1)
        scale = np.where((known > 0) & (formula > 0), known / np.maximum(formula, 1e-300), 1.0)
        weighed = COLD_WEIGHT * scale
        return cls(weighed, (warm * weighed[:, None]).astype(np.float32), (dense, *finer))

    def scores(self, cold: ColdScores, owners: IntArray, items: IntArray) -> FloatArray:
        """The scores of pairs of a customer and an item."""
        found = cold.base[items] * self.scale[owners]
        for level, tilt in zip(cold.levels, self.tilts, strict=True):
            found = found * tilt.at(owners, level.codes[items])
        return found


def row_range(rows: PreferenceDataset, start: int, stop: int) -> PreferenceDataset:
    """The customers from `start` up to `stop`, as a data set; views, not copies."""
    first, last = int(rows.indptr[start]), int(rows.indptr[stop])
    before, here = (
        int(rows.counts.values[part].sum(dtype=np.float64))
        for part in (slice(0, first), slice(first, last))
    )
    return PreferenceDataset(
        sids=rows.sids[start:stop],
        counts=rows.rows(start, stop),
        last_ms=rows.last_ms[first:last],
        ages_weeks=rows.ages_weeks[before : before + here],
        start_ms=rows.start_ms,
        end_ms=rows.end_ms,
    )
