"""Further tables as files in a folder, declared and read, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.data.tables.declaration import tables_from
from client.data.tables.reading import RegionTables
from client.data.tables.schema import TABLES

#: 2024-06-01, by which every moment of the tests' rows is past.
NOW_MS = 1_717_200_000_000


def declared(name: str, columns: Sequence[str], **more: Any) -> dict[str, Any]:
    """A table in the file of its name, whose columns are called as the canonical ones."""
    return {
        "kind": "files",
        "path": f"{name}.csv",
        "columns": {column: column for column in columns},
        **more,
    }


def required(name: str) -> tuple[str, ...]:
    """The columns that a row of a table cannot do without."""
    return tuple(column for column, each in TABLES[name].columns.items() if each.required)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a file with a header."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class TableFolder:
    """A folder of CSV files that are a region's further tables.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._declared: dict[str, Any] = {}

    def put(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], **more: Any
    ) -> None:
        """Declares a table and writes its rows."""
        write_csv(self.folder / f"{name}.csv", columns, rows)
        self._declared[name] = declared(name, columns, **more)

    def declare(self, name: str, value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
        """Declares a table whose rows are written otherwise."""
        self._declared[name] = value

    def tables(self, clock_ms: Callable[[], int] = lambda: NOW_MS) -> RegionTables:
        """The tables, held to their schema alone."""
        return RegionTables(tables_from(self._declared, self.folder, "tables"), clock_ms=clock_ms)
