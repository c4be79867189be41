"""One customer, one row: what of a customer's history enters a mechanism.

Every row has norm 1 (or 0, without a purchase that counts), so a customer with many purchases
weighs no more than one with few. Recent purchases count more: an entry is halved for every
`HALF_LIFE_WEEKS` between the item's last purchase and the end of the training window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from client.data.dataset import HALF_LIFE_WEEKS, MS_PER_WEEK, PreferenceDataset
from common.errors import InputError
from common.model_state import ModelState

FloatArray = npt.NDArray[np.float64]


def recency(dataset: PreferenceDataset) -> FloatArray:
    """float64[n_entries] within (0, 1]: how recent each entry's last purchase is."""
    weeks = (dataset.end_ms - dataset.last_ms) / MS_PER_WEEK
    if len(weeks) and not weeks.min() >= 0:
        raise InputError("A purchase lies after the end of the training window.")
    faded: FloatArray = np.exp2(-weeks / HALF_LIFE_WEEKS)
    return faded


def popularity_values(dataset: PreferenceDataset) -> FloatArray:
    """float64[n_entries]: the entries of the customers' unit rows over the whole catalogue.

    An entry is the square root of the number of purchases, times recency.
    """
    counts = dataset.counts.values.astype(np.float64)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError("The data set has purchase counts that are not finite or negative.")
    return _unit(np.sqrt(counts) * recency(dataset), dataset.indptr)


def factor_rows(
    dataset: PreferenceDataset, model: ModelState, *, chunk: int = 256
) -> Iterator[FloatArray]:
    """The customers' rows over the model's vocabulary, dense, at most `chunk` customers at a time.

    Yields:
        float64[n, m], rows of norm 1 or 0, as `sparse_factor_rows` has them.

    Raises:
        InputError: The model is over another catalogue.
    """
    for rows in sparse_factor_rows(dataset, model, chunk=chunk):
        yield rows.toarray()


def sparse_factor_rows(
    dataset: PreferenceDataset, model: ModelState, *, chunk: int = 1 << 16
) -> Iterator[csr_matrix]:
    """The customers' rows over the model's vocabulary, at most `chunk` customers at a time.

    An entry is the item's weight times recency, whatever the number of purchases; rows are scaled
    to norm 1. Without customers there are no chunks.

    Yields:
        Sparse float64[n, m], rows of norm 1 or 0; columns in the vocabulary's order.

    Raises:
        InputError: The model is over another catalogue.
    """
    if model.n_items != dataset.n_items:
        raise InputError(
            f"The model is over {model.n_items} items, the data set over {dataset.n_items}.",
            remedy="Use the public catalogue that the run plan names.",
        )
    column = np.full(dataset.n_items, -1, dtype=np.int64)
    column[model.vocabulary] = np.arange(len(model.vocabulary))
    # Single precision, as the sparse container has them: what a row is, is the same everywhere.
    faded = recency(dataset).astype(np.float32)
    weights = model.item_weights.astype(np.float64)
    for start in range(0, dataset.n_customers, chunk):
        bounds = dataset.indptr[start : start + chunk + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        columns = column[dataset.indices[entries]]
        known = columns >= 0
        indptr = np.concatenate([[0], np.cumsum(known)])[bounds - bounds[0]]
        values = faded[entries][known] * weights[columns[known]]
        yield csr_matrix(
            (_unit(values, indptr), columns[known], indptr),
            shape=(len(bounds) - 1, len(weights)),
        )


def _unit(values: FloatArray, indptr: npt.NDArray[np.int64]) -> FloatArray:
    """Entries by rows, scaled so that each row has norm 1; a row of zeros stays."""
    customers = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    squares = np.bincount(customers, weights=values**2, minlength=len(indptr) - 1)
    norms = np.sqrt(np.where(squares > 0, squares, 1.0))
    return values / norms[customers]
