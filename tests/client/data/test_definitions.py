"""Definitions mean what they say, counted as one would by hand."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.definitions import DAY_MS, meets
from client.data.standards import load_standards
from client.data.standards_fields import Definition

NOW_DAY = 1000
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 40 * 24), st.sampled_from(["view", "cart"])),
    max_size=40,
)


def frame(rows: list[tuple[str, int, str]]) -> dict[str, pd.Series]:
    hours = np.array([hour for _, hour, _ in rows], dtype=np.int64)
    moments = (NOW_DAY * DAY_MS - hours * 3_600_000).astype("datetime64[ms]")
    return {
        "customer": pd.Series([who for who, _, _ in rows], dtype="category"),
        "time": pd.Series(moments),
        "kind": pd.Series([kind for _, _, kind in rows], dtype="category"),
    }


@settings(max_examples=30)
@given(ROWS, st.sampled_from(["rows", "days", "kind"]), st.integers(1, 4), st.booleans())
def test_it_counts_as_one_would_by_hand(
    rows: list[tuple[str, int, str]], count: str, at_least: int, only_views: bool
) -> None:
    definition = Definition(
        meaning="T.",
        table="events",
        where={"kind": ("view",)} if only_views else {},
        count=count,
        at_least=at_least,
        within_days=30,
    )
    seen: dict[str, set[object]] = defaultdict(set)
    for number, (who, hour, kind) in enumerate(rows):
        if hour < 30 * 24 and (kind == "view" or not only_views):
            day = (NOW_DAY * 24 - hour) // 24
            seen[who].add({"rows": number, "days": day, "kind": kind}[count])
    expected = sorted(who for who, units in seen.items() if len(units) >= at_least)
    found = meets(definition, frame(rows), now_ms=NOW_DAY * DAY_MS)
    assert found.tolist() == expected


def test_active_is_three_visits_within_a_month() -> None:
    active = load_standards().definitions["active"]
    rows = [("a", 1, ""), ("a", 30, ""), ("a", 60, ""), ("b", 1, ""), ("b", 2, ""), ("b", 60, "")]
    assert meets(active, frame(rows), now_ms=NOW_DAY * DAY_MS).tolist() == ["a"]
