from __future__ import annotations

import hashlib
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from client.training.discrete_noise import _deviations, _geometric, discrete_gaussian
from client.training.exact_bernoulli import exp_bounds
from client.training.noise import SeededNoise, SystemNoise
from common.errors import InputError
from common.grid_stddev import GridStddev
from tests.support.privacy_gates import (
    FALSE_ALARM,
    noise_has_stddev,
    noise_is_fresh,
    noise_is_normal,
)
from tests.support.word_lists import Words


def _drawn(stddev: float, n: int) -> np.ndarray:
    return discrete_gaussian((n,), GridStddev.at_least(stddev), SystemNoise())


def _fits(values: np.ndarray, stddev: float) -> bool:
    """χ² of the counts against N_Z(0, σ²), whose probabilities are computed here."""
    reach = math.ceil(5 * stddev)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * stddev**2))
    expected = weights / weights.sum() * values.size
    counts = np.bincount(np.clip(values, -reach, reach) + reach, minlength=2 * reach + 1)
    usual = expected >= 10
    # What is too rare to count by itself is counted together.
    expected = np.append(expected[usual], expected[~usual].sum())
    counts = np.append(counts[usual], counts[~usual].sum())
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return bool(statistic <= stats.chi2.isf(FALSE_ALARM, len(expected) - 1))


@pytest.mark.parametrize("stddev", [0.5, 0.8, 1.0, 2.0, 3.7, 20.0])
def test_small_noise_has_the_probabilities_of_the_discrete_gaussian(stddev: float) -> None:
    assert _fits(_drawn(stddev, 300_000), stddev)


@pytest.mark.parametrize("stddev", [0.8, 2.0, 20.0])
@pytest.mark.parametrize("fault", [0.9, 1.1])
def test_the_gate_catches_small_noise_of_another_size(stddev: float, fault: float) -> None:
    assert not _fits(_drawn(stddev * fault, 300_000), stddev)


def test_the_gate_catches_a_zero_that_is_counted_twice_and_rounded_noise() -> None:
    values = _drawn(1.0, 300_000)
    doubled = np.append(values, np.zeros(int((values == 0).sum() * 0.05), dtype=np.int64))
    assert not _fits(doubled, 1.0)
    rounded = np.rint(np.random.default_rng(0).normal(0, 1.0, 300_000)).astype(np.int64)
    assert not _fits(rounded, 1.0)


# Above some ten grid units, N_Z(0, σ²) and N(0, σ²) are too close for any sample to tell apart.
@pytest.mark.parametrize("stddev", [60.0, 12_345.678, 1e7])
def test_large_noise_has_the_stated_size_and_form(stddev: float) -> None:
    values = _drawn(stddev, 100_000).astype(np.float64)
    assert noise_has_stddev(values, stddev)
    # Spread over its cell, or the steps themselves would show.
    values += np.random.default_rng(0).uniform(-0.5, 0.5, values.size)
    assert noise_is_normal(values, stddev)


@pytest.mark.parametrize("fault", [0.9, 1.1])
def test_the_gate_catches_large_noise_of_another_size(fault: float) -> None:
    assert not noise_has_stddev(_drawn(1e5 * fault, 20_000).astype(np.float64), 1e5)


def test_draws_are_fresh_within_and_between() -> None:
    first, second = _drawn(1e4, 50_000).astype(float), _drawn(1e4, 50_000).astype(float)
    assert noise_is_fresh(first, second)
    assert noise_is_fresh(first[:-1], first[1:])
    assert noise_is_fresh(first[:-1] ** 2, first[1:] ** 2)


def test_every_residue_occurs_alike() -> None:
    # A sampler that rounds, or whose scale is even, would show in the low digits.
    counts = np.bincount(_drawn(1e6, 200_000) % 16, minlength=16)
    assert stats.chisquare(counts).pvalue >= FALSE_ALARM


def test_it_repeats_with_a_test_s_source_and_is_pinned() -> None:
    stddev = GridStddev.at_least(1234.5)
    first = discrete_gaussian((100, 70), stddev, SeededNoise("a"))
    assert first.shape == (100, 70)
    assert np.array_equal(first, discrete_gaussian((100, 70), stddev, SeededNoise("a")))
    assert not np.array_equal(first, discrete_gaussian((100, 70), stddev, SeededNoise("b")))
    assert hashlib.sha256(first.astype("<i8").tobytes()).hexdigest()[:16] == "5e2d3672b941ab44"


def test_no_values_and_many_chunks_of_them() -> None:
    stddev = GridStddev.at_least(2.0)
    assert discrete_gaussian((0, 5), stddev, SystemNoise()).shape == (0, 5)
    assert discrete_gaussian((70_000,), stddev, SystemNoise()).shape == (70_000,)


def test_geometric_numbers_at_the_border_are_decided_by_further_digits() -> None:
    border = exp_bounds(3, 1, 64)[0]
    with mpmath.workdps(60):
        further = int(mpmath.floor(mpmath.ldexp(mpmath.exp(-3), 128))) & (2**64 - 1)
    assert _geometric(1, Words(border - 1))[0] == 3
    assert _geometric(1, Words(border + 1))[0] == 2
    assert _geometric(1, Words(border, further - 1))[0] == 3
    assert _geometric(1, Words(border, further + 1))[0] == 2
    # 64 zeros are below e^-44; how far below, the next word says.
    assert _geometric(1, Words(0, 2**63))[0] == 45
    assert _geometric(1, Words(2**64 - 1))[0] == 0


@pytest.mark.parametrize("stddev", [0.5, 0.75, 1.0, 999.999, 2.0**24 - 1])
def test_deviations_are_exact_up_to_the_largest_candidate(stddev: float) -> None:
    exact = GridStddev.at_least(stddev)
    scale = exact.floor + 1
    magnitudes = np.array([0, 1, scale, 45 * scale, (scale << 12) - 1], dtype=np.int64)
    deviation, divisor = _deviations(magnitudes, scale, exact)
    for magnitude, found in zip(magnitudes, deviation, strict=True):
        four_to_the_b = 4**exact.exponent
        assert int(found) == abs(int(magnitude) * scale * four_to_the_b - exact.numerator**2)
    assert divisor == exact.numerator * scale * 2**exact.exponent
    with pytest.raises(InputError, match="larger than any"):
        _deviations(np.array([scale << 12]), scale, exact)
