from __future__ import annotations

import numpy as np
import pytest

from client.training.evaluation import Protocol, RankingQuality
from common.errors import InputError
from simulations.quality_table import SERVED, Bootstrap, Cell, Table, summarise

GENERATOR = np.random.default_rng(0)
N = 400
LABELS = {"popularity": "Popularity", "better": "Better", "same": "Same"}


def quality(values: np.ndarray, coverage: float = 0.1) -> RankingQuality:
    return RankingQuality(
        {"ndcg@10": values, "recall@20": values / 2, "hit_rate@10": np.ceil(values)}, coverage
    )


def table_of(base: np.ndarray, gains: list[float]) -> Table:
    table = Table()
    for gain in gains:
        noise = GENERATOR.normal(0, 0.01, len(base))
        table.add(Cell("s", "better", Protocol.NEW, "u"), quality(base * gain + noise, gain))
    table.add(Cell("s", "popularity", Protocol.NEW, "u"), quality(base))
    table.add(Cell("s", "same", Protocol.NEW, "u"), quality(base.copy()))
    return table


def test_rows_have_means_intervals_and_paired_ratios() -> None:
    base = GENERATOR.uniform(0.0, 0.5, N)
    base[:50] = np.nan
    rows = summarise(table_of(base, [1.1, 1.2, 1.3]), LABELS, n_seeds=3)
    found = {row["method"]: row for row in rows if row["metric"] == "ndcg@10"}
    better, popular, same = found["better"], found["popularity"], found["same"]
    mean = float(np.nanmean(base))
    assert popular["mean"] == pytest.approx(mean)
    assert popular["customers"] == N - 50
    assert popular["ci_low"] < mean < popular["ci_high"]
    half = 1.96 * float(np.nanstd(base)) / np.sqrt(N - 50)
    assert popular["ci_high"] - mean == pytest.approx(half, rel=0.2)
    assert popular["per_seed"] == [pytest.approx(mean)]
    ratios = [value / mean for value in better["per_seed"]]
    assert ratios == pytest.approx([1.1, 1.2, 1.3], abs=0.01)
    relative = better["ratio_to_popularity"]
    assert relative["mean"] == pytest.approx(1.2, abs=0.01)
    # Seeds are resampled too: with three that differ so much, the interval spans most of them.
    assert relative["ci_low"] < 1.17
    assert relative["ci_high"] > 1.23
    # Paired: an equal method has no interval, whatever its customers' spread.
    assert same["ratio_to_popularity"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    assert better["ratio_to_personal_recency"] is None
    coverage = [row for row in rows if row["metric"] == "coverage@10"]
    assert coverage[0]["mean"] == pytest.approx(1.2)
    assert coverage[0]["per_seed"] == [1.1, 1.2, 1.3]


def test_what_is_served_is_a_reference_of_its_protocol() -> None:
    base = GENERATOR.uniform(0.1, 0.5, N)
    table = Table()
    for protocol, served in SERVED.items():
        table.add(Cell("s", served, protocol, "u"), quality(base))
        table.add(Cell("s", "better", protocol, "u"), quality(base * 1.2))
    labels = {**LABELS, **dict.fromkeys(SERVED.values(), "Served")}
    rows = [r for r in summarise(table, labels, n_seeds=1) if r["metric"] == "ndcg@10"]
    assert len(rows) == 4
    for row in rows:
        expected = 1.2 if row["method"] == "better" else 1.0
        assert row["ratio_to_served"]["mean"] == pytest.approx(expected)
        assert row["ratio_to_served"]["ci_low"] == pytest.approx(expected)


def test_a_reference_of_zero_has_no_ratio() -> None:
    rows = summarise(table_of(np.zeros(10), [1.0]), LABELS, n_seeds=1)
    assert all(row["ratio_to_popularity"] is None for row in rows)


def test_resampling_repeats_and_needs_customers() -> None:
    values = GENERATOR.uniform(size=(20, 4))
    first, second = (Bootstrap(20, 4, replicates=50, seed=1).means(values) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (50,)
    assert Bootstrap(20, 4, replicates=2000, seed=1).means(values).mean() == pytest.approx(
        values.mean(), rel=0.02
    )
    with pytest.raises(InputError, match="No customer"):
        Bootstrap(0, 1, replicates=10, seed=0)


def test_a_method_with_missing_seeds_is_refused() -> None:
    with pytest.raises(InputError, match="2 values"):
        summarise(table_of(np.ones(5), [1.0, 1.0]), LABELS, n_seeds=3)
