"""From columns as a store wrote them to values of the types that the standards state.

Nothing is judged here but whether a value can be read: a day that no calendar has, a number with
letters in it. What cannot be read is null and marked, so that it is never taken for a value that
was not given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from client.data.canonicalise import as_numbers, as_references, as_times
from client.data.source_config import Reading
from client.data.standards_fields import ColumnStandard, TableStandard
from common.errors import InputError

BoolArray = npt.NDArray[np.bool_]

_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}
# What is left of text that was read by another encoding than it was written in: the replacement
# character, control characters of ISO 8859-1, and UTF-8's pairs taken for single characters.
_STRAY = re.compile("[�\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PAIRS = re.compile("[\xc2-\xf4]")


@dataclass(frozen=True, eq=False)
class TypedRows:
    """Rows with the types of their standard.

    Attributes:
        frame: The mapped columns of the standard, in its order: references, codes and text as
            categories, numbers as float64, times as ``datetime64[us, UTC]``, flags as ``boolean``.
        unreadable: For each column, bool[n]: there is something that is no value of its type.
        garbled: For each column of text, bool[n]: it was written in another encoding than the one
            it was read by.
    """

    frame: pd.DataFrame = field(repr=False)
    unreadable: Mapping[str, BoolArray] = field(repr=False)
    garbled: Mapping[str, BoolArray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """The columns that there are."""
        return [str(name) for name in self.frame]


def read_values(
    raw: pa.Table,
    standard: TableStandard,
    reading: Reading,
    *,
    missing: Collection[str] = (),
    origin: str,
) -> TypedRows:
    """Reads columns.

    Args:
        raw: Columns under their canonical names; those that the standard does not have are left.
        standard: What they are.
        reading: How times are written, and in which zone.
        missing: Texts that stand for a missing value.
        origin: Where the rows come from, for messages.

    Raises:
        InputError: A column that the standard requires is not there, or one holds something that
            its type cannot be: names it, and what there is.
    """
    absent = [name for name in standard.required if name not in raw.column_names]
    if absent:
        raise InputError(
            f"{origin} has no column for {absent[0]!r}, which its data standard requires; it has "
            f"{', '.join(raw.column_names)}.",
            remedy="Map the store's column to it, or state in standards.toml that it is not "
            "required.",
        )
    columns: dict[str, Any] = {}
    unreadable: dict[str, BoolArray] = {}
    garbled: dict[str, BoolArray] = {}
    for name, column in standard.columns.items():
        if name not in raw.column_names:
            continue
        where = f"{origin}, column {name!r}"
        given = _without_missing(raw.column(name), missing, where)
        columns[name] = _typed(given, column, reading, where)
        is_null = np.asarray(pd.isna(columns[name]))
        unreadable[name] = is_null & _is_given(given)
        if column.type in ("reference", "code", "text"):
            garbled[name] = _garbled(columns[name])
    return TypedRows(pd.DataFrame(columns, copy=False), unreadable, garbled)


def _typed(given: pa.ChunkedArray, column: ColumnStandard, reading: Reading, where: str) -> Any:
    if column.type == "time":
        return as_times(given, reading, where).reset_index(drop=True)
    if column.type == "flag":
        return _flags(given, where)
    if not column.numeric:
        return as_references(given, len(given), where)
    numbers = as_numbers(given, len(given), where)
    readable = np.isfinite(numbers)
    if column.type == "integer":
        readable &= np.floor(numbers) == numbers
    return np.where(readable, numbers, np.nan)


def _flags(given: pa.ChunkedArray, where: str) -> pd.Series[Any]:
    kind = given.type.value_type if pa.types.is_dictionary(given.type) else given.type
    if pa.types.is_boolean(kind):
        return pd.Series(given.to_pandas(), dtype="boolean")
    texts = as_references(given, len(given), where)
    by_code = np.array(
        [*(_FLAGS.get(text.lower()) for text in texts.categories), None], dtype=object
    )
    return pd.Series(by_code[texts.codes], dtype="boolean")


def _without_missing(
    column: pa.ChunkedArray, missing: Collection[str], where: str
) -> pa.ChunkedArray:
    """A column with nulls in the place of texts that stand for nothing, blanks among them."""
    coded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if coded else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column
    try:
        column.validate(full=True)
        texts = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{where} holds text that is not UTF-8.",
            remedy="Have it written as UTF-8, or state the file's encoding.",
        ) from error
    nothing = pc.is_in(texts, value_set=pa.array(["", *missing], pa.large_string()))
    return pc.if_else(nothing, pa.scalar(None, pa.large_string()), texts)


def _is_given(column: pa.ChunkedArray) -> BoolArray:
    """bool[n]: where there is something; a number's NaN is nothing."""
    present = column.is_valid()
    if pa.types.is_floating(column.type):
        present = pc.and_(present, pc.invert(pc.is_nan(column))).fill_null(False)
    found: BoolArray = present.to_numpy().astype(bool)
    return found


def _garbled(texts: pd.Categorical) -> BoolArray:
    """bool[n]: whose text is not of the encoding it was read by; each distinct text judged once."""
    by_code = np.array([*(_is_garbled(text) for text in texts.categories), False], dtype=bool)
    found: BoolArray = by_code[texts.codes]
    return found


def _is_garbled(text: str) -> bool:
    if text.isascii() and text.isprintable():
        return False
    if _STRAY.search(text) is not None:
        return True
    return _PAIRS.search(text) is not None and any(
        _reads_as_utf8(text, wrong) for wrong in ("latin-1", "cp1252")
    )


def _reads_as_utf8(text: str, encoding: str) -> bool:
    """Whether text is UTF-8 that was read as another encoding."""
    try:
        return text.encode(encoding).decode("utf-8") != text
    except UnicodeError:
        return False
