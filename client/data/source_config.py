"""The declaration of a region's store: where its transactions are and what its columns mean."""

from __future__ import annotations

import difflib
import os
import zoneinfo
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from client.data.transactions import DeclaredScope
from common.canonical_json import JsonValue
from common.errors import InputError
from common.toml_file import read_toml

MAX_DECLARATION_BYTES = 1 << 20
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
# How often and how patiently a store is asked changes nothing of what its rows are.
_ASKING = (
    "url",
    "url_env",
    "refresh_after_s",
    "refresh_overlap",
    "reread_after_hours",
    "timeout_s",
)


def _zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone such as Europe/Berlin") from error
    return name


class ColumnMapping(BaseModel):
    """The store's names for the columns; columns that are not named here are never read.

    Attributes:
        customer: The customer's reference (loyalty card or account).
        item: The product's reference, as the public catalogue spells it.
        time: When it was bought.
        quantity: How many; taken as 1 where there is no such column.
        amount: What was paid for the row.
        basket: The trip or order.
        store: The store.
        home_store: The store that the customer belongs to; needed with `home_stores`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    customer: ColumnName
    item: ColumnName
    time: ColumnName
    quantity: ColumnName | None = None
    amount: ColumnName | None = None
    basket: ColumnName | None = None
    store: ColumnName | None = None
    home_store: ColumnName | None = None

    @property
    def by_canonical_name(self) -> dict[str, str]:
        """Canonical column name → the store's column name, for what is mapped."""
        names = {
            "customer_ref": self.customer,
            "item_ref": self.item,
            "time": self.time,
            "quantity": self.quantity,
            "amount": self.amount,
            "basket_ref": self.basket,
            "store_ref": self.store,
            "home_store_ref": self.home_store,
        }
        return {name: column for name, column in names.items() if column is not None}

    @model_validator(mode="after")
    def _distinct(self) -> ColumnMapping:
        used = list(self.by_canonical_name.values())
        repeated = {name for name in used if used.count(name) > 1}
        if repeated:
            raise ValueError(f"the column {min(repeated)!r} is mapped twice")
        return self


class Reading(BaseModel):
    """How the rows of any store are read, whatever they are about.

    Attributes:
        time_format: How text or numbers in the time columns are read: ``iso`` (ISO 8601),
            ``epoch_s``, ``epoch_ms``, or a `strptime` format. Real timestamps need none.
        time_zone: The zone of times that state none.
        refresh_after_s: For how long what was taken up is used before the store is looked at again,
            in seconds; at most ten minutes.
        base: The folder that relative paths start from; that of the declaration's file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_format: str = Field(default="iso", min_length=1, max_length=64)
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    refresh_after_s: int = Field(default=60, ge=0, le=600)
    base: Path = Field(default=Path(), exclude=True)

    def content_record(self) -> dict[str, JsonValue]:
        """What decides which rows the store gives and what they mean; nothing secret."""
        record: dict[str, JsonValue] = self.model_dump(mode="json", exclude=set(_ASKING))
        return record | {"base": str(self.base.absolute())}


class FileReading(Reading):
    """Rows in Parquet or CSV files.

    Attributes:
        path: One file, a glob, or a folder of files of one format.
        format: Told by the file's ending where it is not stated.
        delimiter: The CSV column separator.
        encoding: The CSV text encoding.
    """

    path: str = Field(min_length=1)
    format: Literal["parquet", "csv"] | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"


class SqlReading(Reading):
    """Rows of a table or view of a SQL database.

    Attributes:
        url: A SQLAlchemy URL (``postgresql://…`` or ``sqlite:///…``). Never shown.
        url_env: The environment variable that holds the URL, so that no password is in the file.
        table: The table or view.
        db_schema: The database schema it is in.
        refresh_by: A column that is greater in later rows: an ascending number, or the time at
            which a row was written. With it only new rows are read.
        refresh_overlap: By how much less than the greatest `refresh_by` a row may still appear, as
            transactions end in another order than they began: in steps of a number, or in seconds.
            So much is read again each time.
        reread_after_hours: After how long the whole table is read anew. Without `refresh_by`, new
            rows are noticed only then; with it, rows that were deleted or altered.
        timeout_s: How long the database may take for each answer, in seconds.
    """

    url: SecretStr | None = None
    url_env: str | None = Field(default=None, min_length=1)
    table: ColumnName
    db_schema: ColumnName | None = None
    refresh_by: ColumnName | None = None
    refresh_overlap: int = Field(default=10_000, ge=0, le=1 << 40)
    reread_after_hours: int = Field(default=24, ge=1, le=31 * 24)
    timeout_s: int = Field(default=60, ge=1, le=3600)

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give exactly one of url and url_env")
        return self

    def resolve_url(self) -> str:
        """The database's URL.

        Raises:
            InputError: The environment variable is not set.
        """
        if self.url is not None:
            return self.url.get_secret_value()
        value = os.environ.get(self.url_env or "", "")
        if not value:
            raise InputError(
                f"The store's database URL is expected in the environment variable "
                f"{self.url_env}, which is not set.",
                remedy=f"Set {self.url_env}, or give url in the declaration.",
            )
        return value

    def content_record(self) -> dict[str, JsonValue]:
        """What decides which rows the store gives and what they mean; nothing secret."""
        return super().content_record() | {"server": self.server}

    @property
    def server(self) -> str:
        """The database for messages: without user, password or parameters."""
        parts = urlsplit(self.resolve_url())
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


class _Declaration(Reading):
    """What the declarations of all kinds of stores of transactions have in common.

    Attributes:
        columns: The column mapping.
        period_from: Begin of the period the data are about, with its UTC offset, inclusive.
        period_until: End of the period, exclusive.
        home_stores: The region's stores (see `DeclaredScope`).
    """

    columns: ColumnMapping
    period_from: AwareDatetime | None = None
    period_until: AwareDatetime | None = None
    home_stores: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.period_from and self.period_until and self.period_from >= self.period_until:
            raise ValueError("period_from must be before period_until")
        if self.home_stores and self.columns.home_store is None:
            raise ValueError("home_stores needs columns.home_store")
        return self

    @property
    def scope(self) -> DeclaredScope:
        """Period and home stores."""
        bounds = [
            None if moment is None else round(moment.timestamp() * 1000)
            for moment in (self.period_from, self.period_until)
        ]
        return DeclaredScope(bounds[0], bounds[1], frozenset(self.home_stores))


class FileSourceConfig(FileReading, _Declaration):
    """Transactions in Parquet or CSV files."""

    kind: Literal["files"]


class SqlSourceConfig(SqlReading, _Declaration):
    """Transactions in a table or view of a SQL database."""

    kind: Literal["sql"]


SourceConfig = Annotated[FileSourceConfig | SqlSourceConfig, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[FileSourceConfig | SqlSourceConfig] = TypeAdapter(SourceConfig)


def load_source_config(path: Path) -> FileSourceConfig | SqlSourceConfig:
    """Reads a store's declaration (TOML).

    Raises:
        InputError: The file is missing, too long, not TOML, or a field is wrong: names the file,
            the field and what to do.
    """
    return source_from_table(read_declaration(path), path.parent, called(path))


def called(path: Path) -> str:
    """What messages call the declaration in a file."""
    return f"The declaration of the store, {path}"


def read_declaration(path: Path) -> dict[str, Any]:
    """Reads the TOML of a declaration, of a store or of tables; its fields are not checked.

    Raises:
        InputError: The file is missing, too long, or not TOML.
    """
    return read_toml(
        path,
        "The declaration",
        max_bytes=MAX_DECLARATION_BYTES,
        remedy="Write one: kind, path or url, and [columns].",
    )


def source_from_table(
    values: Mapping[str, Any], base: Path, where: str
) -> FileSourceConfig | SqlSourceConfig:
    """Reads a store's declaration from a TOML table.

    Args:
        values: The table.
        base: The folder that relative paths start from.
        where: What the declaration is called in messages.

    Raises:
        InputError: A field is wrong: names the field and what to do.
    """
    if "base" in values:
        raise _wrong_field(where, "base", "Extra inputs are not permitted")
    try:
        return _ADAPTER.validate_python({**values, "base": base})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = [str(part) for part in first["loc"] if part not in ("files", "sql")]
        raise _wrong_field(where, ".".join(place) or "(whole file)", first["msg"]) from error


def _wrong_field(where: str, name: str, problem: str) -> InputError:
    return InputError(
        f"{where}: {name}: {problem}.",
        remedy="Correct the field; unknown fields are refused.",
    )


def check_columns(mapped: Sequence[str], available: list[str], origin: str) -> None:
    """Checks that a store has the columns that are mapped.

    Raises:
        InputError: It lacks one: lists what there is, and what comes closest.
    """
    for name in mapped:
        if name not in available:
            closest = difflib.get_close_matches(name, available, n=1, cutoff=0.5)
            hint = f" Did you mean {closest[0]!r}?" if closest else ""
            raise InputError(
                f"{origin} has no column {name!r}; it has {', '.join(available)}.{hint}",
                remedy="Correct [columns] in the store's declaration.",
            )
