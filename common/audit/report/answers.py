"""The report's table of what regions computed of their customers for themselves."""

from __future__ import annotations

from dataclasses import dataclass

from common.audit.verify.replay import Evidence, LogReplay


@dataclass(frozen=True)
class Answer:
    """A region's answer to a part of its own query; nothing of it left.

    Attributes:
        region: The region.
        index: The answer's entry in its log.
        query: The query's id.
        name: What was asked.
        consented: What customers had consented to who were counted.
        bucket: Their number, as a range.
        epsilon: ε of the query so far, as its charge states; None without a charge.
        at: When.
    """

    region: str
    index: int
    query: str
    name: str
    consented: tuple[str, ...]
    bucket: str
    epsilon: str | None
    at: str


def answers(evidence: Evidence) -> list[Answer]:
    """Every region's answers, by region and log order."""
    return [answer for replay in evidence.regions() for answer in _of_region(replay)]


def _of_region(replay: LogReplay) -> list[Answer]:
    queries = {entry.text("permit_id"): entry for entry in replay.of_kind("query")}
    charges = {entry.text("charge_id"): entry for entry in replay.of_kind("charge")}
    found = []
    for entry in replay.of_kind("answer"):
        query = queries.get(entry.text("permit_id"))
        charge = charges.get(entry.text("charge_id"))
        listed = query.record["consented"] if query is not None else []
        found.append(
            Answer(
                region=replay.party,
                index=entry.index,
                query=entry.text("permit_id"),
                name=entry.text("mechanism"),
                consented=tuple(map(str, listed)) if isinstance(listed, list) else (),
                bucket=str(entry.part("included")["n_bucket"]),
                epsilon=charge.text("epsilon_run") if charge is not None else None,
                at=entry.text("end"),
            )
        )
    return found
