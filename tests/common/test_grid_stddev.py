from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.grid_stddev import GridStddev


@given(st.floats(0.5, 2.0**24 - 1))
def test_it_is_never_below_what_was_asked_and_hardly_above(value: float) -> None:
    found = GridStddev.at_least(value)
    exact = Fraction(found.numerator, 2**found.exponent)
    assert Fraction(value) <= exact <= Fraction(value) * (1 + Fraction(1, 2**22))
    assert Fraction(found.value) == exact == Fraction(found.text)
    assert found.floor == int(exact)
    assert GridStddev.at_least(found.value) == found


@pytest.mark.parametrize("value", [0.0, 0.49, 2.0**24, float("nan"), float("inf"), -1.0])
def test_other_values_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        GridStddev.at_least(value)


@pytest.mark.parametrize(("numerator", "exponent"), [(0, 0), (2**24, 0), (1, 2), (5, -1), (9, 25)])
def test_other_forms_are_refused(numerator: int, exponent: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        GridStddev(numerator, exponent)
