"""Whether a region's declarations have anything to say to a question.

Where they do not, an answer would be noise that looks like one, and would be paid for. Judged by
declarations alone: that no row says anything is nobody's business but the answer's.
"""

from __future__ import annotations

from collections.abc import Mapping

from client.data.tables.declaration import DeclaredTables, labels_of
from client.data.tables.schema import EVENTS, EXPOSURES, FEEDBACK, PURCHASES
from common.analytics.further_questions import (
    BROWSED,
    CSAT,
    KANO,
    NPS,
    PAYMENTS,
    RETURNS,
    REVIEWS,
    STORE_SCENES,
    TABLES_OF,
    UPLIFTS,
    Named,
)
from common.analytics.key_questions import KEYS_FROM
from common.errors import InputError

# Columns without one of which, for each entry, no row of the table says anything to the question.
_NEEDED: Mapping[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    **dict.fromkeys((NPS, CSAT, REVIEWS), (FEEDBACK, (("score",),))),
    KANO: (FEEDBACK, (("topic",), ("functional",), ("dysfunctional",))),
    BROWSED: (EVENTS, (("item", "category"),)),
    STORE_SCENES: (PURCHASES, (("store_type",),)),
    PAYMENTS: (PURCHASES, (("payment",),)),
    RETURNS: (PURCHASES, (("returned",),)),
    **{name: (table, ((column,),)) for name, (table, column) in KEYS_FROM.items()},
}


def silence_of(
    name: str, named: Named, declared: DeclaredTables, *, experiment: str | None
) -> str | None:
    """Why a region's tables have nothing to say to a question; None if they may have.

    Args:
        name: The question's name.
        named: The public names that it is made of.
        declared: The further tables that the region declares.
        experiment: What its recommender's own experiment is called, if it runs one: the table of
            exposures where none is declared.
    """
    tables = {KEYS_FROM[name][0]} if name in KEYS_FROM else TABLES_OF.get(name, frozenset())
    missing = sorted(tables - declared.keys() - {EXPOSURES})
    if missing:
        return f"it declares no table {missing[0]}"
    if name in UPLIFTS and EXPOSURES not in declared and experiment != named.experiment:
        return f"it has no exposures of the experiment {named.experiment[:64]!r}"
    return _unmapped(name, declared) or _unknown_names(name, named, declared)


def require_answerable(
    region: str, name: str, named: Named, declared: DeclaredTables, *, experiment: str | None
) -> None:
    """Requires that a region's tables may have something to say to a question, before it is paid.

    Args:
        region: The region, for the message.
        name: The question's name.
        named: The public names that it is made of.
        declared: The further tables that the region declares.
        experiment: As in `silence_of`.

    Raises:
        InputError: They have nothing; says why.
    """
    silence = silence_of(name, named, declared, experiment=experiment)
    if silence is not None:
        raise InputError(
            f"{region}: an answer to {name} would be noise alone: {silence}.",
            remedy="Declare what the question is about in tables.toml, or leave it unasked.",
        )


def _unmapped(name: str, declared: DeclaredTables) -> str | None:
    table, needed = _NEEDED.get(name, ("", ()))
    mapped = {column for place in declared.get(table, ()) for column in place.columns}
    for columns in needed:
        if mapped.isdisjoint(columns):
            return f"its table {table} has no column {' or '.join(columns)}"
    return None


def _unknown_names(name: str, named: Named, declared: DeclaredTables) -> str | None:
    """Codes that a declaration lists are all there are; where it lists none, any may be there."""
    made_of: Mapping[str, tuple[str, tuple[str, ...]]] = {
        KANO: ("topic", named.features),
        STORE_SCENES: ("store_type", named.store_types),
        PAYMENTS: ("payment", named.payments),
    }
    if name not in made_of:
        return None
    column, names = made_of[name]
    table, _ = _NEEDED[name]
    listed = labels_of(declared[table], column)
    if listed and not set(listed) & set(names):
        return f"none of the question's names is among its codes of {table}.{column}"
    return None
