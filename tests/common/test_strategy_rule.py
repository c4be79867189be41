"""What `--strategy auto` and the sizes of noisy sums follow from: public numbers alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from common.plan_defaults import default_plan
from common.strategies import SUMS
from common.sum_rules import FACTOR_SIZES, GRAM_SIZES, sum_sizes
from tests.common.test_plan import ARGUMENTS


@pytest.mark.parametrize("strategy", SUMS)
def test_more_signal_never_means_a_smaller_model_or_more_for_popularity(strategy: str) -> None:
    rows = [sum_sizes(strategy, signal) for signal in (1, 300, 900, 2_000, 10_000, 10**5, 10**7)]
    for less, more in pairwise(rows):
        assert less.vocabulary_size <= more.vocabulary_size
        assert less.rank <= more.rank
        assert float(less.popularity_share) >= float(more.popularity_share)


def test_a_table_begins_at_no_signal_and_ascends() -> None:
    for table in (FACTOR_SIZES, GRAM_SIZES):
        assert table[0].signal_from == 0
        assert all(one.signal_from < other.signal_from for one, other in pairwise(table))
        assert all(row.rank <= row.vocabulary_size for row in table)
    assert all(row.training_rounds == 1 for row in GRAM_SIZES)


def plan_of(**changes: Any) -> Any:
    return default_plan(**{**ARGUMENTS, "strategy": "auto", **changes})
