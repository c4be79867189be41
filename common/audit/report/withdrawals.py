"""The report's section on withdrawals and erasures: from which round on each one counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from common.audit.report.consents import consent_size
from common.audit.report.journal import Choice, Journal
from common.audit.report.standing import Standings
from common.audit.verify.replay import Entry, LogReplay
from common.timestamps import format_time, parse_time


@dataclass(frozen=True)
class Withdrawal:
    """A record that ended a customer's consent to training, or withdrew without one.

    Attributes:
        region: In whose log it is.
        index: Its entry there; the customer is named by nothing else.
        at: When the customer chose so, as the record states.
        kind: ``withdrawn``, ``erased``, or ``refused`` for a consent that no longer names training.
        excluded_run: The run of the first round that leaves the customer out; None if no later
            round is in the bundle.
        excluded_round: That round.
        rounds_before: How many rounds before it the customer was part of.
        latency_ms: From the withdrawal to that round's consent snapshot; None if there is none.
    """

    region: str
    index: int
    at: str
    kind: str
    excluded_run: str | None
    excluded_round: int | None
    rounds_before: int
    latency_ms: int | None


@dataclass(frozen=True)
class RegionWithdrawals:
    """One region's withdrawals.

    Attributes:
        region: Its name.
        items: All of them, in the log's order.
        after_last: How many no later round of the bundle could show.
        median_latency_ms: Median time to the next consent snapshot; None if there is none.
        longest_latency_ms: The longest one.
    """

    region: str
    items: tuple[Withdrawal, ...]
    after_last: int
    median_latency_ms: int | None
    longest_latency_ms: int | None

    @property
    def erasures(self) -> tuple[Withdrawal, ...]:
        """Those that are erasures."""
        return tuple(each for each in self.items if each.kind == "erased")


def region_withdrawals(replay: LogReplay, journal: Journal) -> RegionWithdrawals:
    """Reads one region's withdrawals.

    Args:
        replay: The region's log.
        journal: Its consents.
    """
    positions = _endings(journal)
    rounds = sorted(replay.of_kind("round"), key=lambda each: (consent_size(each), each.index))
    included = _included(positions, journal, replay, rounds)
    items = tuple(
        _withdrawal(position, journal, replay, rounds, included) for position in positions
    )
    latencies = [each.latency_ms for each in items if each.latency_ms is not None]
    return RegionWithdrawals(
        region=replay.party,
        items=items,
        after_last=sum(each.excluded_round is None for each in items),
        median_latency_ms=round(median(latencies)) if latencies else None,
        longest_latency_ms=max(latencies, default=None),
    )


def _endings(journal: Journal) -> list[int]:
    """The positions of records that withdraw, or that end a consent given before."""
    granted: set[int] = set()
    found = []
    for position, subject in enumerate(journal.subjects):
        choice = journal.choices[position]
        if choice == Choice.GIVEN:
            granted.add(subject)
            continue
        if choice != Choice.REFUSED or subject in granted:
            found.append(position)
        granted.discard(subject)
    return found


def _included(
    positions: Sequence[int], journal: Journal, replay: LogReplay, rounds: Sequence[Entry]
) -> Mapping[int, list[int]]:
    """For each customer who withdrew, the consent sizes of the rounds that they were part of."""
    subjects = sorted({journal.subjects[position] for position in positions})
    standings = Standings(journal, replay)
    found: dict[int, list[int]] = {subject: [] for subject in subjects}
    for entry in rounds:
        size = consent_size(entry)
        mask = standings.in_force(size, parse_time(str(entry.part("train")["at"])))
        for subject in subjects:
            if mask[subject]:
                found[subject].append(size)
    return found


def _withdrawal(
    position: int,
    journal: Journal,
    replay: LogReplay,
    rounds: Sequence[Entry],
    included: Mapping[int, list[int]],
) -> Withdrawal:
    index, time_ms = journal.indexes[position], journal.times_ms[position]
    first = next((entry for entry in rounds if consent_size(entry) > index), None)
    snapshot_ms = parse_time(str(first.part("train")["at"])) if first else None
    sizes = included[journal.subjects[position]]
    return Withdrawal(
        region=replay.party,
        index=index,
        at=format_time(time_ms),
        kind=Choice(journal.choices[position]).name.lower(),
        excluded_run=first.text("run") if first else None,
        excluded_round=first.number("round") if first else None,
        rounds_before=sum(size <= index for size in sizes),
        latency_ms=None if snapshot_ms is None else max(snapshot_ms - time_ms, 0),
    )
