"""The data set a model learns from: consenting customers × catalogue items, in one window."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from client.data.assembly import MS_PER_WEEK, assemble, count_purchases
from client.data.transactions import ConsentedTransactions
from common.catalogue import Catalogue
from common.errors import InputError

__all__ = [
    "HALF_LIFE_WEEKS",
    "MAX_ROWS_PER_CUSTOMER",
    "MS_PER_WEEK",
    "CustomerItemMatrix",
    "PreferenceDataset",
]

HALF_LIFE_WEEKS = 12.0
# No household comes near; it bounds the time and memory one account can cost.
MAX_ROWS_PER_CUSTOMER = 100_000
# Up to here a float32 holds each count exactly.
_HIGHEST_CAP = 1 << 24

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CustomerItemMatrix:
    """A sparse customers × items matrix by rows (CSR).

    Attributes:
        indptr: int64[n_rows + 1]; row r has the entries indptr[r] to indptr[r + 1].
        indices: int32[n_entries], item numbers, ascending within a row.
        values: float32[n_entries].
        n_items: The number of columns.
    """

    indptr: LongArray = field(repr=False)
    indices: IntArray = field(repr=False)
    values: FloatArray = field(repr=False)
    n_items: int

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.indptr) - 1

    def rows(self, start: int, stop: int) -> CustomerItemMatrix:
        """The rows from `start` up to `stop`, without copying the entries."""
        bounds = self.indptr[start : stop + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        return CustomerItemMatrix(
            bounds - bounds[0], self.indices[entries], self.values[entries], self.n_items
        )

    def gather(self, rows: LongArray) -> CustomerItemMatrix:
        """The given rows in the given order, copied; time and memory grow with their entries only.

        Args:
            rows: int64[k], numbers of rows, repeats allowed.

        Raises:
            InputError: A number is not that of a row.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.n_rows:
            raise InputError(f"Rows were asked for that are not among the {self.n_rows} there are.")
        taken = self._by_scipy[rows]
        return CustomerItemMatrix(
            taken.indptr.astype(np.int64),
            taken.indices.astype(np.int32, copy=False),
            taken.data,
            self.n_items,
        )

    @cached_property
    def _by_scipy(self) -> csr_matrix:
        """The same entries, not copied, for SciPy's compiled loop over rows."""
        parts = (self.values, self.indices, self.indptr)
        return csr_matrix(parts, shape=(self.n_rows, self.n_items))


@dataclass(frozen=True, eq=False)
class PreferenceDataset:
    """What consenting customers bought of the catalogue within [start_ms, end_ms).

    Rows are ordered by pseudonym, which is a hash: the order tells nothing. Customers without a
    purchase in the window have no row. One row of a store (an item of a trip) counts as one
    purchase, whatever its quantity.

    Made from a store's data by `from_consented` only. The plain constructor is for made-up
    customers, who have no consent to give.

    Attributes:
        sids: The rows' pseudonyms, ascending.
        counts: float32 purchases of each item by each customer.
        last_ms: int64[n_entries], the time of the last purchase behind each entry of `counts`.
        ages_weeks: float32[n_purchases], how long before `end_ms` each purchase was, in the order
            of the entries of `counts`.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        capped_customers: Customers with more rows than the cap.
        capped_rows: Their oldest rows, left out.
    """

    sids: tuple[str, ...] = field(repr=False)
    counts: CustomerItemMatrix
    last_ms: LongArray = field(repr=False)
    ages_weeks: FloatArray = field(repr=False)
    start_ms: int
    end_ms: int
    capped_customers: int = 0
    capped_rows: int = 0

    @property
    def n_customers(self) -> int:
        """The number of customers with a purchase in the window."""
        return len(self.sids)

    @property
    def n_items(self) -> int:
        """The number of items of the catalogue."""
        return self.counts.n_items

    @property
    def indptr(self) -> LongArray:
        """The row bounds of `counts`."""
        return self.counts.indptr

    @property
    def indices(self) -> IntArray:
        """The item numbers of `counts`."""
        return self.counts.indices

    def rows(self, start: int, stop: int) -> CustomerItemMatrix:
        """The purchase counts of the customers from `start` up to `stop`."""
        return self.counts.rows(start, stop)

    def history(self, half_life_weeks: float = HALF_LIFE_WEEKS) -> CustomerItemMatrix:
        """Purchase counts in which a purchase `half_life_weeks` before the window's end is ½.

        It is each customer's own history: it stays in the region.
        """
        if not half_life_weeks > 0:
            raise InputError(
                f"A half-life of {half_life_weeks} weeks is not positive.",
                remedy="Use a positive number of weeks.",
            )
        weights = np.exp2(self.ages_weeks.astype(np.float64) / -half_life_weeks)
        # Purchases lie in the order of the entries, each entry having as many as it counts.
        ends = np.cumsum(self.counts.values, dtype=np.float64).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        values = np.add.reduceat(weights, starts) if len(ends) else weights
        return CustomerItemMatrix(
            self.counts.indptr, self.counts.indices, values.astype(np.float32), self.n_items
        )

    @classmethod
    def from_consented(
        cls,
        consented: ConsentedTransactions,
        catalogue: Catalogue,
        *,
        start_ms: int,
        end_ms: int,
        max_rows_per_customer: int = MAX_ROWS_PER_CUSTOMER,
    ) -> PreferenceDataset:
        """Builds the data set of one window.

        Args:
            consented: The consenting customers' rows.
            catalogue: The public catalogue; the one that the rows were checked with.
            start_ms: Begin of the window, milliseconds since the epoch, inclusive.
            end_ms: End of the window, exclusive.
            max_rows_per_customer: Of a customer with more rows in the window, the latest are kept.

        Raises:
            InputError: The window or the cap is empty, or an item is not in the catalogue.
        """
        if not isinstance(consented, ConsentedTransactions):
            raise InputError(
                "A data set was asked of rows that have not passed the consent filter.",
                remedy="Pass what filter_consented returns.",
            )
        if start_ms >= end_ms or not 1 <= max_rows_per_customer <= _HIGHEST_CAP:
            raise InputError(
                f"The window [{start_ms}, {end_ms}) is empty, or the cap of "
                f"{max_rows_per_customer} rows is not in 1 to {_HIGHEST_CAP}.",
                remedy="Let the window begin before it ends, and keep at least one row.",
            )
        if consented.catalogue != catalogue.digest:
            raise InputError(
                "The consented rows are of items that are not in the catalogue: they were checked "
                "with another one.",
                remedy="Use the catalogue that the quality gate used.",
            )
        parts = [
            count_purchases(part, start_ms=start_ms, end_ms=end_ms, most_rows=max_rows_per_customer)
            for part in consented.parts()
        ]
        rows = assemble(parts)
        entries = rows.arrays
        return cls(
            sids=rows.sids,
            counts=CustomerItemMatrix(
                rows.indptr, entries["items"], entries["counts"], catalogue.n_items
            ),
            last_ms=entries["last_ms"],
            ages_weeks=entries["ages_weeks"],
            start_ms=start_ms,
            end_ms=end_ms,
            capped_customers=sum(part.capped_customers for part in parts),
            capped_rows=sum(part.capped_rows for part in parts),
        )
