"""From a store's columns, of whatever types it uses, to the canonical columns.

Nothing is judged here: a value that cannot be read becomes null, and the quality gate counts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from client.data.source_config import FileSourceConfig, Reading, SqlSourceConfig
from client.data.transactions import COLUMN_DTYPES, REF_COLUMNS, Transactions
from common.errors import InputError

_TIME_DTYPE = pd.DatetimeTZDtype("us", "UTC")
# Beyond 2^53 a float no longer holds each integer; such a quantity is out of range anyway.
_QUANTITY_BOUND = float(1 << 53)
# What Python's calendar has, and with it whatever shows a moment or knows a zone's rules; a day
# from its ends there is room for every zone.
_CALENDAR = pd.Timestamp("0001-01-01", tz="UTC"), pd.Timestamp("9999-12-31 23:59:59.999", tz="UTC")
_ZONED = pd.Timestamp("0001-01-02"), pd.Timestamp("9999-12-30")
_EPOCH_UNITS: dict[str, Literal["s", "ms"]] = {"epoch_s": "s", "epoch_ms": "ms"}


def canonicalise(
    table: pa.Table, config: FileSourceConfig | SqlSourceConfig, origin: str
) -> Transactions:
    """Turns the mapped columns of a store into `Transactions`.

    Args:
        table: The mapped columns under the store's names.
        config: The store's declaration.
        origin: Where the rows come from, for messages.

    Raises:
        InputError: There is no row, or a column has a type that its meaning does not allow.
    """
    if table.num_rows == 0:
        raise InputError(
            f"{origin} has no rows.", remedy="Check the path or table in the store's declaration."
        )
    names = config.columns.by_canonical_name
    columns: dict[str, Any] = {}
    for name in COLUMN_DTYPES:
        where = f"{origin}, column {names.get(name)!r} ({name})"
        raw = table.column(names[name]) if name in names else None
        if name in REF_COLUMNS:
            columns[name] = as_references(raw, table.num_rows, where)
        elif name == "time":
            columns[name] = as_times(table.column(names[name]), config, where)
        elif name == "quantity":
            columns[name] = _quantities(raw, table.num_rows, where)
        else:
            columns[name] = as_numbers(raw, table.num_rows, where)
    frame = pd.DataFrame({name: columns[name] for name in COLUMN_DTYPES}, copy=False)
    return Transactions(frame, frozenset(names), config.scope, origin)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = _whole(column)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def as_references(column: pa.ChunkedArray | None, n_rows: int, where: str) -> pd.Categorical:
    """References as categories of text: each distinct value is turned into text once.

    Args:
        column: The column; None where there is none, which gives nulls.
        n_rows: How many rows there are.
        where: The column, for messages.

    Raises:
        InputError: It holds neither text nor whole numbers.
    """
    if column is None:
        nulls = np.full(n_rows, -1, dtype=np.int8)
        return pd.Categorical.from_codes(nulls, categories=pd.Index([], dtype="str"))
    array = _whole(column)
    coded = pa.types.is_dictionary(array.type)
    kind = array.type.value_type if coded else array.type
    if not (_is_text(kind) or _is_number(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"{where} holds {kind}, which is no reference.",
            remedy="Map a column of text or whole numbers.",
        )
    encoded = array if coded else pc.dictionary_encode(array)
    codes = encoded.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    # Distinct raw values may be one reference (" 12" and "12"), so the texts are encoded again.
    text_codes, texts = pd.factorize(
        np.array([*_texts(encoded.dictionary, where), None], dtype=object)
    )
    return pd.Categorical.from_codes(
        text_codes[codes],
        categories=pd.Index(texts, dtype="str"),
    )


def _texts(values: pa.Array, where: str) -> Iterable[str | None]:
    if pa.types.is_integer(values.type):
        texts: list[str | None] = values.cast(pa.string()).to_pylist()
        return texts
    try:
        return [_text(value, where) for value in values.to_pylist()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} holds text that is not UTF-8.", remedy="Have it written as UTF-8."
        ) from error


def _text(value: str | float | Decimal | None, where: str) -> str | None:
    if value is None or value != value:  # NaN is no reference
        return None
    if isinstance(value, str):
        return value.strip() or None
    # Stores with missing references often hold whole numbers as 17850.0.
    if value in (float("inf"), float("-inf")) or value != int(value):
        raise InputError(
            f"{where} holds numbers that are not whole.",
            remedy="Map a column of text or whole numbers.",
        )
    return str(int(value))


def as_times(column: pa.ChunkedArray, config: Reading, where: str) -> pd.Series[Any]:
    """A column as moments, ``datetime64[us, UTC]``; what is no time becomes null.

    Moments before the year 1 or after 9999, as 9999-12-31 is in New York, become the first or the
    last moment there is: such are mistakes, or stand for "never".

    Args:
        column: The column.
        config: How times are written.
        where: The column, for messages.

    Raises:
        InputError: It holds nothing that can be a time.
    """
    return _between(_moments(column, config, where), *_CALENDAR)


def _between(times: pd.Series[Any], first: pd.Timestamp, last: pd.Timestamp) -> pd.Series[Any]:
    """Moments, those beyond the first and the last put there; the same ones if there are none."""
    before, after = times < first, times > last
    if not (before.any() or after.any()):
        return times
    inside: pd.Series[Any] = times.mask(before, first).mask(after, last)
    return inside


def _moments(column: pa.ChunkedArray, config: Reading, where: str) -> pd.Series[Any]:
    array = _plain(column)
    kind, style = array.type, config.time_format
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _real_times(array, config.time_zone, where)
    if style in _EPOCH_UNITS and (_is_number(kind) or _is_text(kind)):
        numbers = pd.to_numeric(pd.Series(array.to_pandas()), errors="coerce").astype("float64")
        return _utc(pd.to_datetime(numbers, errors="coerce", utc=True, unit=_EPOCH_UNITS[style]))
    if _is_text(kind):
        return _parse_times(pd.Series(array.to_pandas(), dtype="str"), style, config.time_zone)
    if pa.types.is_null(kind):
        return pd.Series(pd.NaT, index=range(len(array)), dtype=_TIME_DTYPE)
    raise InputError(
        f"{where} holds {kind}, which is no time.",
        remedy="Map a timestamp, or set time_format (epoch_s, epoch_ms or a strptime format).",
    )


def _real_times(array: pa.Array, zone: str, where: str) -> pd.Series[Any]:
    stated_zone = getattr(array.type, "tz", None)
    nanoseconds = getattr(array.type, "unit", None) == "ns"
    try:
        # Unsafe only drops the nanoseconds' last digits; a coarser unit must not overflow.
        moments = array.cast(pa.timestamp("us", stated_zone and "UTC"), safe=not nanoseconds)
        times = pd.Series(moments.to_pandas())
        return times if stated_zone else _localise(times, zone)
    except (pa.ArrowInvalid, pd.errors.OutOfBoundsDatetime, OverflowError) as error:
        raise InputError(
            f"{where} holds times beyond what a calendar has.",
            remedy="Check that the column's unit is what its type says.",
        ) from error


def _parse_times(texts: pd.Series[Any], style: str, zone: str) -> pd.Series[Any]:
    if style != "iso":
        if "%z" in style:
            return _utc(pd.to_datetime(texts, format=style, utc=True, errors="coerce"))
        return _localise(pd.to_datetime(texts, format=style, errors="coerce"), zone)
    texts = texts.str.strip()
    # Times that state an offset mean it; the others are in the declared zone.
    has_offset = texts.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$", regex=True, na=False)
    result = pd.Series(pd.NaT, index=texts.index, dtype=_TIME_DTYPE)
    if has_offset.any():
        moments = pd.to_datetime(texts[has_offset], format="ISO8601", utc=True, errors="coerce")
        result[has_offset] = _utc(moments)
    if not has_offset.all():
        local = pd.to_datetime(texts[~has_offset], format="ISO8601", errors="coerce")
        result[~has_offset] = _localise(local, zone)
    return result


def _localise(local: pd.Series[Any], zone: str) -> pd.Series[Any]:
    """Zone-less times to UTC: a repeated hour is taken as its first pass, a skipped one ends it."""
    local = local.astype("datetime64[us]")
    if zone == "UTC":
        return local.dt.tz_localize("UTC")
    # Days that stand for "never", and mistakes: zones are known for the years of a calendar alone.
    inside = _between(local, *_ZONED)
    first_pass = np.ones(len(local), dtype=bool)
    aware = inside.dt.tz_localize(zone, ambiguous=first_pass, nonexistent="shift_forward")
    moments = aware.dt.tz_convert("UTC")
    return _utc(moments if inside is local else moments + (local - inside))


def _utc(times: pd.Series[Any]) -> pd.Series[Any]:
    converted: pd.Series[Any] = times.astype(_TIME_DTYPE)
    return converted


def as_numbers(column: pa.ChunkedArray | None, n_rows: int, where: str) -> npt.NDArray[np.float64]:
    """A column as float64[n]; NaN for what is no number, and where there is no column.

    Raises:
        InputError: It holds nothing that can be a number.
    """
    if column is None:
        return np.full(n_rows, np.nan)
    array = _plain(column)
    if _is_number(array.type):
        numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    elif _is_text(array.type) or pa.types.is_null(array.type):
        numbers = pd.to_numeric(
            pd.Series(array.to_pandas(), dtype="object"), errors="coerce"
        ).to_numpy(dtype="float64", na_value=np.nan)
    else:
        raise InputError(
            f"{where} holds {array.type}, which is no number.",
            remedy="Map a column of numbers, or leave the column out.",
        )
    return np.array(numbers, dtype=np.float64)


def _quantities(
    column: pa.ChunkedArray | None, n_rows: int, where: str
) -> pd.api.extensions.ExtensionArray:
    """Whole units; a fraction (goods sold by weight) is rounded away from zero."""
    if column is None:
        return pd.array(np.ones(n_rows, dtype=np.int64), dtype="Int64")
    numbers = as_numbers(column, n_rows, where)
    missing = np.isnan(numbers)
    whole = np.sign(numbers) * np.ceil(np.abs(numbers))
    whole = np.clip(np.where(missing, 0.0, whole), -_QUANTITY_BOUND, _QUANTITY_BOUND)
    return pd.arrays.IntegerArray(whole.astype(np.int64), missing)
