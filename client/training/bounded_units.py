"""The sum behind a query, with a share of noise: for answers that only regions together give.

As `client.training.bounded_sums`, but each customer's row is put on the integer grid by itself,
and whole numbers are added, which is exact. What one customer moves is then bounded in whole units,
with nothing for rounding (`common.discrete_gaussian.sensitivity_of`). What comes out has one
region's share of the noise; it protects nobody by itself and must leave under masks only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from client.data.transactions import Purchases
from client.training.bounded_sums import Statistic, bounded_rows
from client.training.exact_bernoulli import WordSource
from client.training.shared_sums import ring_release
from common.discrete_gaussian import SharedNoise, sensitivity_of
from common.errors import InputError
from common.secure_aggregation import Quantiser

IntArray = npt.NDArray[np.int64]

# Squares of larger sensitivities, in grid units, would not fit 64 bits with room to add.
_MOST_UNITS = 2.0**30


def shared_sum(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    start_ms: int,
    end_ms: int,
    clipping_norm: float,
    share: SharedNoise,
    quantiser: Quantiser,
    noise: WordSource,
) -> npt.NDArray[np.int32]:
    """One region's part of an answer, as ring elements.

    Args:
        parts: The consenting customers' purchases; no customer is in two parts.
        statistic: What is asked.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        clipping_norm: C.
        share: Each region's share of the noise.
        quantiser: The ring: the grid, and how many regions are summed.
        noise: Where noise is drawn from.

    Formal guarantees:
        Together with the shares of at least `share.shares` − 1 other honest regions, and as long as
        nothing but the sum of all is seen, a (`share.noise_multiplier`)-Gaussian mechanism under
        add-or-remove of one customer, by `common.discrete_gaussian`.

    Returns:
        int32 of the statistic's shape.

    Raises:
        InputError: As in `client.training.bounded_sums.noisy_sum`, or the share was made for
            another sensitivity than these rows have.
    """
    sensitivity = sensitivity_of(clipping_norm, quantiser.grid_exponent)
    size = math.prod(statistic.spec.shape)
    if not (share.sensitivity >= sensitivity and share.coordinates >= size):
        raise InputError(
            f"{statistic.name}: its share of noise was made for other rows.",
            remedy="Calibrate it for this clipping norm, grid and number of values.",
        )
    total = unit_sum(
        parts,
        statistic,
        start_ms=start_ms,
        end_ms=end_ms,
        clipping_norm=clipping_norm,
        grid_exponent=quantiser.grid_exponent,
    )
    released: npt.NDArray[np.int32] = ring_release(total, share, quantiser, noise)
    return released.reshape(statistic.spec.shape)


def unit_sum(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    start_ms: int,
    end_ms: int,
    clipping_norm: float,
    grid_exponent: int,
) -> IntArray:
    """int64[n]: the customers' rows in grid units, summed; without noise, so it must not leave.

    Raises:
        InputError: As in `client.training.bounded_sums.noisy_sum`.
    """
    total = np.zeros(math.prod(statistic.spec.shape), dtype=np.int64)
    for rows in bounded_rows(
        parts, statistic, start_ms=start_ms, end_ms=end_ms, clipping_norm=clipping_norm
    ):
        np.add.at(total, rows.indices, row_units(rows, clipping_norm, grid_exponent))
    return total


def row_units(rows: csr_matrix, clipping_norm: float, grid_exponent: int) -> IntArray:
    """int64[n_entries]: each row's entries in whole grid units.

    Rounded to the nearest, so that counts stay what they are; where that makes a row too long, it
    is cut towards zero.

    Formal guarantees:
        For every row, the L2 norm of its units is at most C / γ: the sum of their squares is taken
        in whole numbers and compared, for each row.

    Raises:
        InputError: C is not a moderate number of grid units.
    """
    most = sensitivity_of(clipping_norm, grid_exponent)
    if not 1 <= most <= _MOST_UNITS:
        raise InputError(
            f"A clipping norm of {clipping_norm:g} is {most:g} units of this grid.",
            remedy="Choose another grid.",
        )
    steps = np.ldexp(rows.data, -grid_exponent)
    nearest = np.rint(steps).astype(np.int64)
    owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    squares = np.zeros(rows.shape[0], dtype=np.int64)
    np.add.at(squares, owner, nearest**2)
    # The most is a power of two times C, exactly; its square's whole part is what counts.
    too_long = squares > math.floor(most) ** 2
    units: IntArray = np.where(too_long[owner], np.trunc(steps).astype(np.int64), nearest)
    return units
