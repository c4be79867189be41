"""What governs a region's tables: its standards, its catalogue, and what it undid of treatment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.data.source_config import Reading
from client.data.standards import Standards, standards_of
from client.engine.home import RegionHome
from client.governance.quality_files import QualityFiles
from client.governance.quality_rows import RowTreatment, Surroundings
from common.catalogue import UNLABELLED, Catalogue
from common.timestamps import now_ms


@dataclass(frozen=True)
class Governance:
    """The rules that a region's tables are read under.

    Attributes:
        region: The region.
        standards: What its data are.
        around: What else rows are judged by.
    """

    region: str
    standards: Standards
    around: Surroundings

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
        around = Surroundings(
            clock_ms, standards.missing, known, lookups, QualityFiles(home).undone()
        )
        return cls(home.region, standards, around)

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


def _labels(catalogue: Catalogue) -> dict[str, str]:
    """Each item's category, of those that have one."""
    names = catalogue.category_names
    return {
        item: names[label]
        for item, label in zip(catalogue.items, catalogue.category.tolist(), strict=True)
        if names[label] != UNLABELLED
    }
