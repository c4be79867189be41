from __future__ import annotations

import math

import numpy as np
import pytest

from server.robust_noise import median_stddev, trimmed_mean_stddev


@pytest.mark.parametrize(
    ("n_values", "variance"),
    # Teichroew, "Tables of Expected Values of Order Statistics and Products of Order Statistics"
    # (1956), as quoted in Sarhan and Greenberg (1962), table 10C.1.
    [(1, 1.0), (3, 0.44867), (5, 0.28683), (7, 0.21045), (9, 0.16610)],
)
def test_medians_have_their_published_variances(n_values: int, variance: float) -> None:
    assert median_stddev(n_values) ** 2 == pytest.approx(variance, rel=2e-4)


@pytest.mark.parametrize("n_values", [2, 3, 8, 20, 32, 33, 100])
def test_without_trimming_it_is_the_means(n_values: int) -> None:
    assert trimmed_mean_stddev(n_values, 0) == pytest.approx(1 / math.sqrt(n_values), rel=2e-4)


@pytest.mark.parametrize(
    ("n_values", "trimmed"), [(4, 1), (8, 1), (8, 3), (20, 4), (32, 15), (40, 4), (41, 20)]
)
def test_it_is_what_samples_show(n_values: int, trimmed: int) -> None:
    samples = np.sort(np.random.default_rng(2).standard_normal((100_000, n_values)), axis=1)
    shown = float(samples[:, trimmed : n_values - trimmed].mean(axis=1).std())
    assert trimmed_mean_stddev(n_values, trimmed) == pytest.approx(shown, rel=0.02)


def test_the_median_of_many_has_its_limit() -> None:
    assert median_stddev(10_001) == pytest.approx(math.sqrt(math.pi / 2 / 10_001), rel=1e-3)
