from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.data.dataset import CustomerItemMatrix
from client.training import sampling
from client.training.models.protocol import CHUNK_CUSTOMERS
from client.training.noise import NoiseSource, SeededNoise, SystemNoise
from client.training.sampling import chunks, draw_customers
from common.errors import InputError

FALSE_ALARM = 1e-7


def matrix(sizes: np.ndarray, *, n_items: int = 50) -> CustomerItemMatrix:
    """Customer u's entries have the values u, so that they can be told apart."""
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    indices = np.arange(bounds[-1]) % n_items
    values = np.repeat(np.arange(len(sizes)), sizes)
    return CustomerItemMatrix(bounds, indices.astype(np.int32), values.astype(np.float32), n_items)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    picks=st.lists(st.integers(0, 11), max_size=20),
)
def test_gathered_rows_are_those_asked_for(sizes: list[int], picks: list[int]) -> None:
    whole = matrix(np.array(sizes))
    rows = np.array([pick % len(sizes) for pick in picks], dtype=np.int64)
    part = whole.gather(rows)
    assert part.n_rows == len(rows)
    assert (part.indptr.dtype, part.indices.dtype, part.values.dtype) == ("<i8", "<i4", "<f4")
    for place, row in enumerate(rows.tolist()):
        wanted, got = whole.rows(row, row + 1), part.rows(place, place + 1)
        assert np.array_equal(wanted.indices, got.indices)
        assert np.array_equal(wanted.values, got.values)


def test_gathering_copies() -> None:
    whole = matrix(np.array([2, 3]))
    part = whole.gather(np.array([1]))
    part.values[:] = 7
    assert whole.values.max() == 1


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_cannot_be_gathered(row: int) -> None:
    with pytest.raises(InputError, match="not among the 3"):
        matrix(np.array([1, 2, 3])).gather(np.array([0, row]))


@given(
    sizes=st.lists(st.integers(0, 40), max_size=300),
    most_customers=st.integers(1, 40),
    most_entries=st.integers(1, 200),
)
def test_chunks_hold_each_sampled_customer_once_and_are_bounded(
    sizes: list[int], most_customers: int, most_entries: int
) -> None:
    whole = matrix(np.array(sizes, dtype=np.int64))
    rows = np.flatnonzero(np.arange(len(sizes)) % 3 != 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "CHUNK_CUSTOMERS", most_customers)
        patch.setattr(sampling, "MAX_CHUNK_ENTRIES", most_entries)
        parts = list(chunks(whole, rows))
    seen = [size for part in parts for size in np.diff(part.indptr).tolist()]
    assert seen == sorted(seen) == sorted(np.array(sizes, dtype=int)[rows].tolist())
    owners = np.concatenate([np.zeros(0), *(part.values for part in parts)])
    expected = np.repeat(rows, np.array(sizes, dtype=int)[rows])
    assert np.array_equal(np.sort(owners), expected)
    for part in parts:
        assert 1 <= part.n_rows <= most_customers
        assert part.n_rows == 1 or len(part.indices) <= most_entries
    # No chunk could have taken in the next one's first customer.
    for part, after in itertools.pairwise(parts):
        grown = len(part.indices) + int(after.indptr[1])
        assert part.n_rows == most_customers or grown > most_entries


def test_chunks_are_as_full_as_may_be() -> None:
    n_rows = 3 * CHUNK_CUSTOMERS + 7
    parts = list(chunks(matrix(np.full(n_rows, 3)), np.arange(n_rows)))
    assert [part.n_rows for part in parts] == [CHUNK_CUSTOMERS] * 3 + [7]


def test_nobody_drawn_makes_no_chunk() -> None:
    assert list(chunks(matrix(np.full(5, 3)), np.zeros(0, dtype=np.int64))) == []


@pytest.mark.parametrize("probability", [1e-3, 0.1, 0.5, 0.9])
def test_a_sample_is_poisson(probability: float) -> None:
    noise, n, draws = SystemNoise(), 3000, 60
    taken = np.zeros((draws, n), dtype=bool)
    for draw in range(draws):
        rows = draw_customers(n, probability, noise)
        assert (np.diff(rows) > 0).all()
        taken[draw, rows] = True
    share = stats.binom(n * draws, probability)
    assert share.ppf(FALSE_ALARM) <= taken.sum() <= share.isf(FALSE_ALARM)
    # Batch sizes vary as a binomial's do: a fixed size would not.
    spread = ((taken.sum(1) - n * probability) ** 2).sum() / (n * probability * (1 - probability))
    assert stats.chi2.ppf(1e-9, draws) <= spread <= stats.chi2.isf(1e-9, draws)


def test_draws_are_independent_across_steps_and_across_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "_CUSTOMERS_PER_DRAW", 1000)
    noise, n, probability = SystemNoise(), 5000, 0.5
    masks = np.zeros((2, n))
    for mask in masks:
        mask[draw_customers(n, probability, noise)] = 1
    blocks = masks.reshape(10, 1000)
    correlations = np.corrcoef(blocks)[np.triu_indices(10, 1)] * np.sqrt(1000)
    assert np.abs(correlations).max() < stats.norm.isf(FALSE_ALARM / 2 / 45)


def test_everybody_or_nobody() -> None:
    noise = SystemNoise()
    assert np.array_equal(draw_customers(70_000, 1.0, noise), np.arange(70_000))
    assert len(draw_customers(0, 0.5, noise)) == 0
    assert len(draw_customers(10, 1e-9, noise)) == 0
    assert draw_customers(0, 0.5, noise).dtype == np.int64


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_a_senseless_probability_is_refused(probability: float) -> None:
    with pytest.raises(InputError):
        draw_customers(10, probability, SystemNoise())


def test_a_sample_can_be_drawn_again_with_a_test_generator_only() -> None:
    def drawn(noise: NoiseSource) -> list[int]:
        return draw_customers(10_000, 0.01, noise).tolist()

    assert drawn(SeededNoise("a")) == drawn(SeededNoise("a")) != drawn(SeededNoise("b"))
    assert drawn(SystemNoise()) != drawn(SystemNoise())


def test_a_step_over_a_million_customers_takes_little_memory() -> None:
    whole = matrix(np.full(1_000_000, 2))
    noise = SystemNoise()
    whole.gather(np.arange(1))
    tracemalloc.start()
    for part in chunks(whole, draw_customers(whole.n_rows, 0.01, noise)):
        assert part.n_rows <= CHUNK_CUSTOMERS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The whole has 24 MB; one number for each of a million customers would be 8 MB.
    assert peak < 3e6
