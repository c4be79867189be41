"""What the recommender answers, as JSON: for the HTTP API and for the command line."""

from __future__ import annotations

from collections.abc import Iterable

from client.recommend.types import Answer, Reason, Recommended

Record = dict[str, object]


def answer_record(answer: Answer) -> Record:
    """An answer, field by field."""
    return {
        "items": item_records(answer.items),
        "personal": answer.personal,
        "why_not_personal": answer.why_not_personal,
        "model": answer.model,
        "variant": answer.variant,
        "consent_size": answer.consent_size,
    }


def item_records(items: Iterable[Recommended]) -> list[Record]:
    """A list of items, best first."""
    return [
        {"item": each.item, "score": each.score, "reasons": [*map(_reason, each.reasons)]}
        for each in items
    ]


def _reason(reason: Reason) -> Record:
    return {"code": reason.code, "about": reason.about}
