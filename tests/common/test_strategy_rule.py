"""What `--strategy auto` and the sizes of noisy sums follow from: public numbers alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from common.errors import FormatError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.strategies import SUMS
from common.strategy_rule import choose_strategy
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


def chosen(**changes: Any) -> str:
    return default_plan(**{**ARGUMENTS, "strategy": "auto", **changes}).strategy


def shared(honest: int) -> dict[str, Any]:
    """Distributed noise, of so many of the five regions."""
    rule = {"mode": "distributed", "rule": "secure-sum", "quorum": honest}
    return {**rule, "honest_survivors_min": honest}


def test_auto_takes_pairs_where_they_outweigh_the_noise() -> None:
    # Signals of 1,712, 724, 265; with the noise of all together of 3,828, 1,619, 593.
    assert [chosen(epsilon=each) for each in ("8", "3", "1")] == ["gram", "gram", "factors"]
    assert {chosen(epsilon=each, **shared(5)) for each in ("8", "3", "1")} == {"gram"}
    assert chosen(epsilon="1", planned_customers=25_000) == "gram"
    assert chosen(epsilon="8", regions=[f"r{n}" for n in range(64)]) == "factors"


def test_a_catalogue_without_pairs_has_none_to_learn_from() -> None:
    assert chosen(n_items=1) == "factors"
    assert choose_strategy(signal=1e9, n_items=2) == "gram"


def test_no_plan_says_auto() -> None:
    record = default_plan(**{**ARGUMENTS, "strategy": "auto"}).to_record()
    with pytest.raises(FormatError, match="strategy"):
        RunPlan.from_record({**record, "strategy": "auto"})
