"""One customer, one row: what of a customer's history enters a mechanism.

Every row has norm 1 (or 0, without a purchase that counts), so a customer with many purchases
weighs no more than one with few. Recent purchases count more: an entry is halved for every
`HALF_LIFE_WEEKS` between the item's last purchase and the end of the training window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from client.data.dataset import HALF_LIFE_WEEKS, MS_PER_WEEK, CustomerItemMatrix, PreferenceDataset
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
    """The customers' rows over the model's vocabulary, in chunks of at most `chunk` customers.

    An entry is the item's weight times recency, whatever the number of purchases; rows are scaled
    to norm 1. Without customers there are no chunks.

    Yields:
        float64[n, m], rows of norm 1 or 0.

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
    faded = CustomerItemMatrix(
        dataset.indptr, dataset.indices, recency(dataset).astype(np.float32), dataset.n_items
    )
    weights = model.item_weights.astype(np.float64)
    for start in range(0, dataset.n_customers, chunk):
        part = faded.rows(start, min(start + chunk, dataset.n_customers))
        yield _dense_unit_rows(part, column, weights)


def _dense_unit_rows(
    part: CustomerItemMatrix, column: npt.NDArray[np.int64], weights: FloatArray
) -> FloatArray:
    rows = np.zeros((part.n_rows, len(weights)))
    columns = column[part.indices]
    known = columns >= 0
    customers = np.repeat(np.arange(part.n_rows), np.diff(part.indptr))
    rows[customers[known], columns[known]] = part.values[known]
    rows *= weights
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def _unit(values: FloatArray, indptr: npt.NDArray[np.int64]) -> FloatArray:
    """Entries by rows, scaled so that each row has norm 1; a row of zeros stays."""
    customers = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    squares = np.bincount(customers, weights=values**2, minlength=len(indptr) - 1)
    norms = np.sqrt(np.where(squares > 0, squares, 1.0))
    return values / norms[customers]
