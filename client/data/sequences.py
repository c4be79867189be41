"""What customers bought one after the other: what a sequential model learns from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix, PreferenceDataset
from common.errors import InputError


def purchase_sequences(
    dataset: PreferenceDataset, vocabulary: npt.NDArray[np.integer], *, longest: int
) -> CustomerItemMatrix:
    """Each customer's latest purchases of the vocabulary, the oldest first.

    One who bought the same item several times at the same moment, as two rows of one receipt, has
    it once there. Items bought at the same moment follow one another in the vocabulary's order,
    which is public.

    Args:
        dataset: The customers.
        vocabulary: int[m], distinct item numbers; a sequence has their positions.
        longest: How many purchases of a customer count.

    Returns:
        A row a customer; within a row items are in the order of time and may repeat, values are 1.

    Raises:
        InputError: `longest` is not positive, or the data set's purchases are not those of its
            entries.
    """
    if longest < 1:
        raise InputError(f"Sequences of at most {longest} purchases have none.")
    counts = dataset.counts.values.astype(np.int64)
    if int(counts.sum()) != len(dataset.ages_weeks):
        raise InputError("The data set's purchases are not as many as its entries count.")
    column = np.full(dataset.n_items, -1, dtype=np.int64)
    column[vocabulary] = np.arange(len(vocabulary))
    items = np.repeat(column[dataset.indices], counts)
    rows = np.repeat(np.arange(dataset.n_customers), np.diff(dataset.indptr))
    owners = np.repeat(rows, counts)
    known = items >= 0
    owners, items, ages = owners[known], items[known], dataset.ages_weeks[known]
    order = np.lexsort((items, -ages, owners))
    owners, items, ages = owners[order], items[order], ages[order]
    repeated = np.zeros(len(items), dtype=bool)
    repeated[1:] = (owners[1:] == owners[:-1]) & (items[1:] == items[:-1]) & (ages[1:] == ages[:-1])
    return _latest(
        owners[~repeated], items[~repeated], dataset.n_customers, len(vocabulary), longest
    )


def _latest(
    owners: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    n_customers: int,
    n_items: int,
    longest: int,
) -> CustomerItemMatrix:
    """The last `longest` of each owner's items; owners ascend."""
    sizes = np.bincount(owners, minlength=n_customers)
    ends = np.cumsum(sizes)
    kept = np.arange(len(items)) >= (ends - longest)[owners]
    left = items[kept].astype(np.int32)
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum(np.minimum(sizes, longest))]).astype(np.int64),
        left,
        np.ones(len(left), dtype=np.float32),
        n_items,
    )
