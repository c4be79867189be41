"""Made-up rows are rows that our models accept, and as many as were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.steps import made_up
from client.training.models.sparse_batch import SparseBatch


@pytest.mark.parametrize("rows", [made_up.unit_rows(500, 300), made_up.confidences(500, 300)])
def test_rows_are_valid_and_have_the_purchases_that_the_page_says(rows) -> None:  # type: ignore[no-untyped-def]
    assert SparseBatch.of(rows, 300).n_rows == 500
    assert 20 < len(rows.indices) / 500 <= made_up.MEAN_PURCHASES + 1
    assert 0 < rows.values.min() <= rows.values.max() <= 1


def test_rows_of_the_autoencoder_have_norm_1() -> None:
    rows = made_up.unit_rows(50, 300)
    squares = np.add.reduceat(rows.values.astype(np.float64) ** 2, rows.indptr[:-1])
    assert np.allclose(squares, 1.0, atol=1e-6)


def test_many_customers_repeat_and_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "_DISTINCT_CUSTOMERS", 7)
    few, many = made_up.unit_rows(7, 300), made_up.unit_rows(17, 300)
    assert many.n_rows == 17
    assert SparseBatch.of(many, 300).n_rows == 17
    for number in (0, 7, 14):
        assert (many.rows(number, number + 1).indices == few.rows(0, 1).indices).all()
    last = many.rows(16, 17)
    assert (last.indices == few.rows(2, 3).indices).all()
    assert (last.values == few.rows(2, 3).values).all()


def test_sequences_are_cut_and_the_shortest_come_first() -> None:
    rows = made_up.sequences(100, 300, longest=31)
    sizes = np.diff(rows.indptr)
    assert rows.n_rows == 100
    assert sizes.max() == 31
    assert (np.diff(sizes) >= 0).all()
    assert sizes.min() >= 2


def test_sorted_by_size_they_are_the_same_rows() -> None:
    rows = made_up.unit_rows(40, 300)
    ordered = made_up.by_size(rows)
    assert (np.diff(np.diff(ordered.indptr)) >= 0).all()
    assert ordered.values.sum() == pytest.approx(rows.values.sum(), rel=1e-6)
