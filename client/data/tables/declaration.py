"""``tables.toml``: where a region's further tables are and what their columns mean.

It lies beside ``source.toml``. Each of its tables is a canonical one (`client.data.tables.schema`)
and says how it is read in the same fields as ``source.toml``; columns that it does not name are
never read. A table that has its rows in several places, one for each channel say, is declared as
several, ``[[events]]``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from client.data.source_config import (
    ColumnName,
    FileReading,
    Reading,
    SqlReading,
    read_declaration,
)
from client.data.standards import standards_of
from client.data.tables.schema import KEYS, TABLES, TableSchema, closest_of, schema_of
from client.engine.home import RegionHome
from common.errors import InputError

FILE_NAME = "tables.toml"
_NO_MORE: Mapping[str, Collection[str]] = MappingProxyType({})
Code = Annotated[str, Field(min_length=1, max_length=128)]


class TableMeaning(BaseModel):
    """What the columns of a declared table mean.

    Attributes:
        columns: Canonical column → the table's column.
        codes: For columns of codes, the table's code → the canonical one. Of a column whose codes
            the schema leaves open, these are all there are, and public: questions name them.
        channel: Of which channel the customers' references are keys; without, they are the region's
            own references, as in its purchases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, ColumnName] = Field(min_length=1, max_length=64)
    codes: dict[str, dict[Code, Code]] = Field(default={}, max_length=64)
    channel: str | None = Field(default=None, min_length=1, max_length=64)


class FileTable(FileReading, TableMeaning):
    """A table in Parquet or CSV files."""

    kind: Literal["files"]


class SqlTable(SqlReading, TableMeaning):
    """A table or view of a SQL database."""

    kind: Literal["sql"]


class GradedTable(Reading, TableMeaning):
    """A table that the region keeps column by column; none of high grade is read of it.

    Attributes:
        table: Its name there (`fedpref-region access tables`).
    """

    kind: Literal["kept"]
    table: str = Field(min_length=1, max_length=256)

    @property
    def home(self) -> Path:
        """The home that keeps it: the declaration lies in the home's folder ``data``."""
        return self.base.parent


TableConfig: TypeAlias = FileTable | SqlTable | GradedTable
#: By canonical name, where a table's rows are: one place or several.
DeclaredTables: TypeAlias = Mapping[str, tuple[TableConfig, ...]]
_ADAPTER: TypeAdapter[FileTable | SqlTable | GradedTable] = TypeAdapter(
    Annotated[FileTable | SqlTable | GradedTable, Field(discriminator="kind")]
)


def declaration_file(home: RegionHome) -> Path:
    """Where a home declares its further tables."""
    return home.source.with_name(FILE_NAME)


def declared_tables(home: RegionHome) -> DeclaredTables:
    """The tables that a home declares, by name; none if it has no declaration.

    Raises:
        InputError: The declaration is malformed: names file, table and field.
    """
    path = declaration_file(home)
    if not path.exists():
        return MappingProxyType({})
    standards = standards_of(home).tables
    return load_tables(path, more={name: tuple(each.columns) for name, each in standards.items()})


def load_tables(path: Path, *, more: Mapping[str, Collection[str]] = _NO_MORE) -> DeclaredTables:
    """Reads a declaration of tables (TOML).

    Args:
        path: The file.
        more: By table, columns that may be mapped besides the canonical ones: what the region's
            data standards have, and nothing here reads.

    Raises:
        InputError: The file is missing, too long, not TOML, or a field is wrong: names the file,
            the table, the field and what to do.
    """
    return tables_from(read_declaration(path), path.parent, str(path), more=more)


def tables_from(
    values: Mapping[str, Any],
    base: Path,
    where: str,
    *,
    more: Mapping[str, Collection[str]] = _NO_MORE,
) -> DeclaredTables:
    """Reads declared tables.

    Args:
        values: By name, each table's declaration, or a list of them.
        base: The folder that relative paths start from.
        where: What the declaration is called in messages.
        more: As in `load_tables`.

    Raises:
        InputError: A table or field is unknown or wrong.
    """
    found: dict[str, tuple[TableConfig, ...]] = {}
    for name, value in values.items():
        schema = schema_of(name)
        places = value if isinstance(value, list) else [value]
        if not places:
            raise _wrong(where, name, "it is declared nowhere")
        known = (*schema.columns, *sorted(set(more.get(name, ())) - schema.columns.keys()))
        found[name] = tuple(_table_from(place, schema, known, base, where) for place in places)
    for name, configs in found.items():
        if KEYS not in found and any(each.channel is not None for each in configs):
            problem = f"there is no table {KEYS} that says whose the channel's keys are"
            raise _wrong(where, f"{name}.channel", problem)
    return MappingProxyType(found)


def _table_from(
    value: Any, schema: TableSchema, known: tuple[str, ...], base: Path, where: str
) -> TableConfig:
    if not isinstance(value, dict) or "base" in value:
        raise _wrong(where, schema.name, "it is no table of a declaration")
    try:
        config = _ADAPTER.validate_python({**value, "base": base})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = [str(part) for part in first["loc"] if part not in ("files", "sql", "kept")]
        problem = first["msg"].removeprefix("Value error, ")
        raise _wrong(where, ".".join([schema.name, *place]), problem) from error
    _check_columns(config, schema, known, where)
    _check_codes(config, schema, where)
    return config


def labels_of(configs: tuple[TableConfig, ...], column: str) -> tuple[str, ...]:
    """The canonical codes that a declaration lists for a column, public, sorted; perhaps none."""
    return tuple(sorted({code for each in configs for code in each.codes.get(column, {}).values()}))


def _check_columns(
    config: TableConfig, schema: TableSchema, known: tuple[str, ...], where: str
) -> None:
    for column in config.columns:
        if column not in known:
            raise _wrong(
                where,
                f"{schema.name}.columns.{column}",
                f"{schema.name} has no such column; it has {', '.join(known)}."
                f"{closest_of(column, known)}".rstrip("."),
            )
    for column, each in schema.columns.items():
        if each.required and column not in config.columns:
            raise _wrong(where, f"{schema.name}.columns.{column}", "it has to be mapped")
    used = list(config.columns.values())
    repeated = {column for column in used if used.count(column) > 1}
    if repeated:
        raise _wrong(
            where, f"{schema.name}.columns", f"the column {min(repeated)!r} is mapped twice"
        )
    if config.channel is not None and not schema.of_customers:
        raise _wrong(where, f"{schema.name}.channel", "its rows are not of a channel's customers")


def _check_codes(config: TableConfig, schema: TableSchema, where: str) -> None:
    for column, codes in config.codes.items():
        place = f"{schema.name}.codes.{column}"
        canonical = schema.columns.get(column)
        if column not in config.columns or (canonical is not None and canonical.holds != "code"):
            raise _wrong(where, place, "it is no mapped column of codes")
        known = () if canonical is None else canonical.codes
        unknown = sorted(set(codes.values()) - set(known)) if known else []
        if unknown:
            raise _wrong(where, place, f"{unknown[0]!r} is not one of {', '.join(known)}")


def _wrong(where: str, field: str, problem: str) -> InputError:
    return InputError(
        f"{where}: {field}: {problem}.",
        remedy="Correct the field; unknown tables and fields are refused. "
        f"There are the tables {', '.join(TABLES)}.",
    )
