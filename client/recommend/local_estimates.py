"""What a region's noisy sums say: factors and lists, with as much weight as the noise leaves them.

Everything here is computed from released values and public numbers, so it costs no ε. Noise in a
small cell would swing a ratio wildly; so each ratio is drawn towards 1 by how much of its deviation
the known noise explains (James and Stein, 1961; Efron and Morris, "Data Analysis Using Stein's
Estimator", 1975). Where everything looks like noise, all factors are 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.item_pairs import symmetric

#: No factor is below or above; one cell must not bury a category or put it on top of everything.
FACTOR_RANGE = (0.25, 4.0)
#: A sum of noisy values is taken for known if it is above so many deviations of its noise.
KNOWN_DEVIATIONS = 3.0
#: A pair counts if it is above what is expected by so many standard deviations of its noise.
PAIR_DEVIATIONS = 3.0

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


def shrunk_ratios(
    observed: FloatArray, expected: FloatArray, noise_variance: FloatArray
) -> FloatArray:
    """By how much values exceed what is expected of them, drawn towards 1.

    The true ratios are taken for draws with mean 1 and a variance τ², which is estimated from all
    cells at once: what is left of the squared deviations once the noise's part is taken off, the
    cells of much expected value and little noise counting most. Each ratio then moves by
    τ²e² / (τ²e² + v) of what is seen, e being its expected value and v its noise's variance.

    Args:
        observed: float64[n], noisy values.
        expected: float64[n], what they would be if nothing were special; cells of at most 0 are 1.
        noise_variance: float64[n], the variance of ``observed − expected`` by noise alone.

    Returns:
        float64[n] within `FACTOR_RANGE`.
    """
    usable = expected > 0
    deviation = np.where(usable, observed - expected, 0.0)
    squares = np.where(usable, expected, 0.0) ** 2
    # (deviation² − v) / e² says τ² with a variance of 2 v² / e⁴: each cell counts by the reverse.
    variance = np.maximum(noise_variance, 1e-30)
    weights = squares / variance**2
    total = float((weights * squares).sum())
    explained = float((weights * (deviation**2 - variance)).sum())
    spread = max(0.0, explained / total) if total > 0 else 0.0
    signal = spread * squares
    weight = np.where(
        usable & (signal > 0), signal / np.maximum(signal + noise_variance, 1e-300), 0
    )
    moved = weight * deviation / np.where(usable, expected, 1.0)
    return np.clip(1.0 + moved, *FACTOR_RANGE)


def scene_factors(scenes: Float32Array, n_dayparts: int, noise_stddev: float) -> Float32Array:
    """How much more of each category is bought at a moment than at others.

    Args:
        scenes: float32[categories, dayparts + 7], as `client.recommend.local_statistics.Scenes`
            has it, noised.
        n_dayparts: How many columns are parts of the day.
        noise_stddev: Of the noise in each value.

    Returns:
        float32 of the same shape: 1 where a category is bought as everything else is.
    """
    values = scenes.astype(np.float64)
    tables = (values[:, :n_dayparts], values[:, n_dayparts:])
    factors = [table_factors(table, noise_stddev) for table in tables]
    return np.concatenate(factors, axis=1).astype(np.float32)


def table_factors(table: FloatArray, noise_stddev: float) -> FloatArray:
    """Each cell against what its row's sum and the columns' shares make one expect.

    Shares of columns are taken from the rows that stand out of the noise: the sum over all rows has
    the noise of all cells.

    Args:
        table: float64[categories, columns], noised sums.
        noise_stddev: Of the noise in each value.

    Returns:
        float64 of the same shape: 1 where a category is bought as everything else is.
    """
    n_columns = table.shape[1]
    rows = table.sum(axis=1)
    known = rows > KNOWN_DEVIATIONS * noise_stddev * np.sqrt(n_columns)
    columns = np.maximum(table[known].sum(axis=0), 0.0)
    total = float(columns.sum())
    if not total > 0:
        return np.ones(table.shape)
    shares = columns / total
    expected = np.where(known[:, None], rows[:, None] * shares[None, :], 0.0)
    # A cell's own noise, less its part of the row's; and that of the shares, times the row.
    own = noise_stddev**2 * ((1.0 - shares) ** 2 + shares**2 * (n_columns - 1))
    of_shares = float(known.sum()) * np.where(known, rows / total, 0.0) ** 2
    variance = own[None, :] * (1.0 + of_shares[:, None])
    ratios = shrunk_ratios(table.ravel(), expected.ravel(), variance.ravel())
    return ratios.reshape(table.shape)


def bias_factors(regional: Float32Array, shared: Float32Array, noise_stddev: float) -> Float32Array:
    """How much more an item is bought in the region than in all regions together.

    Args:
        regional: float32[m], what the region's customers buy, noised.
        shared: float32[m], the same of all regions, as the published model has it.
        noise_stddev: Of the noise in each value of `regional`.

    Returns:
        float32[m]: 1 where nothing is special about the region.
    """
    positive = np.maximum(shared.astype(np.float64), 0.0)
    total = float(regional.sum(dtype=np.float64))
    known = total > KNOWN_DEVIATIONS * noise_stddev * np.sqrt(len(regional))
    if not (known and positive.sum() > 0):
        return np.ones(len(regional), dtype=np.float32)
    shares = positive / positive.sum()
    variance = noise_stddev**2 * ((1.0 - shares) ** 2 + shares**2 * (len(shares) - 1))
    ratios = shrunk_ratios(regional.astype(np.float64), total * shares, variance)
    return ratios.astype(np.float32)


def pair_scores(pairs: Float32Array, n_items: int, noise_stddev: float) -> Float32Array:
    """How much oftener items are bought by the same customers than their own numbers explain.

    Args:
        pairs: float32[m(m − 1)/2], noised; see `common.item_pairs`.
        n_items: m.
        noise_stddev: Of the noise in each value.

    Returns:
        float32[m, m], symmetric: the excess over the product of both items' shares, in units of the
        noise; 0 where it is below `PAIR_DEVIATIONS`, and on the diagonal.
    """
    square = symmetric(pairs.astype(np.float64), n_items)
    rows = np.maximum(square.sum(axis=1), 0.0)
    total = float(rows.sum())
    expected = np.outer(rows, rows) / total if total > 0 else np.zeros_like(square)
    excess = (square - expected) / noise_stddev
    np.fill_diagonal(excess, 0.0)
    return np.where(excess >= PAIR_DEVIATIONS, excess, 0.0).astype(np.float32)
