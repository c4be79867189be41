"""The region's further tables for what is asked of them: read when asked, behind the same gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from client.data.consent_filter import EligibleCustomers
from client.data.tables.declaration import declared_tables
from client.data.tables.reading import read_tables
from client.data.tables.rows import TableCounts
from client.data.tables.schema import EXPOSURES
from client.engine.home import RegionHome
from client.engine.shown_lists import shown_lists
from common.errors import QualityGateError

_REASONS_SHOWN = 3


@dataclass(frozen=True, eq=False)
class _Kept:
    rows: pa.Table = field(repr=False)
    due_s: float


class KeptTables:
    """What was read of the further tables, for as long as their declarations say.

    It lies in memory only: nothing of it outlasts the process, or an erasure's next look.

    Args:
        home: The region's home.
        threshold: The least share of a table's rows that must be right.
        clock_s: A test's own clock, in seconds.
    """

    def __init__(
        self, home: RegionHome, threshold: float, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._threshold = threshold
        self._clock_s = clock_s
        self._kept: dict[str, _Kept] = {}

    def rows(self, names: Sequence[str], eligible: EligibleCustomers) -> Mapping[str, pa.Table]:
        """The rows of some tables, of all customers: only the consent filter may be given them.

        Exposures that are not declared are the recommender's own (`client.engine.shown_lists`).

        Args:
            names: The tables.
            eligible: The customers whose consent is in force.

        Raises:
            QualityGateError: Too few of a table's rows are right: names the most frequent reasons.
            InputError: A table is not declared or cannot be read.
            StorageError: The recommender's log cannot be read.
        """
        found = {}
        for name in names:
            if name == EXPOSURES and name not in declared_tables(self._home):
                found[name] = shown_lists(self._home, eligible)
            else:
                found[name] = self._rows(name)
        return found

    def _rows(self, name: str) -> pa.Table:
        known = self._kept.get(name)
        if known is not None and self._clock_s() < known.due_s:
            return known.rows
        # Whatever fails, it is read again next time.
        self._kept.pop(name, None)
        tables = read_tables(self._home)
        found = tables.read(name)
        self._require_right(name, found.counts)
        self._require_usable(name, found.problems)
        refresh_after_s = min(each.config.refresh_after_s for each in tables.places(name))
        self._kept[name] = _Kept(found.rows, self._clock_s() + refresh_after_s)
        return found.rows

    def _require_right(self, name: str, counts: TableCounts) -> None:
        if counts.score >= self._threshold:
            return
        frequent = sorted(counts.reasons.items(), key=lambda each: (-each[1], each[0]))
        shown = ", ".join(f"{reason} {count}" for reason, count in frequent[:_REASONS_SHOWN])
        known = counts.read - counts.unmatched
        raise QualityGateError(
            f"{self._home.region}: of the table {name} {known - counts.accepted} of {known} rows "
            f"are wrong ({shown}); the threshold is {self._threshold:.2%}. Nothing is asked of it.",
            remedy="Correct the table or its declaration (fedpref-region tables check); then ask "
            "again.",
        )

    def _require_usable(self, name: str, problems: Sequence[str]) -> None:
        if problems:
            raise QualityGateError(
                f"{self._home.region}: the data standards let nobody use the table {name}: "
                f"{'; '.join(problems)}. Nothing is asked of it.",
                remedy="Correct the table or the standards (fedpref-region quality report); then "
                "ask again.",
            )
