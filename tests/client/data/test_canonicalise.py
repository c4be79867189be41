from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.canonicalise import canonicalise
from client.data.source_config import FileSourceConfig
from client.data.transactions import Transactions
from common.errors import InputError

ALL = {
    "customer": "c",
    "item": "i",
    "time": "t",
    "quantity": "q",
    "amount": "a",
    "basket": "b",
    "store": "s",
    "home_store": "h",
}
PLAIN: dict[str, Any] = {
    "c": pa.array(["x"]),
    "i": pa.array(["y"]),
    "t": pa.array([0], pa.timestamp("us")),
    "q": pa.array([1]),
    "a": pa.array([1.0]),
    "b": pa.array(["b"]),
    "s": pa.array(["s"]),
    "h": pa.array(["h"]),
}


def canonical(settings: dict[str, Any] | None = None, **columns: pa.Array) -> Transactions:
    size = len(next(iter(columns.values())))
    table = {name: pa.concat_arrays([array] * size) for name, array in PLAIN.items()} | columns
    config = FileSourceConfig.model_validate(
        {"kind": "files", "path": "f", "columns": ALL} | (settings or {})
    )
    return canonicalise(pa.table(table), config, "The file f")


def times(array: pa.Array, **settings: Any) -> list[str | None]:
    found = canonical(settings, t=array).frame["time"]
    return [None if pd.isna(time) else f"{time:%Y-%m-%d %H:%M:%S%z}" for time in found]


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([7, None, 7]), ["7", None, "7"]),
        (pa.array([7.0, None, math.nan]), ["7", None, None]),
        (pa.array([Decimal("12345678901234567890"), None]), ["12345678901234567890", None]),
        (pa.array([Decimal("7.00")]), ["7"]),
        (pa.array(["007", " 7 ", "", "  ", None, "7"]), ["007", "7", None, None, None, "7"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([-3], pa.int8()), ["-3"]),
        (pa.array([1 << 63], pa.uint64()), [str(1 << 63)]),
        (pa.array(["é", "日本"], pa.large_string()), ["é", "日本"]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_references_are_text(array: pa.Array, texts: list[str | None]) -> None:
    for name in ("c", "i", "b", "s", "h"):
        column = {"c": "customer", "i": "item", "b": "basket", "s": "store", "h": "home_store"}
        found = canonical(**{name: array}).frame[f"{column[name]}_ref"]
        assert [None if pd.isna(ref) else ref for ref in found] == texts
        # One reference is one category, however it was spelt.
        assert found.cat.categories.is_unique
        assert set(found.cat.categories) == {text for text in texts if text is not None}


@pytest.mark.parametrize(
    "array",
    [
        pa.array([True]),
        pa.array([b"x"]),
        pa.array([0], pa.timestamp("s")),
        pa.array([[1]]),
    ],
)
def test_other_types_are_no_references(array: pa.Array) -> None:
    with pytest.raises(InputError, match=r"f, column 'c' \(customer_ref\) holds .*no reference"):
        canonical(c=array)


@pytest.mark.parametrize("value", [1.5, math.inf, -math.inf])
def test_fractions_are_no_references_and_are_not_repeated(value: float) -> None:
    with pytest.raises(InputError, match="holds numbers that are not whole") as caught:
        canonical(c=pa.array([value]))
    assert "1.5" not in caught.value.message


def test_real_timestamps() -> None:
    moment = pd.Timestamp("2024-03-01T10:00:00.123456789Z")
    assert times(pa.array([moment], pa.timestamp("ns", "UTC"))) == ["2024-03-01 10:00:00+0000"]
    tokyo = pa.array([moment], pa.timestamp("ms", "Asia/Tokyo"))
    assert times(tokyo, time_zone="Europe/Berlin") == ["2024-03-01 10:00:00+0000"]
    naive = pa.array([moment.tz_localize(None), None], pa.timestamp("ns"))
    assert times(naive, time_zone="Europe/Berlin") == ["2024-03-01 09:00:00+0000", None]
    days = pa.array([moment.date(), None])
    assert times(days, time_zone="America/New_York") == ["2024-03-01 05:00:00+0000", None]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1 << 60], pa.timestamp("s")),
        pa.array([1 << 60], pa.timestamp("ms", "UTC")),
        pa.array([(1 << 31) - 1], pa.int32()).cast(pa.date32()),
    ],
)
def test_times_beyond_the_calendar_are_an_input_error(array: pa.Array) -> None:
    with pytest.raises(InputError, match="beyond what a calendar has"):
        times(array)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin", "Asia/Shanghai"])
@pytest.mark.parametrize(
    "array",
    [
        pa.array(["9999-12-31 23:59:59", "0001-01-01", "2024-02-30", "2024-03-01 12:00"]),
        pa.array(["9999-12-31T23:59:59-12:00", "0001-01-01T00:00+12:00", "x", "2024-03-01 12:00"]),
        pa.array([1 << 61, -(1 << 61), None, 1_709_294_400_000_000], pa.timestamp("us")),
        pa.array([3_000_000, -100_000_000, None, 19_783], pa.date32()),
    ],
)
def test_moments_at_the_ends_of_the_calendar_are_read_in_every_zone(
    array: pa.Array, zone: str
) -> None:
    last, first, none, ordinary = canonical({"time_zone": zone}, t=array).frame["time"]
    assert last.isoformat() >= "9999-12-31"
    assert first.isoformat() <= "0001-01-01T13"
    assert pd.isna(none)
    assert ordinary.isoformat()[:10] in ("2024-02-29", "2024-03-01")


def test_an_hour_that_summer_time_repeats_or_skips() -> None:
    # In Berlin 2024-10-27 02:30 came twice, and 2024-03-31 02:30 never.
    texts = pa.array(["2024-10-27 02:30:00", "2024-03-31 02:30:00"])
    expected = ["2024-10-27 00:30:00+0000", "2024-03-31 01:00:00+0000"]
    assert times(texts, time_zone="Europe/Berlin") == expected


def test_text_times_with_and_without_offset() -> None:
    texts = pa.array(
        [
            "2024-03-01",
            "2024-03-01T10:00:00",
            " 2024-03-01 10:00:00.5 ",
            "2024-03-01T10:00:00Z",
            "2024-03-01 10:00:00+01:00",
            "2024-03-01T10:00:00-0530",
            "01/03/2024",
            "soon",
            "",
            None,
        ]
    )
    assert times(texts, time_zone="Asia/Tokyo") == [
        "2024-02-29 15:00:00+0000",
        "2024-03-01 01:00:00+0000",
        "2024-03-01 01:00:00+0000",
        "2024-03-01 10:00:00+0000",
        "2024-03-01 09:00:00+0000",
        "2024-03-01 15:30:00+0000",
        None,
        None,
        None,
        None,
    ]


def test_declared_formats() -> None:
    day_first = pa.array(["01/03/2024 10:00", "2024-03-01 10:00", "31/02/2024 10:00"])
    assert times(day_first, time_format="%d/%m/%Y %H:%M", time_zone="Asia/Tokyo") == [
        "2024-03-01 01:00:00+0000",
        None,
        None,
    ]
    offset = pa.array(["01.03.2024 10:00 +0100", "01.07.2024 10:00 +0200"])
    assert times(offset, time_format="%d.%m.%Y %H:%M %z") == [
        "2024-03-01 09:00:00+0000",
        "2024-07-01 08:00:00+0000",
    ]
    seconds = [1709287200, 0]
    expected = ["2024-03-01 10:00:00+0000", "1970-01-01 00:00:00+0000"]
    assert times(pa.array(seconds), time_format="epoch_s", time_zone="Asia/Tokyo") == expected
    assert times(pa.array([str(s) for s in seconds]), time_format="epoch_s") == expected
    assert times(pa.array([s * 1000 for s in seconds]), time_format="epoch_ms") == expected
    assert times(pa.array([1e30, None]), time_format="epoch_s") == [None, None]


def test_numbers_need_to_be_declared_as_times() -> None:
    with pytest.raises(InputError, match=r"column 't' \(time\) holds int64, which is no time"):
        canonical(t=pa.array([1709287200]))


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([1, 0, -2, None]), [1, 0, -2, None]),
        (pa.array([0.455, 2.0, -0.2, math.nan, None]), [1, 2, -1, None, None]),
        (pa.array(["3", "1.5", "many", "", None]), [3, 2, None, None, None]),
        (pa.array([Decimal("0.001"), None]), [1, None]),
        (pa.array([1e300, math.inf, -math.inf]), [1 << 53, 1 << 53, -(1 << 53)]),
    ],
)
def test_quantities_are_whole_and_a_fraction_counts_as_one(
    array: pa.Array, values: list[int | None]
) -> None:
    found = canonical(q=array).frame["quantity"]
    assert [None if pd.isna(value) else value for value in found] == values


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([1, 2]), [1.0, 2.0]),
        (pa.array(["1.25", "free", None]), [1.25, None, None]),
        (pa.array([Decimal("1.99")]), [1.99]),
        (pa.array([math.inf]), [math.inf]),
    ],
)
def test_amounts_are_floats(array: pa.Array, values: list[float | None]) -> None:
    found = canonical(a=array).frame["amount"].tolist()
    assert [None if math.isnan(value) else value for value in found] == values


def test_no_rows_and_no_numbers() -> None:
    empty = {name: array.slice(0, 0) for name, array in PLAIN.items()}
    config = FileSourceConfig.model_validate({"kind": "files", "path": "f", "columns": ALL})
    with pytest.raises(InputError, match="The file f has no rows"):
        canonicalise(pa.table(empty), config, "The file f")
    with pytest.raises(InputError, match=r"column 'q' \(quantity\) holds bool, which is no number"):
        canonical(q=pa.array([True]))


@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=4), st.sampled_from([" 7", "7", "7 "])), min_size=1
    )
)
def test_any_text_reference_is_itself_stripped_or_missing(texts: list[str | None]) -> None:
    texts = [
        None if text is None else text.encode("utf-8", "ignore").decode("utf-8") for text in texts
    ]
    found = canonical(c=pa.array(texts, pa.string())).frame["customer_ref"]
    expected = [text.strip() or None if text is not None else None for text in texts]
    assert [None if pd.isna(ref) else ref for ref in found] == expected


def test_many_rows_share_their_texts() -> None:
    frame = canonical(c=pa.array(np.arange(200_000) % 7)).frame
    assert frame["customer_ref"].cat.categories.tolist() == [str(number) for number in range(7)]
    assert frame["customer_ref"].cat.codes.dtype == np.int8
