"""Terms of the region's data standards in a tag library, such as who is active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.data.standards_fields import Definition
from client.data.tables.schema import PURCHASES
from client.profiles.columns import CUSTOMER_FACTS
from common.errors import InputError


def with_terms(values: dict[str, Any], terms: Mapping[str, Definition]) -> dict[str, Any]:
    """A library with what terms mean in their place: ``{ term = "active" }`` is a rule over a fact.

    Args:
        values: The library's TOML; nothing of it is checked.
        terms: What terms mean.

    Raises:
        InputError: A term is not defined, or counts what profiles have no fact for.
    """
    return {
        name: [
            {**each, "when": [_meant(rule, terms) for rule in each["when"]]}
            if isinstance(each, dict) and isinstance(each.get("when"), list)
            else each
            for each in those
        ]
        if isinstance(those, list)
        else those
        for name, those in values.items()
    }


def _meant(rule: object, terms: Mapping[str, Definition]) -> object:
    if not isinstance(rule, dict) or rule.keys() != {"term"}:
        return rule
    meant = terms.get(str(rule["term"]))
    if meant is None:
        raise InputError(
            f"The tag library names the term {str(rule['term'])[:64]!r}, which the region's data "
            "standards do not define.",
            remedy=f"Use one of {', '.join(terms) or 'none'}, or a rule over facts.",
        )
    fact = f"purchase_days_{meant.within_days}"
    if (meant.table, meant.count, dict(meant.where)) != (PURCHASES, "days", {}) or (
        fact not in CUSTOMER_FACTS
    ):
        raise InputError(
            f"The term {rule['term']!r} counts what profiles have no fact for.",
            remedy="Profiles know days with a purchase within 30, 90 or 365 days; write a rule "
            "over facts for anything else.",
        )
    return {"fact": fact, "at_least": meant.at_least}
