"""Files that tables come from and go to: Parquet, and CSV with a header."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common.errors import InputError, StorageError

_KNOWN = re.compile(
    r"(?:Row #\d+: )?(?:Expected \d+ columns, got \d+|CSV conversion error to string: invalid UTF8)"
)


def read_table_file(path: Path) -> pa.Table:
    """Reads a table; of a CSV file, every value as text.

    Args:
        path: A file whose name ends in ``.parquet`` or ``.csv``.

    Raises:
        InputError: It cannot be read, or is neither.
    """
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv":
            return _read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"The table {path} cannot be read: {_reason(error)}.",
            remedy="Parquet, or CSV in UTF-8 with a header, is needed.",
        ) from None  # the original repeats a row, and what it says of somebody
    raise InputError(
        f"The name of {path} ends neither in .parquet nor in .csv.",
        remedy="Write the table in one of these forms.",
    )


def _reason(error: Exception) -> str:
    """What a reader's error says, without the rows that it quotes."""
    known = _KNOWN.search(str(error))
    if known is not None:
        return known.group()
    return (error.strerror if isinstance(error, OSError) else None) or "it is damaged or empty"


def _read_csv(path: Path) -> pa.Table:
    with pyarrow.csv.open_csv(path) as reader:
        names = reader.schema.names
    # What looks like a number, such as a postcode, must not lose its zeros.
    texts = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True
    )
    return pyarrow.csv.read_csv(path, convert_options=texts)


def write_csv(rows: pa.Table, file: BinaryIO) -> None:
    """Writes a table as CSV."""
    plain = pa.table({name: _plain(rows.column(name)) for name in rows.column_names})
    pyarrow.csv.write_csv(plain, file)


def write_parquet(rows: pa.Table, path: Path) -> None:
    """Writes a table to a new Parquet file, for its owner alone.

    Raises:
        InputError: The file is there already.
        StorageError: The disk refuses.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            pyarrow.parquet.write_table(rows, file)
    except FileExistsError as error:
        raise InputError(f"{path} is there already.", remedy="Name a new file.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionary, which CSV does not know."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column
