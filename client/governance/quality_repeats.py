"""What takes several rows to judge: repeats, contradictions, and customers with too many rows.

A key includes the customer wherever there is one (`TableStandard`), so no row goes because of
another customer's. What stays does not depend on the order of rows or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
LongArray = npt.NDArray[np.int64]
DigestArray = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class RowFacts:
    """Of each row what tells it from others; 42 bytes a row.

    Attributes:
        ids: uint64[n], a digest of all that it says.
        keys: uint64[n], a digest of what tells rows apart.
        customers: uint64[n], a digest of whose it is; 0 where that is not known.
        times: int64[n], milliseconds since the epoch, the lowest int64 where there is none.
        newest: int64[n], of two rows with one key the greater one stays.
        filled: uint8[n], how many columns have a value.
        passed: bool[n], whether it keeps the contract.
    """

    ids: DigestArray = field(repr=False)
    keys: DigestArray = field(repr=False)
    customers: DigestArray = field(repr=False)
    times: LongArray = field(repr=False)
    newest: LongArray = field(repr=False)
    filled: ByteArray = field(repr=False)
    passed: BoolArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


def joined(parts: Sequence[RowFacts]) -> RowFacts:
    """All rows in one."""
    none = _NO_ROWS
    return RowFacts(
        ids=np.concatenate([none.ids, *(each.ids for each in parts)]),
        keys=np.concatenate([none.keys, *(each.keys for each in parts)]),
        customers=np.concatenate([none.customers, *(each.customers for each in parts)]),
        times=np.concatenate([none.times, *(each.times for each in parts)]),
        newest=np.concatenate([none.newest, *(each.newest for each in parts)]),
        filled=np.concatenate([none.filled, *(each.filled for each in parts)]),
        passed=np.concatenate([none.passed, *(each.passed for each in parts)]),
    )


def repeats(facts: RowFacts) -> tuple[BoolArray, BoolArray]:
    """Of rows with one key, all but the one that stays.

    It is one that keeps the contract, if there is any; then the newest, then the one with most
    values, then the one with the least digest.

    Returns:
        bool[n], the rows that say the same as the one that stays; bool[n], those that say something
        else under the same key.
    """
    repeated, replaced = np.zeros(len(facts), dtype=bool), np.zeros(len(facts), dtype=bool)
    several = _with_a_key_of_several(facts.keys)
    if not len(several):
        return repeated, replaced
    # Best first; `~` turns the order of whole numbers about without leaving their range.
    best = (
        facts.ids[several],
        ~facts.filled[several],
        ~facts.newest[several],
        ~facts.passed[several],
        facts.keys[several],
    )
    order = several[np.lexsort(best)]
    ordered = facts.keys[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    stays = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    alike = facts.ids[order] == facts.ids[stays]
    repeated[order] = ~begins & alike
    replaced[order] = ~begins & ~alike
    return repeated, replaced


def _with_a_key_of_several(keys: DigestArray) -> LongArray:
    """The rows whose key another row has too; most tables have few."""
    order = np.argsort(keys)
    same = keys[order][1:] == keys[order][:-1]
    found: LongArray = (
        order[np.append(False, same) | np.append(same, False)] if len(keys) else order
    )
    return found


def rows_beyond(facts: RowFacts, counted: BoolArray, most: int) -> tuple[BoolArray, int]:
    """The oldest rows of customers with more rows than may count.

    Args:
        facts: The rows.
        counted: bool[n], which of them count so far.
        most: So many of a customer's may.

    Returns:
        bool[n], the rows beyond; and how many customers have such.
    """
    beyond = np.zeros(len(facts), dtype=bool)
    rows = np.flatnonzero(counted & (facts.customers != 0))
    whose, _ = pd.factorize(facts.customers[rows])
    counts = np.bincount(whose)
    if int(counts.max(initial=0)) <= most:
        return beyond, 0
    many = rows[counts[whose] > most]
    order = many[np.lexsort((facts.ids[many], ~facts.times[many], facts.customers[many]))]
    ordered = facts.customers[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    beyond[order[rank >= most]] = True
    return beyond, int((counts > most).sum())


_NO_ROWS = RowFacts(
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.uint8),
    np.zeros(0, dtype=np.bool_),
)
