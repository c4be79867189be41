"""Items and customers in the form that lists are made from, and what the lists are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

#: At most so many tables of tilts.
MOST_TILTS = 3


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items in the order of their reach, the farthest first; made by `of`.

    Attributes:
        factors: float32[m, d].
        weights: float64[m], not below 0.
        numbers: int32[m], what the caller calls each item; ties go to the smaller.
        places: int32[largest number + 1], where each number is in these arrays; −1 for none.
        reach: float64[m], weight times norm of the factors, descending.
        codes: For each table of tilts int32[m], the item's code.
        positive: Whether scores of 0 and below count for nothing: such an item is never listed.
    """

    factors: Float32Array = field(repr=False)
    weights: FloatArray = field(repr=False)
    numbers: Int32Array = field(repr=False)
    places: Int32Array = field(repr=False)
    reach: FloatArray = field(repr=False)
    codes: tuple[Int32Array, ...] = field(repr=False)
    positive: bool

    @classmethod
    def of(
        cls,
        factors: Float32Array,
        numbers: npt.NDArray[np.integer],
        *,
        weights: npt.NDArray[np.floating] | None = None,
        codes: Sequence[npt.NDArray[np.integer]] = (),
        positive: bool = False,
    ) -> ItemTable:
        """Puts items into order.

        Args:
            factors: float32[m, d].
            numbers: Distinct, not below 0.
            weights: Not below 0; 1 by default.
            codes: For each table of tilts every item's code, not below 0.
            positive: See the attribute; required where there are tilts.

        Raises:
            InputError: A value is not finite, a weight or a number is below 0, or a number is
                there twice.
        """
        weighed = np.ones(len(factors)) if weights is None else weights.astype(np.float64)
        if not (np.isfinite(factors).all() and np.isfinite(weighed).all() and (weighed >= 0).all()):
            raise InputError(
                "An item's factors or weight are not finite, or the weight is below 0."
            )
        if len(np.unique(numbers)) != len(numbers) or (len(numbers) and int(numbers.min()) < 0):
            raise InputError("The items' numbers are not distinct, or below 0.")
        if len(codes) > MOST_TILTS or (codes and not positive):
            raise InputError("There are tilts for positive scores only, and three of them at most.")
        reach = np.linalg.norm(factors.astype(np.float64), axis=1) * weighed
        order = np.lexsort((numbers, -reach))
        placed = numbers[order].astype(np.int32)
        places = np.full(int(placed.max()) + 1 if len(placed) else 0, -1, dtype=np.int32)
        places[placed] = np.arange(len(placed), dtype=np.int32)
        return cls(
            np.ascontiguousarray(factors[order], dtype=np.float32),
            weighed[order],
            placed,
            places,
            reach[order],
            tuple(np.ascontiguousarray(each[order], dtype=np.int32) for each in codes),
            positive,
        )

    @property
    def n_items(self) -> int:
        """How many items."""
        return len(self.factors)

    @property
    def rank(self) -> int:
        """How many factors."""
        return int(self.factors.shape[1])


@dataclass(frozen=True, eq=False)
class Tilt:
    """By what each customer's scores of items with a code are multiplied; not below 0.

    Attributes:
        usual: float64[n], for all codes that are not named.
        indptr: int64[n + 1]; customer u has the entries indptr[u] to indptr[u + 1].
        codes: int32[n_entries], ascending for each customer.
        values: float64[n_entries].
        n_codes: How many codes there are.
    """

    usual: FloatArray = field(repr=False)
    indptr: IntArray = field(repr=False)
    codes: Int32Array = field(repr=False)
    values: FloatArray = field(repr=False)
    n_codes: int

    def at(self, customers: IntArray, codes: npt.NDArray[np.integer]) -> FloatArray:
        """The tilts of pairs of a customer and a code, of equal shape."""
        found = self.usual[customers]
        if not len(self.codes):
            return found
        keys = self._owners() * self.n_codes + self.codes
        wanted = customers * self.n_codes + codes
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[places] == wanted, self.values[places], found)

    def table(self) -> FloatArray:
        """float64[n, n_codes]: every tilt."""
        table = np.tile(self.usual[:, None], (1, self.n_codes))
        table[self._owners(), self.codes] = self.values
        return table

    def largest(self) -> FloatArray:
        """float64[n]: each customer's largest."""
        most = self.usual.copy()
        np.maximum.at(most, self._owners(), self.values)
        return most

    def rows(self, start: int, stop: int) -> Tilt:
        """The customers from `start` up to `stop`."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return Tilt(
            self.usual[start:stop],
            self.indptr[start : stop + 1] - first,
            self.codes[first:last],
            self.values[first:last],
            self.n_codes,
        )

    def _owners(self) -> IntArray:
        return np.repeat(np.arange(len(self.usual)), np.diff(self.indptr))


@dataclass(frozen=True, eq=False)
class Customers:
    """Whose lists are wanted.

    Attributes:
        hidden: float64[n, d], each customer's vector.
        excluded_indptr: int64[n + 1], bounds of each customer's `excluded`.
        excluded: int32[n_entries], numbers of items that she is not to be listed, ascending; they
            need not be in the table.
        tilts: One for each of the table's `codes`.
    """

    hidden: FloatArray = field(repr=False)
    excluded_indptr: IntArray = field(repr=False)
    excluded: Int32Array = field(repr=False)
    tilts: tuple[Tilt, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, hidden: npt.NDArray[np.floating]) -> Customers:
        """Customers with nothing but a vector."""
        bounds = np.zeros(len(hidden) + 1, dtype=np.int64)
        return cls(hidden.astype(np.float64), bounds, np.empty(0, dtype=np.int32))

    @property
    def n_customers(self) -> int:
        """How many customers."""
        return len(self.hidden)

    @property
    def lengths(self) -> FloatArray:
        """float64[n]: the most that a customer's score can be of an item whose reach is 1."""
        most: FloatArray = np.linalg.norm(self.hidden, axis=1)
        for tilt in self.tilts:
            most = most * tilt.largest()
        return most

    def rows(self, start: int, stop: int) -> Customers:
        """The customers from `start` up to `stop`."""
        first, last = int(self.excluded_indptr[start]), int(self.excluded_indptr[stop])
        return Customers(
            self.hidden[start:stop],
            self.excluded_indptr[start : stop + 1] - first,
            self.excluded[first:last],
            tuple(tilt.rows(start, stop) for tilt in self.tilts),
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may be among each customer's best: the k highest scores in single precision.

    Attributes:
        numbers: int32[n, k], the best first, `NO_ITEM` behind the last.
        scores: float32[n, k].
        products: float64[n, k]: customer times item, summed in the order of the factors.
        counts: int32[n], how many there are.
    """

    numbers: Int32Array
    scores: Float32Array
    products: FloatArray
    counts: Int32Array

    @classmethod
    def none(cls, n_customers: int) -> Candidates:
        """No candidates for anybody."""
        empty = np.empty((n_customers, 0))
        return cls(
            empty.astype(np.int32),
            empty.astype(np.float32),
            empty,
            np.zeros(n_customers, dtype=np.int32),
        )


@dataclass(frozen=True, eq=False)
class Ranked:
    """Lists.

    Attributes:
        numbers: int64[n, k], the best first, `NO_ITEM` where items run out.
        scores: float64[n, k], −∞ there.
    """

    numbers: IntArray
    scores: FloatArray


class Chooser(Protocol):
    """Chooses candidates."""

    def __call__(
        self, items: ItemTable, customers: Customers, k: int, *, threads: int = 1
    ) -> Candidates:
        """The k highest scores of each customer, in single precision.

        Args:
            items: The items.
            customers: The customers.
            k: How many, from 1 to the number of items.
            threads: How many at most.
        """
