"""Grades: each column's from the standards, and high where they say nothing."""

from __future__ import annotations

import pytest

from client.data.standards import load_standards
from client.governance.grades import (
    FOR_PEOPLE,
    FOR_PROGRAMS,
    GRADES,
    IN_CLEAR,
    graded,
    grades_of,
    parse_grade,
)
from common.errors import FormatError


def test_what_is_not_stated_is_high() -> None:
    assert graded(["a", "b", "c"], {"a": "low", "b": "medium", "d": "low"}) == {
        "a": "low",
        "b": "medium",
        "c": "high",
    }


def test_the_standards_that_come_along_close_what_names_a_person() -> None:
    found = grades_of(load_standards(), "members", ["email", "birth_date", "customer", "other"])
    assert found == {
        "email": "high",
        "birth_date": "high",
        "customer": "medium",
        "other": "high",
    }
    assert set(grades_of(load_standards(), "no such table", ["a"]).values()) == {"high"}


def test_nobody_reads_more_than_programs_do_and_only_low_lies_in_clear() -> None:
    assert FOR_PEOPLE < FOR_PROGRAMS < set(GRADES)
    assert IN_CLEAR == FOR_PEOPLE == {"low"}


@pytest.mark.parametrize("value", [None, "", "High", "secret", 1])
def test_what_is_no_grade_is_refused(value: object) -> None:
    with pytest.raises(FormatError, match="high, medium, low"):
        parse_grade(value)
