"""How often something fits is found in few steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.search import largest_that_fits


@given(answer=st.integers(0, 5000), most=st.integers(1, 4000))
def test_the_largest_that_fits_is_found_in_few_steps(answer: int, most: int) -> None:
    asked: list[int] = []

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= answer

    assert largest_that_fits(fits, most) == min(answer, most)
    assert len(asked) <= 2 * math.log2(most + 2) + 4


@pytest.mark.parametrize("most", [0, -3])
def test_nothing_is_tried_where_nothing_may_be(most: int) -> None:
    def fits(count: int) -> bool:
        raise AssertionError(count)

    assert largest_that_fits(fits, most) == 0
