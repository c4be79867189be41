"""A region's data standards: one file that says what its data are, for everyone who uses them.

Types, ranges, lists of codes, definitions of terms, and how sensitive each column is. The contracts
that data are checked by are made from it (`client.data.standards_contract`), and so is what
treatment may change (`client.governance.quality_treatment`). A region that has no file of its own
works by `standards.toml` beside this module, which explains every field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.data.standards_fields import (
    CodeList,
    ColumnStandard,
    Definition,
    Grade,
    Name,
    Share,
    TableStandard,
    with_codes,
)
from client.engine.home import RegionHome
from common.errors import InputError
from common.toml_file import read_toml

__all__ = [
    "DEFAULT_FILE",
    "ColumnStandard",
    "Definition",
    "Grade",
    "Standards",
    "TableStandard",
    "load_standards",
    "standards_of",
]

#: The standards of a region that has none of its own; the example to begin with.
DEFAULT_FILE = Path(__file__).with_name("standards.toml")
FILE_NAME = "standards.toml"
MAX_STANDARDS_BYTES = 1 << 20
_VERSION = "fedpref-standards/1"


class Standards(BaseModel):
    """A region's data standards.

    Attributes:
        version: The format of the file.
        threshold: The least share of a table's rows that must be right.
        missing: Texts that stand for a missing value, besides none at all.
        codes: Lists of codes that columns name.
        tables: What each table is, by its canonical name.
        definitions: Terms, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(pattern=f"^{_VERSION}$")
    threshold: Share = 0.98
    missing: tuple[str, ...] = ()
    codes: Mapping[Name, CodeList] = {}
    tables: Mapping[Name, TableStandard] = Field(min_length=1, max_length=64)
    definitions: Mapping[Name, Definition] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_codes(cls, values: Any) -> Any:
        """Puts the lists that columns name in the place of their names."""
        if not isinstance(values, dict) or not isinstance(values.get("tables"), dict):
            return values  # Their own check names what is wrong.
        stated = values.get("codes", {})
        lists = {
            name: CodeList.model_validate(each)
            for name, each in (stated.items() if isinstance(stated, dict) else ())
        }
        tables = {name: _with_codes(table, lists) for name, table in values["tables"].items()}
        return {**values, "tables": tables}

    @model_validator(mode="after")
    def _definitions_name_columns(self) -> Self:
        for name, each in self.definitions.items():
            table = self.tables.get(each.table)
            if table is None:
                raise ValueError(f"the definition {name} names no table: {each.table!r}")
            needed = {"customer", "time", *each.where, *({each.count} - {"rows", "days"})}
            unknown = needed - table.columns.keys()
            if unknown:
                raise ValueError(
                    f"the definition {name} needs a column {min(unknown)!r} of {each.table}"
                )
        return self

    def table(self, name: str) -> TableStandard:
        """The standard of a table.

        Raises:
            InputError: There is none: lists what there is.
        """
        found = self.tables.get(name)
        if found is None:
            raise InputError(
                f"There is no data standard for a table {name!r}; there is one for "
                f"{', '.join(self.tables)}.",
                remedy="Add a table to standards.toml, or declare the store's table as one of "
                "these.",
            )
        return found

    def threshold_of(self, name: str) -> float:
        """The least share of a table's rows that must be right."""
        own = self.table(name).threshold
        return self.threshold if own is None else own

    @property
    def digest(self) -> str:
        """What tells these standards from others: SHA-256 over all they say."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()


def _with_codes(table: Any, lists: Mapping[str, CodeList]) -> Any:
    columns = table.get("columns") if isinstance(table, dict) else None
    if not isinstance(columns, dict):
        return table
    return {**table, "columns": {name: with_codes(each, lists) for name, each in columns.items()}}


def load_standards(path: Path | None = None) -> Standards:
    """Reads data standards (TOML).

    Args:
        path: The file; None for those that come with the program.

    Raises:
        InputError: The file is missing, too long, not TOML, or a field is wrong: names file, field
            and what to do.
    """
    file = DEFAULT_FILE if path is None else path
    try:
        return Standards.model_validate(_read(file))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise InputError(
            f"The data standards {file}: {place}: {first['msg'].removeprefix('Value error, ')}.",
            remedy="Correct the field; unknown fields are refused.",
        ) from error


def standards_of(home: RegionHome) -> Standards:
    """A region's data standards: its own, or those that come with the program.

    Raises:
        InputError: Its own cannot be read, or are wrong.
    """
    return standards_beside(home.source)


def standards_beside(source: Path) -> Standards:
    """The data standards beside the declaration of a store, or those of the program.

    Raises:
        InputError: They cannot be read, or are wrong.
    """
    own = source.with_name(FILE_NAME)
    return load_standards(own if own.exists() else None)


def standards_file(home: RegionHome) -> Path:
    """Where a region's own standards lie, if it has any."""
    return home.source.with_name(FILE_NAME)


def _read(path: Path) -> dict[str, Any]:
    return read_toml(
        path,
        "The data standards",
        max_bytes=MAX_STANDARDS_BYTES,
        remedy="Write them, beginning with those that come with the program: fedpref-region "
        "quality standards.",
    )
