"""Purchases with rows of further tables beside them, made of plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from client.data.table_rows import NONE, TableRows, Texts
from client.data.tables.schema import TABLES
from client.data.transactions import Purchases
from common.analytics.further_questions import Named

DAY_MS = 86_400_000
#: Public names that questions of further tables are made of.
NAMES = Named(("bakery", "checkout"), ("city", "market"), ("card", "cash"), "lists", 10)


def table_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> TableRows:
    """Rows of a table: ``customer`` is a number, ``day`` when; the rest by column, None without."""
    schema = TABLES[name]
    texts, numbers = {}, {}
    for column in schema.holding("reference", "code"):
        if column == "customer":
            continue
        given = [row.get(column) for row in rows]
        labels = sorted({each for each in given if each is not None})
        codes = [NONE if each is None else labels.index(each) for each in given]
        texts[column] = Texts(np.array(codes, dtype=np.int32), tuple(labels))
    for column in schema.holding("number", "whole"):
        found = [np.nan if row.get(column) is None else row[column] for row in rows]
        numbers[column] = np.array(found, dtype=np.float64)
    return TableRows(
        np.array([row["customer"] for row in rows], dtype=np.int32),
        np.array([round(row["day"] * DAY_MS) for row in rows], dtype=np.int64),
        texts,
        numbers,
    )


def beside(
    customers: int,
    bought: Sequence[tuple[int, int, float]] = (),
    **tables: Sequence[Mapping[str, Any]],
) -> Purchases:
    """Some customers' purchases as (customer, item, day), and their rows of further tables."""
    return Purchases(
        tuple(f"customer-{n}" for n in range(customers)),
        np.array([each[0] for each in bought], dtype=np.int32),
        np.array([each[1] for each in bought], dtype=np.int32),
        np.array([round(each[2] * DAY_MS) for each in bought], dtype=np.int64),
        {name: table_rows(name, rows) for name, rows in tables.items()},
    )


def only(whole: Purchases, kept: Sequence[int]) -> Purchases:
    """Some of the customers alone, with all that is theirs."""
    place = np.full(len(whole.owners), NONE, dtype=np.int32)
    place[list(kept)] = np.arange(len(kept), dtype=np.int32)
    bought = place[whole.owner] != NONE
    further = {}
    for name, rows in whole.further.items():
        taken = rows.take(place[rows.owner] != NONE)
        further[name] = TableRows(place[taken.owner], taken.time_ms, taken.texts, taken.numbers)
    return Purchases(
        tuple(whole.owners[each] for each in kept),
        place[whole.owner[bought]],
        whole.item[bought],
        whole.time_ms[bought],
        further,
    )


def crowd(customers: int, seed: int, *, rows: int = 60, days: int = 90) -> Purchases:
    """Customers with very many rows of every kind, and a first one with one of each table's.

    Items are numbers 0 to 59, events' items ``item-0`` to ``item-59``; of feedback's topics and
    receipts' codes some are none of `NAMES`. Every customer but the last one is in one arm.
    """
    generator = np.random.default_rng(seed)
    owners = [0, *(1 + generator.integers(0, customers - 1, rows * (customers - 1))).tolist()]

    def drawn(**choices: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {
                "customer": owner,
                "day": float(generator.uniform(0, days)),
                **{key: each[generator.integers(len(each))] for key, each in choices.items()},
            }
            for owner in owners
        ]

    answers = [None, 1.0, 2.0, 5.0, 9.0, -3.0]
    feedback = drawn(
        kind=("review", "complaint", "service", "nps", "csat", "kano"),
        topic=[*NAMES.features, "none of them"],
        score=answers,
        functional=answers,
        dysfunctional=answers,
    )
    # Of the first customer one whole answer of each kind that is scored.
    feedback += [
        {"customer": 0, "day": 1.0, "kind": kind, "score": 1.0}
        for kind in ("nps", "csat", "review")
    ]
    exposures = drawn(experiment=[NAMES.experiment], item=["item-1", "item-2", None])
    for each in exposures:
        each["day"] = each["day"] / 2
        each["arm"] = ("control", "treated")[each["customer"] % 2]
    exposures.append({**exposures[-1], "customer": customers - 1, "arm": "control"})
    exposures.append({**exposures[-1], "arm": "treated"})
    receipts = drawn(
        store_type=[*NAMES.store_types, "unknown"],
        payment=[*NAMES.payments, None],
        returned=[0.0, 3.0, None],
    )
    receipts[0].update(store_type=NAMES.store_types[0], payment=NAMES.payments[0])
    return beside(
        customers,
        [(each["customer"], int(generator.integers(60)), each["day"]) for each in drawn()],
        events=drawn(
            kind=("view", "click", "search", "cart", "favourite", "dwell"),
            item=[*(f"item-{n}" for n in range(60)), "unknown", None],
        ),
        feedback=feedback,
        exposures=exposures,
        purchases=receipts,
    )


def each_row_apart(whole: Purchases) -> Purchases:
    """Every row as if it were of a customer of its own: what no statistic may be given."""
    n = len(whole)
    further = {}
    for name, rows in whole.further.items():
        owner = np.arange(n, n + len(rows), dtype=np.int32)
        further[name] = TableRows(owner, rows.time_ms, rows.texts, rows.numbers)
        n += len(rows)
    return Purchases(
        tuple(f"row-{each}" for each in range(n)),
        np.arange(len(whole), dtype=np.int32),
        whole.item,
        whole.time_ms,
        further,
    )
