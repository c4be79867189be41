"""Customers' own histories, held in memory for serving: each customer's rows and nobody else's.

They come out of the region's store through the quality gate and the consent filter, for those whose
consent for recommendations stood when they were read. Whether it stands still is asked at every
request (`client.recommend.consent_gate`), never here.

A customer is found by her whole pseudonym, 32 bytes; there is no way to come to a row by less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import (
    MAX_ROWS_PER_CUSTOMER,
    MS_PER_WEEK,
    CustomerItemMatrix,
    PreferenceDataset,
)
from client.data.transactions import CheckedTransactions
from client.recommend.settings import HistorySettings
from common.catalogue import Catalogue
from common.plan import RunPlan
from common.timestamps import parse_time

_SID_BYTES = 32
_PREFIX_DIGITS = 16

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HistoryWindow:
    """Which purchases count: [start_ms, end_ms), milliseconds since the epoch. Public."""

    start_ms: int
    end_ms: int

    @classmethod
    def of(cls, settings: HistorySettings, plan: RunPlan, *, now_ms: int) -> HistoryWindow:
        """The window that the settings ask for.

        Args:
            settings: How long it is, and where it ends.
            plan: The plan of the model that is served.
            now_ms: The time.
        """
        if settings.until == "now":
            # The present millisecond's purchases are in it.
            end_ms = now_ms + 1
        elif settings.until == "model":
            end_ms = parse_time(plan.train_until)
        else:
            end_ms = parse_time(settings.until)
        return cls(max(0, end_ms - settings.weeks * MS_PER_WEEK), end_ms)


@dataclass(frozen=True, eq=False)
class Histories:
    """The histories of all customers who consented, in one window; immutable.

    Attributes:
        window: The window.
        consent_size: The size of the consent log that the customers were chosen at.
        n_items: The number of items of the catalogue.
    """

    window: HistoryWindow
    consent_size: int
    n_items: int
    _prefixes: npt.NDArray[np.uint64] = field(repr=False)
    _sids: npt.NDArray[np.uint8] = field(repr=False)
    _counts: CustomerItemMatrix = field(repr=False)
    _last_ms: LongArray = field(repr=False)
    _ages_weeks: npt.NDArray[np.float32] = field(repr=False)
    _first_purchase: LongArray = field(repr=False)

    @classmethod
    def of(cls, dataset: PreferenceDataset, *, consent_size: int) -> Histories:
        """Takes over a data set's arrays; its pseudonyms are kept in 40 bytes each."""
        sids = np.frombuffer(bytes.fromhex("".join(dataset.sids)), dtype=np.uint8)
        sids = sids.reshape(dataset.n_customers, _SID_BYTES)
        prefixes = sids[:, :8].copy().view(">u8").reshape(-1).astype(np.uint64)
        ends = np.concatenate([[0], np.cumsum(dataset.counts.values, dtype=np.float64)])
        return cls(
            window=HistoryWindow(dataset.start_ms, dataset.end_ms),
            consent_size=consent_size,
            n_items=dataset.n_items,
            _prefixes=prefixes,
            _sids=sids,
            _counts=dataset.counts,
            _last_ms=dataset.last_ms,
            _ages_weeks=dataset.ages_weeks,
            _first_purchase=ends[dataset.indptr].astype(np.int64),
        )

    @classmethod
    def none(cls, window: HistoryWindow, n_items: int, *, consent_size: int = 0) -> Histories:
        """No customer's history: of a region whose store has nothing yet."""
        return cls.of(_dataset((), n_items, window), consent_size=consent_size)

    @property
    def n_customers(self) -> int:
        """The number of customers with a purchase in the window."""
        return len(self._prefixes)

    @property
    def nbytes(self) -> int:
        """How many bytes of memory they take."""
        arrays = (
            self._prefixes,
            self._sids,
            self._counts.indptr,
            self._counts.indices,
            self._counts.values,
            self._last_ms,
            self._ages_weeks,
            self._first_purchase,
        )
        return sum(array.nbytes for array in arrays)

    def first_sids(self, most: int) -> list[str]:
        """The pseudonyms of the first customers; their order tells nothing."""
        return [sid.tobytes().hex() for sid in self._sids[:most]]

    def row(self, sid: str) -> PreferenceDataset:
        """One customer's history as a data set of one row, or of none; views, not copies.

        Args:
            sid: Her pseudonym, 64 hex digits.
        """
        place = self._place(sid)
        if place is None:
            return _dataset((), self.n_items, self.window)
        return self.part(place, place + 1)

    def part(self, start: int, stop: int) -> PreferenceDataset:
        """The histories of the customers from place `start` up to `stop`; views, not copies.

        For batches, which ask the consent log about each of them. The places' order tells nothing.
        """
        bounds = self._counts.indptr[start : stop + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        purchases = slice(int(self._first_purchase[start]), int(self._first_purchase[stop]))
        return PreferenceDataset(
            sids=tuple(sid.tobytes().hex() for sid in self._sids[start:stop]),
            counts=self._counts.rows(start, stop),
            last_ms=self._last_ms[entries],
            ages_weeks=self._ages_weeks[purchases],
            start_ms=self.window.start_ms,
            end_ms=self.window.end_ms,
        )

    def rows(self, sids: Sequence[str]) -> PreferenceDataset:
        """The histories of several customers, one row each, in the order given.

        A customer without a history has an empty row.
        """
        parts = [self.row(sid) for sid in sids]
        known = [part for part in parts if part.n_customers]
        sizes = [len(part.indices) for part in parts]
        if not known:
            return _dataset(tuple(sids), self.n_items, self.window)
        return PreferenceDataset(
            sids=tuple(sids),
            counts=CustomerItemMatrix(
                np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                np.concatenate([part.indices for part in known]),
                np.concatenate([part.counts.values for part in known]),
                self.n_items,
            ),
            last_ms=np.concatenate([part.last_ms for part in known]),
            ages_weeks=np.concatenate([part.ages_weeks for part in known]),
            start_ms=self.window.start_ms,
            end_ms=self.window.end_ms,
        )

    def _place(self, sid: str) -> int | None:
        wanted = np.frombuffer(bytes.fromhex(sid), dtype=np.uint8)
        prefix = np.uint64(int(sid[:_PREFIX_DIGITS], 16))
        place = int(np.searchsorted(self._prefixes, prefix))
        while place < len(self._prefixes) and self._prefixes[place] == prefix:
            # The whole pseudonym decides: another customer's may begin alike.
            if np.array_equal(self._sids[place], wanted):
                return place
            place += 1
        return None


def load_histories(
    checked: CheckedTransactions,
    eligible: EligibleCustomers,
    catalogue: Catalogue,
    window: HistoryWindow,
) -> Histories:
    """Reads the histories of those whose consent stands.

    Args:
        checked: The store's rows that passed the quality gate.
        eligible: The customers, by a replay of the consent log.
        catalogue: The region's catalogue.
        window: Which purchases count.

    Raises:
        ConsentError: Nobody consents.
        InputError: The rows are of another catalogue, or the window is empty.
    """
    dataset = PreferenceDataset.from_consented(
        filter_consented(checked, eligible),
        catalogue,
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        max_rows_per_customer=MAX_ROWS_PER_CUSTOMER,
    )
    return Histories.of(dataset, consent_size=eligible.consent_size)


def with_purchases(row: PreferenceDataset, sid: str, items: Sequence[int]) -> PreferenceDataset:
    """A customer's history with purchases of this moment, which the store does not have yet.

    They count as if they had been made at the end of the window.

    Args:
        row: Her history, of one row or none.
        sid: Her pseudonym.
        items: Numbers of the items bought; one may be there several times.
    """
    if not items:
        return row
    bought = np.asarray(items, dtype=np.int32)
    counts = row.counts.values.astype(np.int64)
    owners = np.concatenate([np.repeat(row.indices, counts), bought])
    ages = np.concatenate([row.ages_weeks, np.zeros(len(bought), dtype=np.float32)])
    last_ms = np.concatenate([row.last_ms, np.full(len(bought), row.end_ms, dtype=np.int64)])
    # Of an item in both, the later one comes last and stands.
    latest = dict(zip([*row.indices.tolist(), *bought.tolist()], last_ms.tolist(), strict=True))
    order = np.argsort(owners, kind="stable")
    entries, sizes = np.unique(owners, return_counts=True)
    return PreferenceDataset(
        sids=(sid,),
        counts=CustomerItemMatrix(
            np.array([0, len(entries)], dtype=np.int64),
            entries.astype(np.int32),
            sizes.astype(np.float32),
            row.n_items,
        ),
        last_ms=np.array([latest[item] for item in entries.tolist()], dtype=np.int64),
        ages_weeks=ages[order],
        start_ms=row.start_ms,
        end_ms=row.end_ms,
    )


def _dataset(sids: tuple[str, ...], n_items: int, window: HistoryWindow) -> PreferenceDataset:
    """Customers without a purchase."""
    return PreferenceDataset(
        sids=sids,
        counts=CustomerItemMatrix(
            np.zeros(len(sids) + 1, dtype=np.int64),
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.float32),
            n_items,
        ),
        last_ms=np.zeros(0, dtype=np.int64),
        ages_weeks=np.zeros(0, dtype=np.float32),
        start_ms=window.start_ms,
        end_ms=window.end_ms,
    )
