"""Statistical gates on noise: each catches a planted fault, and raises no false alarm by 1e-6."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

FALSE_ALARM = 1e-7


def noise_has_stddev(values: npt.NDArray[np.float64], stddev: float) -> bool:
    """χ²: whether values are compatible with independent N(0, stddev²)."""
    statistic = float(((values / stddev) ** 2).sum())
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], values.size)
    return bool(low <= statistic <= high)


def noise_is_normal(values: npt.NDArray[np.float64], stddev: float) -> bool:
    """Kolmogorov–Smirnov: whether the distribution is N(0, stddev²)."""
    return bool(stats.kstest(values.ravel() / stddev, "norm").pvalue >= FALSE_ALARM)


def noise_is_fresh(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    """Whether two draws of equal shape are uncorrelated."""
    correlation = float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    # √n · correlation of independent draws is standard normal for large n.
    return bool(abs(correlation) * np.sqrt(first.size) <= stats.norm.isf(FALSE_ALARM / 2))
