from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import MS_PER_WEEK, CustomerItemMatrix, PreferenceDataset
from client.data.quality import quality_gate
from client.data.transactions import ConsentedTransactions, Transactions
from common.catalogue import Catalogue
from common.errors import InputError

Make = Callable[..., Transactions]
Eligible = Callable[[Mapping[str, str]], EligibleCustomers]
START = 1_704_067_200_000  # 2024-01-01, UTC
SIDS = {"anna": "c" * 64, "ben": "a" * 64, "eve": "b" * 64, "zoe": "d" * 64}


@pytest.fixture
def consented(
    make_transactions: Make, catalogue: Catalogue, eligible: Eligible
) -> Callable[..., ConsentedTransactions]:
    """Consented rows of (customer, item number, week) triples."""

    def make(*triples: tuple[str, int, float]) -> ConsentedTransactions:
        rows = [
            {
                "customer": customer,
                "item": f"i{item}",
                "time": pd.Timestamp(round(START + week * MS_PER_WEEK), unit="ms", tz="UTC"),
            }
            for customer, item, week in triples
        ]
        checked = quality_gate(make_transactions(rows), catalogue, region="r")
        return filter_consented(checked, eligible(SIDS))

    return make


def build(
    rows: ConsentedTransactions, catalogue: Catalogue, weeks: float = 10, **settings: Any
) -> PreferenceDataset:
    end = START + round(weeks * MS_PER_WEEK)
    return PreferenceDataset.from_consented(rows, catalogue, start_ms=START, end_ms=end, **settings)


def dense(matrix: CustomerItemMatrix) -> list[list[float]]:
    rows = np.zeros((matrix.n_rows, matrix.n_items))
    for row in range(matrix.n_rows):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        rows[row, matrix.indices[entries]] = matrix.values[entries]
    return rows.tolist()


def test_customers_by_items_in_the_order_of_pseudonyms(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    rows = consented(
        ("anna", 3, 1), ("ben", 0, 2), ("anna", 3, 4), ("eve", 5, 0), ("anna", 1, 9.99)
    )
    data = build(rows, catalogue)
    assert data.sids == ("a" * 64, "b" * 64, "c" * 64)
    assert (data.n_customers, data.n_items) == (3, 6)
    assert dense(data.counts) == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 2, 0, 0]]
    assert data.indptr.tolist() == [0, 1, 2, 4]
    assert data.indices.tolist() == [0, 5, 1, 3]
    assert data.indices.dtype == np.int32
    assert data.counts.values.dtype == np.float32
    assert data.last_ms.tolist() == [START + round(week * MS_PER_WEEK) for week in (2, 0, 9.99, 4)]
    assert (data.capped_customers, data.capped_rows) == (0, 0)


def test_the_window_is_half_open_and_who_bought_nothing_in_it_is_absent(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    millisecond = 1 / MS_PER_WEEK
    rows = consented(
        ("anna", 0, 0), ("ben", 1, 10), ("eve", 2, -millisecond), ("zoe", 3, 10 - millisecond)
    )
    data = build(rows, catalogue)
    assert data.sids == (SIDS["anna"], SIDS["zoe"])
    assert dense(data.counts) == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_a_window_without_purchases_is_an_empty_data_set(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    data = build(consented(("anna", 0, 50)), catalogue)
    assert (data.n_customers, data.n_items, data.indptr.tolist()) == (0, 6, [0])
    assert data.history().values.tolist() == []
    assert data.last_ms.dtype == np.int64


def test_history_halves_every_half_life(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    rows = consented(("anna", 2, 8), ("anna", 2, 5), ("anna", 0, 9), ("ben", 2, 2))
    data = build(rows, catalogue, weeks=20)
    expected = [[0, 0, 2 ** (-18 / 12), 0, 0, 0],
                [2 ** (-11 / 12), 0, 2 ** (-12 / 12) + 2 ** (-15 / 12), 0, 0, 0]]  # fmt: skip
    np.testing.assert_allclose(dense(data.history()), expected, rtol=1e-6)
    shorter = [[0, 0, 2 ** (-18 / 3), 0, 0, 0],
               [2 ** (-11 / 3), 0, 2 ** (-12 / 3) + 2 ** (-15 / 3), 0, 0, 0]]  # fmt: skip
    np.testing.assert_allclose(dense(data.history(half_life_weeks=3)), shorter, rtol=1e-6)
    assert data.history().values.dtype == np.float32


@pytest.mark.parametrize("half_life", [0.0, -1.0, math.nan])
def test_a_half_life_that_is_none_is_refused(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue, half_life: float
) -> None:
    with pytest.raises(InputError, match="is not positive"):
        build(consented(("anna", 0, 1)), catalogue).history(half_life)


def test_row_slices(consented: Callable[..., ConsentedTransactions], catalogue: Catalogue) -> None:
    rows = consented(("anna", 3, 1), ("anna", 1, 1), ("ben", 0, 2), ("eve", 5, 0))
    data = build(rows, catalogue)
    whole = dense(data.counts)
    for start in range(4):
        for stop in range(start, 4):
            part = data.rows(start, stop)
            assert part.n_rows == stop - start
            assert dense(part) == whole[start:stop]


def test_of_too_many_rows_the_latest_stay_and_the_rest_is_counted(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    anna = [("anna", week % 6, week) for week in (5, 1, 8, 0, 3, 9, 2)]
    rows = consented(*anna, ("ben", 0, 1), ("ben", 0, 2), ("eve", 4, 1))
    data = build(rows, catalogue, max_rows_per_customer=2)
    assert (data.capped_customers, data.capped_rows) == (1, 5)
    assert dense(data.counts) == [[2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0]]
    # Anna's latest are the weeks 9 (item 3) and 8 (item 2).
    assert data.last_ms.tolist()[-2:] == [START + 8 * MS_PER_WEEK, START + 9 * MS_PER_WEEK]
    assert len(data.ages_weeks) == 5


def test_one_customer_with_a_million_rows_is_bounded(
    make_transactions: Make, catalogue: Catalogue, eligible: Eligible
) -> None:
    n_rows = 1_000_000
    small = make_transactions([{"customer": "anna"}, {"customer": "ben", "basket": None}])
    frame = small.frame.iloc[np.array([0] * n_rows + [1])].reset_index(drop=True)
    frame["time"] = (
        pd.to_datetime(START, unit="ms", utc=True) + pd.to_timedelta(np.arange(n_rows + 1), "ms")
    ).astype("datetime64[us, UTC]")
    mapped = small.mapped - {"basket_ref"}
    begin = time.process_time()
    checked = quality_gate(
        Transactions(frame, mapped, small.scope, "f"), catalogue, region="r", threshold=0.9
    )
    data = build(filter_consented(checked, eligible(SIDS)), catalogue)
    assert time.process_time() - begin < 20
    assert data.counts.values.tolist() == [1.0, 100_000.0]
    assert (data.capped_customers, data.capped_rows) == (1, 900_000)
    assert len(data.ages_weeks) == 100_001


@pytest.mark.parametrize(
    "arguments",
    [
        {"start_ms": 5, "end_ms": 5},
        {"start_ms": 6, "end_ms": 5},
        {"start_ms": 0, "end_ms": 5, "max_rows_per_customer": 0},
        {"start_ms": 0, "end_ms": 5, "max_rows_per_customer": (1 << 24) + 1},
    ],
)
def test_an_empty_window_or_cap_is_refused(
    consented: Callable[..., ConsentedTransactions],
    catalogue: Catalogue,
    arguments: dict[str, int],
) -> None:
    with pytest.raises(InputError, match="is empty, or the cap"):
        PreferenceDataset.from_consented(consented(("anna", 0, 1)), catalogue, **arguments)


def test_another_catalogue_is_refused(
    consented: Callable[..., ConsentedTransactions], catalogue: Catalogue
) -> None:
    with pytest.raises(InputError, match="items that are not in the catalogue"):
        build(consented(("anna", 0, 1)), Catalogue.of(["i1", "i2"]))


def test_rows_of_an_earlier_stage_are_refused(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    checked = quality_gate(make_transactions([{}]), catalogue, region="r")
    for stage in (checked, checked.parts, make_transactions([{}])):
        with pytest.raises(InputError, match="have not passed the consent filter"):
            build(stage, catalogue)  # type: ignore[arg-type]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(SIDS)), st.integers(0, 5), st.integers(-3, 13)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 6),
)
def test_it_is_what_a_plain_loop_makes_of_it(
    consented: Callable[..., ConsentedTransactions],
    catalogue: Catalogue,
    triples: list[tuple[str, int, int]],
    cap: int,
) -> None:
    # Distinct times, so that the latest rows are no matter of taste.
    spread = [(who, item, week + n / 1000) for n, (who, item, week) in enumerate(triples)]
    data = build(consented(*spread), catalogue, max_rows_per_customer=cap)
    bought: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for who, item, week in spread:
        if 0 <= week < 10:
            bought[SIDS[who]].append((week, item))
    counts, history, capped = [], [], 0
    for sid in sorted(bought):
        kept = sorted(bought[sid])[-cap:]
        capped += len(bought[sid]) - len(kept)
        counts.append([sum(item == column for _, item in kept) for column in range(6)])
        weights = [(2 ** ((week - 10) / 12), item) for week, item in kept]
        history.append([sum(w for w, item in weights if item == column) for column in range(6)])
    assert data.sids == tuple(sorted(bought))
    assert dense(data.counts) == counts
    assert data.capped_rows == capped
    if history:
        np.testing.assert_allclose(dense(data.history()), history, rtol=1e-5)
