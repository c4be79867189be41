"""Mapping files of an evaluation: the declaration of a store, and what is public about its data.

A mapping file is a region's ``source.toml``. A table ``[evaluation]`` may say more; everything in
it has a default, so that a region's own declaration will do as it is.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.data.source_config import (
    ColumnName,
    FileSourceConfig,
    SqlSourceConfig,
    called,
    read_declaration,
    source_from_table,
)
from common.catalogue import BRAND, LEVELS, Catalogue
from common.errors import InputError
from common.validate import PARTY

TABLE = "evaluation"
DEFAULT_REGIONS = 5
_LEVELS = (*LEVELS, BRAND)
_ENCODINGS = {"utf-8": "utf-8-sig", "latin-1": "latin-1", "utf-16": "utf-16"}


class CatalogueTable(BaseModel):
    """``[evaluation.catalogue]``: a file of all items, public.

    Attributes:
        path: A ``catalogue.parquet``, or any Parquet or CSV file; relative to the mapping file.
        format: Told by the file's ending where it is not stated.
        delimiter: The CSV column separator.
        encoding: The CSV text encoding.
        item: The column with the items' references, as the store spells them.
        category: The column with their category; likewise the next three. None: no labels.
        product_type: The finer type.
        department: The department.
        brand: Whose make each item is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str = Field(min_length=1)
    format: Literal["parquet", "csv"] | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    item: ColumnName = "item"
    category: ColumnName | None = None
    product_type: ColumnName | None = None
    department: ColumnName | None = None
    brand: ColumnName | None = None

    def read(self, base: Path) -> Catalogue:
        """Reads the catalogue.

        Args:
            base: The folder that a relative path starts from.

        Raises:
            InputError: It cannot be read, lacks a column, or has an item twice.
        """
        path = base / self.path
        kind = self.format or ("parquet" if path.suffix in (".parquet", ".pq") else "csv")
        plain = kind == "parquet" and not self.model_fields_set & {"item", *_LEVELS}
        if plain:
            return Catalogue.load(path)
        named = {level: getattr(self, level) for level in _LEVELS}
        labelled = {level: column for level, column in named.items() if column is not None}
        wanted = [self.item, *labelled.values()]
        columns = self._parquet(path, wanted) if kind == "parquet" else self._csv(path, wanted)
        labels = {level: columns[column] for level, column in labelled.items()}
        return Catalogue.of(columns[self.item], **labels)

    def _csv(self, path: Path, wanted: list[str]) -> dict[str, list[str]]:
        try:
            with path.open(encoding=_ENCODINGS[self.encoding], newline="") as file:
                reader = csv.DictReader(file, delimiter=self.delimiter, strict=True)
                _require_columns(path, wanted, list(reader.fieldnames or ()))
                rows = [[row[name] for name in wanted] for row in reader]
        except (OSError, UnicodeError, csv.Error) as error:
            raise InputError(
                f"The catalogue {path} cannot be read: {error}.",
                remedy="Check path, delimiter and encoding in [evaluation.catalogue].",
            ) from error
        if any(value is None for row in rows for value in row):
            raise InputError(
                f"The catalogue {path} has rows with too few columns.",
                remedy="Check the delimiter in [evaluation.catalogue].",
            )
        return {name: [row[place] for row in rows] for place, name in enumerate(wanted)}

    def _parquet(self, path: Path, wanted: list[str]) -> dict[str, list[str]]:
        try:
            _require_columns(path, wanted, pq.read_schema(path).names)
            table = pq.read_table(path, columns=wanted)
            texts = {name: table.column(name).cast(pa.string()).to_pylist() for name in wanted}
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"The catalogue {path} cannot be read: {error}.",
                remedy="Check path and columns in [evaluation.catalogue].",
            ) from error
        return {name: [text or "" for text in column] for name, column in texts.items()}


class EvaluationTable(BaseModel):
    """``[evaluation]``: what else is public about the data, and how they are split.

    Attributes:
        region: The region's name, if there is a mapping file for each; the file's name by default.
        regions: Into how many regions the customers of a single mapping file are divided, by a hash
            of their references.
        catalogue: The public catalogue. Without one the items that occur are taken as public.
        planned_customers: The public planning size. Without one the number of customers, rounded.
        public: Whether the data are public, so that choosing settings by these figures costs no ε.
        protocol: ``temporal`` or ``strong``; see `simulations.evaluation.protocols`.
        test_from: Begin of the test window; by default the last tenth of the time.
        test_until: Its end, exclusive; by default the end of the data.
        least_amount: Rows with a smaller amount are left out, such as low ratings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    region: str | None = None
    regions: int = Field(default=DEFAULT_REGIONS, ge=1, le=1000)
    catalogue: CatalogueTable | None = None
    planned_customers: int | None = Field(default=None, ge=1, le=10**9)
    public: bool = False
    protocol: Literal["temporal", "strong"] = "temporal"
    test_from: AwareDatetime | None = None
    test_until: AwareDatetime | None = None
    least_amount: Annotated[float, Field(strict=False, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationTable:
        if self.region is not None and PARTY.fullmatch(self.region) is None:
            raise ValueError("region is up to 64 of a-z, 0-9, dot, dash")
        if self.test_from and self.test_until and self.test_from >= self.test_until:
            raise ValueError("test_from must be before test_until")
        return self


@dataclass(frozen=True)
class DataMapping:
    """A mapping file.

    Attributes:
        path: The file.
        source: The declaration of the store.
        table: What is public about the data.
    """

    path: Path
    source: FileSourceConfig | SqlSourceConfig
    table: EvaluationTable

    @property
    def region(self) -> str:
        """The region's name, if this is one mapping file of several.

        That of the file, or of the region's home for its ``data/source.toml``.
        """
        if self.table.region is not None:
            return self.table.region
        folder = self.path.absolute().parent
        at_home = self.path.name == "source.toml" and folder.name == "data"
        return (folder.parent.name if at_home else self.path.stem).lower()


def read_mapping(path: Path) -> DataMapping:
    """Reads a mapping file.

    Raises:
        InputError: It cannot be read, or a field is wrong: names the field and what to do.
    """
    values = read_declaration(path)
    stated = values.pop(TABLE, {})
    source = source_from_table(values, path.parent, called(path))
    try:
        table = EvaluationTable.model_validate(stated)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join([TABLE, *map(str, first["loc"])])
        raise InputError(
            f"{called(path)}: {place}: {first['msg']}.",
            remedy="Correct the field; unknown fields are refused.",
        ) from error
    if table.least_amount is not None and source.columns.amount is None:
        raise InputError(
            f"{called(path)}: {TABLE}.least_amount needs columns.amount.",
            remedy="Map the column that the least amount is about.",
        )
    return DataMapping(path, source, table)


def common_table(mappings: list[DataMapping]) -> EvaluationTable:
    """What several mapping files say alike.

    Raises:
        InputError: They contradict each other, or two are of one region.
    """
    names = [each.region for each in mappings]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(
            f"Two mapping files are of one region, {min(repeated)}.",
            remedy=f"Name each file's region in [{TABLE}].",
        )
    tables = [each.table.model_copy(update={"region": None}) for each in mappings]
    for mapping, table in zip(mappings, tables, strict=True):
        if table != tables[0]:
            raise InputError(
                f"{mapping.path} and {mappings[0].path} say different things in [{TABLE}].",
                remedy="All regions have one catalogue and one split: say the same in each file.",
            )
    return tables[0]


def _require_columns(path: Path, wanted: list[str], found: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"The catalogue {path} has no column {missing[0]!r}; it has {', '.join(found)}.",
            remedy="Correct the columns in [evaluation.catalogue].",
        )
