"""Common words are released, nobody's own, with intervals that hold; few draws of it."""

from __future__ import annotations

import pytest

from simulations.search_study import one_region


def test_a_region_of_a_thousand_releases_its_common_words() -> None:
    found = one_region(1_000, "2", draws=4)
    assert 10 <= found.words <= 60
    assert found.found >= 0.7
    assert found.own == 0
    assert found.covered >= 0.9


@pytest.mark.slow
def test_a_region_of_twenty_thousand_releases_all_that_are_used_most() -> None:
    found = one_region(20_000, "1")
    assert found.words >= 140
    assert found.found >= 0.97
    assert found.own == 0
    assert 0.94 <= found.covered <= 0.98
