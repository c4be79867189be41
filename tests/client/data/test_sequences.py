from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.sequences import purchase_sequences
from common.errors import InputError
from tests.support.preference_data import Purchases, dataset_of

# Ages in weeks that single precision holds exactly.
AGES = st.integers(0, 40).map(lambda quarter: quarter / 4)
CUSTOMERS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.dictionaries(st.integers(0, 5), st.lists(AGES, min_size=1, max_size=4), max_size=6),
    max_size=4,
)


def sequence_of(purchases: Purchases, vocabulary: list[int], longest: int) -> list[int]:
    """One customer's sequence, written plainly."""
    moments = {
        (-age, vocabulary.index(item))
        for item, ages in purchases.items()
        if item in vocabulary
        for age in ages
    }
    return [place for _, place in sorted(moments)][-longest:]


@given(
    customers=CUSTOMERS,
    vocabulary=st.permutations(range(6)),
    size=st.integers(1, 6),
    longest=st.integers(1, 8),
)
def test_sequences_are_in_the_order_of_time(
    customers: dict[str, Purchases], vocabulary: list[int], size: int, longest: int
) -> None:
    kept = vocabulary[:size]
    found = purchase_sequences(dataset_of(customers, 6), np.array(kept), longest=longest)
    assert found.n_items == size
    assert found.n_rows == len(customers)
    assert (found.values == 1).all()
    for row, sid in enumerate(sorted(customers)):
        own = found.indices[found.indptr[row] : found.indptr[row + 1]].tolist()
        assert own == sequence_of(customers[sid], kept, longest)


def test_a_customer_with_a_hundred_thousand_purchases_has_the_latest_of_them() -> None:
    ages = [week / 4096 for week in range(50_000)]
    eager = dataset_of({"a": {0: ages, 1: [each + 0.25 / 4096 for each in ages]}}, 2)
    found = purchase_sequences(eager, np.array([0, 1]), longest=7)
    assert found.indices.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_what_is_no_sequence_is_refused() -> None:
    dataset = dataset_of({"a": {0: [1.0, 2.0]}}, 2)
    with pytest.raises(InputError, match="at most 0"):
        purchase_sequences(dataset, np.array([0]), longest=0)
    dataset.counts.values[0] = 3
    with pytest.raises(InputError, match="not as many"):
        purchase_sequences(dataset, np.array([0]), longest=2)
