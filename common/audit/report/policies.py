"""The report's section on policies and permits: what each region allows, as it signed it."""

from __future__ import annotations

from dataclasses import dataclass

from common.audit.verify.fields import Record
from common.audit.verify.replay import Evidence


@dataclass(frozen=True)
class Policy:
    """A region's policy as logged.

    Attributes:
        region: The region.
        index: Its entry.
        in_force_from: From when.
        sha256: Its digest.
        fields: Its fields, as the controller signed them.
        newest: Whether no later one replaces it.
    """

    region: str
    index: int
    in_force_from: str
    sha256: str
    fields: Record
    newest: bool


@dataclass(frozen=True)
class Permit:
    """A region's permission for a run.

    Attributes:
        region: The region.
        index: Its entry.
        run: For which run.
        issued_at: When.
        expires: Until when.
        epsilon_cap: The most ε that the run may spend.
        delta: At which δ.
        rounds: How many rounds.
        app: Digest of the coordinator's app, in hex.
        engine: Digest of the code that trains, in hex.
        deps: Digest of the list of libraries, in hex.
    """

    region: str
    index: int
    run: str
    issued_at: str
    expires: str
    epsilon_cap: str
    delta: str
    rounds: int
    app: str
    engine: str
    deps: str


def policies(evidence: Evidence) -> list[Policy]:
    """Every policy of every region, by region and log order."""
    found = []
    for replay in evidence.regions():
        entries = list(replay.of_kind("policy"))
        found += [
            Policy(
                region=replay.party,
                index=entry.index,
                in_force_from=entry.text("in_force_from"),
                sha256=entry.text("policy_sha256"),
                fields=entry.part("policy"),
                newest=entry is entries[-1],
            )
            for entry in entries
        ]
    return found


def permits(evidence: Evidence) -> list[Permit]:
    """Every permit of every region, by region and log order."""
    return [
        Permit(
            region=replay.party,
            index=entry.index,
            run=entry.text("run"),
            issued_at=entry.text("issued_at"),
            expires=entry.text("expires"),
            epsilon_cap=entry.text("epsilon_cap"),
            delta=entry.text("delta"),
            rounds=sum(_count(each["rounds"]) for each in entry.parts("mechanisms")),
            app=entry.text("app"),
            engine=entry.text("engine"),
            deps=entry.text("deps"),
        )
        for replay in evidence.regions()
        for entry in replay.of_kind("permit")
    ]


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else 0
