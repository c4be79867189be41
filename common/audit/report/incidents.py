"""The report's section on what did not go as planned: refusals, faults, discarded rounds."""

from __future__ import annotations

from dataclasses import dataclass

from common.audit.verify.replay import SERVER, Evidence

DISCARDED = "discarded-for-withdrawal"


@dataclass(frozen=True)
class Incident:
    """A logged refusal or fault.

    Attributes:
        party: In whose log it is.
        index: Its entry there.
        at: When.
        run: The run, if it was in one.
        number: The round, if it was in one.
        region: The region it is about.
        reason: A code.
        detail: The party's own words; empty for a region that an aggregate names as left out.
    """

    party: str
    index: int
    at: str
    run: str | None
    number: int | None
    region: str | None
    reason: str
    detail: str

    @property
    def discarded(self) -> bool:
        """Whether a round was thrown away because someone in it withdrew."""
        return self.reason == DISCARDED


def incidents(evidence: Evidence) -> list[Incident]:
    """All incidents of all logs, and every region that a round went without; by time."""
    found = []
    for party, replay in sorted(evidence.replays.items()):
        for entry in replay.of_kind("incident"):
            run, number = entry.record["run"], entry.record["round"]
            region = entry.record["region"]
            found.append(
                Incident(
                    party=party,
                    index=entry.index,
                    at=entry.text("time"),
                    run=None if run is None else str(run),
                    number=number if isinstance(number, int) else None,
                    region=None if region is None else str(region),
                    reason=entry.text("reason"),
                    detail=entry.text("detail"),
                )
            )
    return sorted(found + _left_out(evidence), key=lambda each: (each.at, each.party, each.index))


def _left_out(evidence: Evidence) -> list[Incident]:
    server = evidence.replays.get(SERVER)
    return [
        Incident(
            party=SERVER,
            index=entry.index,
            at=entry.text("end"),
            run=entry.text("run"),
            number=entry.number("round"),
            region=str(refused["region"]),
            reason=str(refused["reason"]),
            detail="",
        )
        for entry in (server.of_kind("aggregate") if server else ())
        for refused in entry.parts("refused")
    ]
