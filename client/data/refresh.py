"""Brings the kept rows up to date with the store: what is new is read, what is gone is given up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from client.data.prepared_rows import Intake, PreparedRows
from client.data.row_checks import RowChecks
from client.data.store_units import Changes, StoreUnit, TransactionSource, merge_kinds

_logger = logging.getLogger("fedpref.engine")


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        units_read: How many units were read.
        rows_read: How many rows they have.
        units_gone: How many units were given up without being read again.
    """

    units_read: int = 0
    rows_read: int = 0
    units_gone: int = 0

    def __bool__(self) -> bool:
        return bool(self.units_read or self.units_gone)


@dataclass(frozen=True)
class Refresh:
    """How a store's rows come to be kept.

    Attributes:
        source: The store.
        names: The store's names of the mapped columns, by canonical name.
        checks: The checks of single rows.
        kept: The rows.
    """

    source: TransactionSource
    names: Mapping[str, str]
    checks: RowChecks
    kept: PreparedRows

    def run(self, now_ms: int) -> Refreshed:
        """Takes up what is new; to be called within `PreparedRows.exclusive`.

        Whatever fails, the kept rows are as they were before.

        Args:
            now_ms: The time, in milliseconds since the epoch.

        Raises:
            InputError: The store cannot be read, or a column holds something else than before.
            StorageError: The disk refuses.
        """
        changes = self.source.changes(self.kept.manifest.by_name, now_ms)
        if not changes:
            return Refreshed()
        with self.kept.intake() as intake:
            rows_read = sum(self._take(unit, intake) for unit in changes.fresh)
            intake.commit(changes.gone)
        done = Refreshed(len(changes.fresh), rows_read, len(_not_read_again(changes)))
        _logger.info(
            "The store was looked at: %d rows of %d new or changed units read, %d units given up",
            done.rows_read,
            done.units_read,
            done.units_gone,
        )
        return done

    def _take(self, unit: StoreUnit, intake: Intake) -> int:
        intake.kinds = merge_kinds(intake.kinds, self.source.kinds(unit), self.names, unit.name)
        number, rows_read = intake.begin(unit), 0
        for batch in self.source.batches(unit):
            block, counts = self.checks.examine(batch, number)
            intake.add(block, counts)
            rows_read += counts.read
        return rows_read


def _not_read_again(changes: Changes) -> frozenset[str]:
    return changes.gone - {unit.name for unit in changes.fresh}
