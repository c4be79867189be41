"""The recommender's benchmark at sizes that take seconds: it measures, never what it measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import batch_scoring, recommend, serving
from client.recommend.topk import top_k
from client.recommend.topk_tables import Customers, ItemTable


def test_lists_are_held_beside_implicits() -> None:
    given = batch_scoring.contest(600, 8, 300)
    figures = batch_scoring.hold(given, turns=1)
    assert set(figures) == set(batch_scoring.BARS)
    assert all(figure.value > 0 for figure in figures.values())
    assert "of the places are the same" in str(figures[batch_scoring.LISTS].baseline)


def test_lists_that_are_not_the_same_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch_scoring.contest(600, 8, 300)

    def reversed_lists(items: ItemTable, customers: Customers, k: int) -> object:
        found = top_k(items, customers, k)
        return type(found)(found.numbers[:, ::-1], found.scores)

    monkeypatch.setattr(batch_scoring, "top_k", reversed_lists)
    with pytest.raises(RuntimeError, match="of the places have the same items"):
        batch_scoring.hold(given, turns=1)


def test_both_are_given_the_same_purchases() -> None:
    given = batch_scoring.contest(400, 4, 50)
    assert np.array_equal(given.bought.indices, given.histories.indices)
    assert given.histories.ages_weeks.max() < 53


@pytest.mark.slow
def test_a_service_is_loaded_and_a_batch_made(tmp_path: Path) -> None:
    figures = serving.measure_region(tmp_path / "home", 60, 2_500, seconds=0.5, trials=3)
    assert set(figures) == set(serving.BARS)
    assert figures[serving.LIVE].value == 1.0
    assert 0 < figures[serving.TIME].value < float("inf")
    assert figures[serving.MEMORY].value > 50
    assert "0 refused or lost" in str(figures[serving.TIME].baseline)


@pytest.mark.slow
def test_rounds_are_played_from_stores_to_the_next_model(tmp_path: Path) -> None:
    figures = recommend.measure_rounds(tmp_path / "federation", 300, 5_000, 3)
    assert set(figures) == {
        recommend.ROUND,
        recommend.MEMORY,
        recommend.WIDE_ROUND,
        recommend.WIDE_MEMORY,
    }
    assert all(figure.value > 0 for figure in figures.values())
    assert "m = 5,000, d =" in str(figures[recommend.WIDE_ROUND].baseline)
    assert (tmp_path / "federation" / "model.npz").is_file()
    assert not list((tmp_path / "federation").glob("release-*.npz"))


def test_a_service_that_does_not_open_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not open"), serving._served(tmp_path / "none"):
        pass


def test_every_bar_of_the_issue_has_a_row() -> None:
    names = " ".join(bar.name for bar in recommend.BARS)
    for what in ("implicit", "20,000 items", "p99", "200 requests/s", "live events", "DP round"):
        assert what in names
    for what in ("1,000,000 customers × 100,000 items × 5 regions", "memory"):
        assert what in names
    assert len({bar.name for bar in recommend.BARS}) == len(recommend.BARS)
