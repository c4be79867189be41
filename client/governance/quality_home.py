"""What governs a region's tables: its standards, its catalogue, and what it undid of treatment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from client.data.source_config import Reading
from client.data.standards import Standards, standards_of
from client.data.store_units import UNKNOWN
from client.engine.home import RegionHome
from client.governance.quality_files import QualityFiles
from client.governance.quality_rows import RowTreatment, Surroundings
from common.catalogue import UNLABELLED, Catalogue
from common.errors import InputError
from common.timestamps import now_ms


@dataclass(frozen=True)
class Governance:
    """The rules that a region's tables are read under.

    Attributes:
        region: The region.
        standards: What its data are.
        around: What else rows are judged by.
        kinds: By table, what its columns hold, as it was last accepted.
    """

    region: str
    standards: Standards
    around: Surroundings
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, home: RegionHome, *, clock_ms: Callable[[], int] = now_ms) -> Governance:
        """The rules of a home.

        Args:
            home: The home.
            clock_ms: A test's own clock, milliseconds since the epoch.

        Raises:
            InputError: Standards, catalogue or decisions cannot be read.
        """
        standards = standards_of(home)
        known, lookups = dict[str, frozenset[str]](), dict[str, dict[str, str]]()
        if home.catalogue.exists():
            catalogue = Catalogue.load(home.catalogue)
            known["catalogue.item"] = frozenset(catalogue.items) | catalogue.excluded
            lookups["catalogue.category"] = _labels(catalogue)
        files = QualityFiles(home)
        around = Surroundings(clock_ms, standards.missing, known, lookups, files.undone())
        return cls(home.region, standards, around, files.kinds())

    def treatment(self, table: str, reading: Reading) -> RowTreatment | None:
        """The treatment of a table's rows; None for a table without a standard.

        Args:
            table: The table.
            reading: How its times are written.
        """
        standard = self.standards.tables.get(table)
        if standard is None:
            return None
        return RowTreatment(table, standard, reading, self.around)

    def changed_kinds(self, table: str, columns: Mapping[str, str]) -> list[str]:
        """What a table's columns hold now, and did not when that was last accepted.

        A column that held text and holds numbers could be read all the same, and would mean
        something else.

        Args:
            table: The table.
            columns: What its columns hold, by name.
        """
        before = self.kinds.get(table, {})
        return [
            f"the column {name} held {before[name]} and holds {kind}"
            for name, kind in columns.items()
            if UNKNOWN not in (kind, before.get(name, UNKNOWN)) and before[name] != kind
        ]

    def require_kinds(self, table: str, columns: Mapping[str, str]) -> None:
        """Requires that a table's columns hold what they held when that was last accepted.

        Args:
            table: The table.
            columns: What its columns hold, by name.

        Raises:
            InputError: One holds something else: names it.
        """
        changed = self.changed_kinds(table, columns)
        if changed:
            raise InputError(
                f"{self.region}: the table {table} is not what it was: {'; '.join(changed)}.",
                remedy="Have it written as before. If the change is meant: fedpref-region quality "
                "report HOME --accept.",
            )


def _labels(catalogue: Catalogue) -> dict[str, str]:
    """Each item's category, of those that have one."""
    names = catalogue.category_names
    return {
        item: names[label]
        for item, label in zip(catalogue.items, catalogue.category.tolist(), strict=True)
        if names[label] != UNLABELLED
    }
