"""One noisy sum of what customers contribute, each bounded: the mechanism behind every query.

A query says what a customer adds to a vector. Here it is made private, the same way whatever the
query: everything one customer adds is one row, scaled to an L2 norm of at most C, rows are summed,
Gaussian noise of σ = multiplier × C is added to every coordinate, and the result is rounded to the
public grid. No number of customers enters anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from client.data.transactions import Purchases
from client.training.noise import NoiseSource
from common.canonical_json import JsonValue
from common.errors import InputError
from common.parameters import ArraySpec, snap_to_grid

FloatArray = npt.NDArray[np.float64]
LongArray = npt.NDArray[np.int64]

# A row scaled to just below C stays below it when products and sums are rounded in float64.
_MARGIN = 2.0**-20
_SID_BYTES = 64


@dataclass(frozen=True, eq=False)
class Contributions:
    """What some customers add to a vector: value by value, in any order, repeats added up.

    Who adds a value is said by value, so that a customer cannot count as two: all of hers are one
    row, and the row is bounded.

    Attributes:
        owner: int64[n], whose each value is: a position among the customers who were asked of.
        place: int64[n], to which coordinate it is added.
        value: float64[n].
    """

    owner: LongArray = field(repr=False)
    place: LongArray = field(repr=False)
    value: FloatArray = field(repr=False)


class Statistic(Protocol):
    """What a query asks of each customer."""

    @property
    def name(self) -> str:
        """The query's name, which a region's policy allows or does not."""
        ...

    @property
    def spec(self) -> ArraySpec:
        """The array that its answer is; float32."""
        ...

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """The public constants it depends on, as JSON values: they are signed and logged."""
        ...

    def contributions(self, purchases: Purchases) -> Contributions:
        """What customers add, by their purchases alone: nobody's row depends on another's.

        Args:
            purchases: Some customers' purchases within the query's window; all of each of them.
        """
        ...


@runtime_checkable
class TableStatistic(Statistic, Protocol):
    """A statistic of more than purchases."""

    @property
    def tables(self) -> tuple[str, ...]:
        """The further tables that it takes rows of, by name."""
        ...


def tables_of(statistic: Statistic) -> tuple[str, ...]:
    """The further tables that a statistic takes rows of; one of purchases alone states none."""
    return statistic.tables if isinstance(statistic, TableStatistic) else ()


def noisy_sum(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    start_ms: int,
    end_ms: int,
    clipping_norm: float,
    noise_multiplier: float,
    grid_exponent: int,
    noise: NoiseSource,
) -> npt.NDArray[np.float32]:
    """A query's answer.

    Args:
        parts: The consenting customers' purchases; no customer is in two parts.
        statistic: What is asked.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        clipping_norm: C.
        noise_multiplier: σ / C.
        grid_exponent: Values are multiples of 2 to this power.
        noise: Where noise is drawn from.

    Formal guarantees:
        One (σ/C)-Gaussian mechanism under add-or-remove of one customer, whatever the purchases.

    Edge cases:
        No customers, or none with a purchase in the window: pure noise, which is what the mechanism
        has to give.

    Returns:
        float32 of the statistic's shape, on the grid.

    Raises:
        InputError: A value is not finite, is of nobody or of no coordinate, or a customer is in two
            parts: nothing is released.
    """
    total = bounded_sum(
        parts, statistic, start_ms=start_ms, end_ms=end_ms, clipping_norm=clipping_norm
    )
    noisy = total + noise.gaussian(total.shape, noise_multiplier * clipping_norm)
    return snap_to_grid(noisy, grid_exponent).reshape(statistic.spec.shape)


def bounded_sum(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    start_ms: int,
    end_ms: int,
    clipping_norm: float,
) -> FloatArray:
    """float64[n]: the sum of the customers' bounded rows; without noise, so it must not leave.

    Raises:
        InputError: As in `noisy_sum`.
    """
    size = int(np.prod(statistic.spec.shape))
    total = np.zeros(size)
    for rows in bounded_rows(
        parts, statistic, start_ms=start_ms, end_ms=end_ms, clipping_norm=clipping_norm
    ):
        total += np.bincount(rows.indices, weights=rows.data, minlength=size)
    return total


def bounded_rows(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    start_ms: int,
    end_ms: int,
    clipping_norm: float,
) -> Iterator[csr_matrix]:
    """The customers' bounded rows, part by part, one row each; they must not leave.

    Raises:
        InputError: As in `noisy_sum`; that a customer was in two parts is said after the last.
    """
    size = int(np.prod(statistic.spec.shape))
    seen: list[npt.NDArray[np.bytes_]] = []
    for part in parts:
        seen.append(owners_of(part))
        given = statistic.contributions(within(part, start_ms, end_ms))
        yield _bounded(given, len(part.owners), size, clipping_norm)
    require_once(seen)


def clip_rows(rows: csr_matrix, clipping_norm: float) -> csr_matrix:
    """Rows scaled to an L2 norm of at most C; shorter ones stay.

    Formal guarantees:
        For every row, the norm of what is returned is at most C, rounding included.

    Raises:
        InputError: C is not positive, or a value is not finite: it must not be clipped to something
            harmless-looking.
    """
    if not 0 < clipping_norm < float("inf"):
        raise InputError(f"A clipping norm of {clipping_norm} is not a positive number.")
    if not np.isfinite(rows.data).all():
        raise InputError("A customer's contribution is not finite; nothing is released.")
    owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    # Scaled by the largest value first: squares of what a float can hold may overflow.
    largest = np.zeros(rows.shape[0])
    np.maximum.at(largest, owner, np.abs(rows.data))
    scale = np.where(largest > 0, largest, 1.0)
    scaled = rows.data / scale[owner]
    bound = clipping_norm * (1.0 - _MARGIN)
    # A norm beyond what a float holds is infinite: such a row becomes zero.
    with np.errstate(over="ignore"):
        norms = scale * np.sqrt(np.bincount(owner, weights=scaled**2, minlength=rows.shape[0]))
        factor = np.where(norms > bound, bound / np.maximum(norms, bound), 1.0)
    return csr_matrix((rows.data * factor[owner], rows.indices, rows.indptr), shape=rows.shape)


def _bounded(given: Contributions, n_customers: int, size: int, clipping_norm: float) -> csr_matrix:
    for numbers, most, what in (
        (given.owner, n_customers, "customer"),
        (given.place, size, "coordinate"),
    ):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < most:
            raise InputError(f"A contribution is of a {what} that there is not.")
    rows = csr_matrix((given.value, (given.owner, given.place)), shape=(n_customers, size))
    # What one customer adds to one coordinate counts once, as a whole.
    rows.sum_duplicates()
    return clip_rows(rows, clipping_norm)


def within(part: Purchases, start_ms: int, end_ms: int) -> Purchases:
    """What customers did within a window.

    Args:
        part: Their purchases and rows.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: Its end, exclusive.
    """
    inside = (part.time_ms >= start_ms) & (part.time_ms < end_ms)
    further = {
        name: rows.take((rows.time_ms >= start_ms) & (rows.time_ms < end_ms))
        for name, rows in part.further.items()
    }
    return Purchases(
        part.owners, part.owner[inside], part.item[inside], part.time_ms[inside], further
    )


def owners_of(part: Purchases) -> npt.NDArray[np.bytes_]:
    """The customers of a part, for `require_once`."""
    return np.array(part.owners, dtype=f"S{_SID_BYTES}")


def require_once(seen: list[npt.NDArray[np.bytes_]]) -> None:
    """Requires that no customer was in two parts: she would be bounded as two people.

    Raises:
        InputError: One was; nothing may be released.
    """
    names = np.sort(np.concatenate(seen)) if seen else np.zeros(0, dtype="S1")
    if (names[1:] == names[:-1]).any():
        raise InputError(
            "A customer's purchases are in two parts of the data; nothing is released.",
            remedy="Report this: one customer would weigh as two.",
        )
