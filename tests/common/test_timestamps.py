from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.timestamps import MAX_TIME_MS, format_time, now, now_ms, parse_time


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("2000-02-29T12:00:00.000Z", 951_825_600_000),
        ("2026-01-31T23:59:59.999Z", 1_769_903_999_999),
        ("9999-12-31T23:59:59.999Z", MAX_TIME_MS),
    ],
)
def test_known_times(text: str, time_ms: int) -> None:
    assert parse_time(text) == time_ms
    assert format_time(time_ms) == text


@given(st.integers(0, MAX_TIME_MS))
def test_every_time_has_one_form(time_ms: int) -> None:
    text = format_time(time_ms)
    assert parse_time(text) == time_ms
    seconds, milliseconds = divmod(time_ms, 1000)
    expected = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert text == f"{expected.zfill(19)}.{milliseconds:03d}Z"


@given(st.integers(0, MAX_TIME_MS), st.integers(0, MAX_TIME_MS))
def test_order_of_texts_is_order_of_times(first: int, second: int) -> None:
    assert (format_time(first) < format_time(second)) == (first < second)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31T23:59:59Z",  # no milliseconds
        "2026-01-31T23:59:59.99Z",
        "2026-01-31T23:59:59.9999Z",
        "2026-01-31T23:59:59,999Z",
        "2026-01-31T23:59:59.999",
        "2026-01-31T23:59:59.999z",
        "2026-01-31t23:59:59.999Z",
        "2026-01-31 23:59:59.999Z",
        "2026-01-31T23:59:59.999+00:00",
        "2026-01-31T23:59:59.999Z\n",
        " 2026-01-31T23:59:59.999Z",
        "2026-01-31T23:59:60.000Z",  # leap second
        "2026-01-31T24:00:00.000Z",
        "2026-01-31T23:60:00.000Z",
        "2026-02-29T00:00:00.000Z",
        "2026-13-01T00:00:00.000Z",
        "2026-00-01T00:00:00.000Z",
        "2026-01-00T00:00:00.000Z",
        "2026-W05-6T00:00:00.000Z",
        "1969-12-31T23:59:59.999Z",
        "0000-01-01T00:00:00.000Z",
        "10000-01-01T00:00:00.000Z",
        "٢٠٢٦-01-31T23:59:59.999Z",  # digits of another script
        "2026-01-31T23:59:59.٩٩٩Z",
    ],
)
def test_no_other_form_is_read(text: str) -> None:
    with pytest.raises(FormatError):
        parse_time(text)


@pytest.mark.parametrize("value", [None, 0, b"2026-01-31T23:59:59.999Z"])
def test_only_text_is_read(value: object) -> None:
    with pytest.raises(FormatError):
        parse_time(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, MAX_TIME_MS + 1, True, 1.0, "0", 10**30])
def test_no_other_time_is_stated(value: object) -> None:
    with pytest.raises(FormatError):
        format_time(value)  # type: ignore[arg-type]


def test_now_is_the_system_clock() -> None:
    before = now_ms()
    stated = parse_time(now())
    assert before <= stated <= now_ms()
    assert abs(before / 1000 - datetime.now(UTC).timestamp()) < 60
