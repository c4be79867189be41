"""Factors of noisy sums: right where there is much to see, 1 where there is nothing but noise."""

from __future__ import annotations

import numpy as np
import pytest

from client.recommend.local_estimates import (
    FACTOR_RANGE,
    PAIR_DEVIATIONS,
    bias_factors,
    pair_scores,
    scene_factors,
    shrunk_ratios,
)
from common.item_pairs import n_pairs, upper_triangle

N_CATEGORIES, N_DAYPARTS = 60, 4


def scenes_of(generator: np.random.Generator, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scenes, and the factors that they were made with."""
    rows = generator.gamma(1.0, size=N_CATEGORIES)
    tables, factors = [], []
    for columns in (N_DAYPARTS, 7):
        shares = generator.dirichlet(np.full(columns, 5.0))
        special = np.exp(generator.normal(0, 0.4, (N_CATEGORIES, columns)))
        table = rows[:, None] * shares[None, :] * special
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
        tables.append(scale * table)
        factors.append(table / expected)
    return np.concatenate(tables, axis=1), np.concatenate(factors, axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_much_signal_gives_the_true_factors(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sums, true = scenes_of(generator, 10_000.0)
    noisy = (sums + generator.normal(0, 2.0, sums.shape)).astype(np.float32)
    found = scene_factors(noisy, N_DAYPARTS, 2.0)
    busy = sums.sum(axis=1) > 1000
    np.testing.assert_allclose(
        found[busy], np.clip(true[busy], *FACTOR_RANGE), atol=0.06, rtol=0.06
    )


@pytest.mark.parametrize("seed", range(3))
def test_shrinking_comes_nearer_to_the_truth_than_the_ratio_itself(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sums, true = scenes_of(generator, 1000.0)
    noisy = sums + generator.normal(0, 8.0, sums.shape)
    found = scene_factors(noisy.astype(np.float32), N_DAYPARTS, 8.0)

    def error(factors: np.ndarray) -> float:
        return float(np.mean(np.abs(factors - true)[sums > 1.0]))

    tables = (noisy[:, :N_DAYPARTS], noisy[:, N_DAYPARTS:])
    plain = np.concatenate(
        [
            each * each.sum() / np.maximum(each.sum(1, keepdims=True) * each.sum(0), 1.0)
            for each in tables
        ],
        axis=1,
    )
    assert error(found) < error(np.clip(plain, *FACTOR_RANGE))
    assert error(found) < error(np.ones_like(true))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_but_noise_gives_factors_of_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 4.0, (N_CATEGORIES, N_DAYPARTS + 7)).astype(np.float32)
    assert np.array_equal(scene_factors(noise, N_DAYPARTS, 4.0), np.ones_like(noise))
    values = generator.normal(0, 4.0, 200).astype(np.float32)
    shared = generator.gamma(1.0, size=200).astype(np.float32)
    assert np.array_equal(bias_factors(values, shared, 4.0), np.ones(200, dtype=np.float32))


def test_where_nothing_is_special_factors_stay_near_one() -> None:
    generator = np.random.default_rng(1)
    rows, columns = generator.gamma(1.0, size=N_CATEGORIES), np.full(N_DAYPARTS + 7, 1.0)
    sums = 200 * rows[:, None] * columns[None, :]
    noisy = (sums + generator.normal(0, 4.0, sums.shape)).astype(np.float32)
    found = scene_factors(noisy, N_DAYPARTS, 4.0)
    assert float(np.abs(found - 1).max()) < 0.1


def test_a_regions_own_taste_is_seen_and_what_all_buy_is_not() -> None:
    generator = np.random.default_rng(2)
    shared = generator.gamma(1.0, size=300)
    taste = np.exp(generator.normal(0, 0.5, 300))
    regional = 50 * shared * taste / taste.mean() + generator.normal(0, 3.0, 300)
    found = bias_factors(regional.astype(np.float32), shared.astype(np.float32), 3.0)
    popular = shared > 1.0
    assert np.corrcoef(found[popular], taste[popular])[0, 1] > 0.9
    # Negative values of a shared popularity are noise, and say nothing.
    mixed = shared.copy()
    mixed[:10] = -1
    assert np.array_equal(
        bias_factors(regional.astype(np.float32), mixed.astype(np.float32), 3.0)[:10], np.ones(10)
    )


def test_factors_are_bounded_and_finite_whatever_comes() -> None:
    generator = np.random.default_rng(3)
    for scale in (0.0, 1e-30, 1.0, 1e30):
        values = (generator.normal(0, 1, (5, N_DAYPARTS + 7)) * scale).astype(np.float32)
        for found in (
            scene_factors(values, N_DAYPARTS, 1.0),
            bias_factors(values.ravel(), values.ravel(), 1.0),
        ):
            assert np.isfinite(found).all()
            assert FACTOR_RANGE[0] <= found.min() <= found.max() <= FACTOR_RANGE[1]


def test_ratios_move_less_the_more_noise_there_is() -> None:
    observed, expected = np.array([20.0, 5.0, 10.0]), np.full(3, 10.0)
    moved = [
        shrunk_ratios(observed, expected, np.full(3, variance))[0]
        for variance in (0.0, 10.0, 30.0, 60.0)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] == pytest.approx(2.0)
    assert moved[-1] == 1.0


def test_pairs_are_those_above_chance_and_above_the_noise() -> None:
    generator = np.random.default_rng(4)
    share = generator.gamma(2.0, size=30)
    square = 40 * np.outer(share, share) / share.sum() ** 2 * 30
    square[3, 7] = square[7, 3] = square[3, 7] + 60
    pairs = upper_triangle(square) + generator.normal(0, 2.0, n_pairs(30))
    found = pair_scores(pairs.astype(np.float32), 30, 2.0)
    assert np.array_equal(found, found.T)
    assert found.argmax() in (3 * 30 + 7, 7 * 30 + 3)
    assert ((found == 0) | (found >= PAIR_DEVIATIONS)).all()
    only_noise = generator.normal(0, 2.0, n_pairs(30)).astype(np.float32)
    assert np.count_nonzero(pair_scores(only_noise, 30, 2.0)) <= 12
