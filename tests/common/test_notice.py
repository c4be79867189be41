from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.notice import MAX_TEXT_CHARACTERS, parse_notice
from common.timestamps import parse_time
from tests.support.region_home import notice_record


def test_a_notice_is_read_and_written_alike() -> None:
    record = notice_record(lang="zh-CN", text="可以吗？\n可以。", supersedes="a" * 64)
    notice = parse_notice(record)  # type: ignore[arg-type]
    assert notice.to_record() == record
    assert notice.in_force_from_ms == parse_time(notice.in_force_from)
    assert notice.purposes == tuple(record["purposes"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", "fedpref-notice/2"),
        ("notice_id", ""),
        ("notice_id", "pn 1"),
        ("lang", "English"),
        ("controller", "two\nlines"),
        ("purposes", []),
        ("purposes", ["fedpref:A", "fedpref:A"]),
        ("purposes", ["no term"]),
        ("purposes", "fedpref:A"),
        ("recipients", ""),
        ("retention", None),
        ("storage", "a\x00b"),
        ("contact", 7),
        ("text", "a" * (MAX_TEXT_CHARACTERS + 1)),
        ("supersedes", "A" * 64),
        ("supersedes", ""),
        ("in_force_from", "2026-01-01"),
        ("in_force_from", None),
    ],
)
def test_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(FormatError):
        parse_notice(notice_record(**{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", sorted(notice_record()))
def test_a_missing_or_unknown_field_is_refused(field: str) -> None:
    record = notice_record()
    del record[field]
    with pytest.raises(FormatError):
        parse_notice(record)  # type: ignore[arg-type]
    with pytest.raises(FormatError):
        parse_notice(notice_record(extra=1))  # type: ignore[arg-type]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        parse_notice(value)
