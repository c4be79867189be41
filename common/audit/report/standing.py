"""Whose consent is in force at a size and time of a log, by the report's own replay.

Order is the log's: a record counts after those before it, whatever its clock said. On a chart it
stands no earlier than they do either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from common.audit.report.journal import FOREVER_MS, Choice, Journal
from common.audit.verify.replay import LogReplay

# More points than a chart has room for add nothing to it.
MAX_POINTS = 160
_NOBODY = 255

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """How many customers' newest record says what.

    Attributes:
        in_force: Consent to federated training is in force.
        expired: It was given, and its own term has ended.
        lapsed: It was given to a notice that a newer one has superseded, and the time that the
            policy grants is over.
        withdrawn: It was withdrawn.
        erased: It was withdrawn by an erasure.
        refused: It was refused, or given for other purposes only.
    """

    in_force: int = 0
    expired: int = 0
    lapsed: int = 0
    withdrawn: int = 0
    erased: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        """All customers with a record."""
        return sum((self.in_force, self.over, self.left, self.refused))

    @property
    def over(self) -> int:
        """Consents that ended without the customer's doing anything."""
        return self.expired + self.lapsed

    @property
    def left(self) -> int:
        """Customers who withdrew, by erasure or without."""
        return self.withdrawn + self.erased


@dataclass(frozen=True)
class _Supersession:
    """From when on, by the log's order and its clock, consents to a notice lapse."""

    index: int
    notice: int
    lapse_ms: int


class Standings:
    """Answers whose consent is in force, for ever larger sizes of a log.

    Args:
        journal: The log's consents.
        replay: The log, for its notices and policies.
    """

    def __init__(self, journal: Journal, replay: LogReplay) -> None:
        self._journal = journal
        self._choices = np.full(journal.n_subjects, _NOBODY, dtype=np.uint8)
        self._until = np.zeros(journal.n_subjects, dtype=np.int64)
        self._notice = np.zeros(journal.n_subjects, dtype=np.int64)
        self._position = 0
        self._supersessions = list(_supersessions(journal, replay))

    def advance(self, size: int) -> None:
        """Takes the records of the log's first ``size`` entries; sizes never fall."""
        journal, stop = self._journal, self._journal.before(size)
        for position in range(self._position, stop):
            subject = journal.subjects[position]
            self._choices[subject] = journal.choices[position]
            self._until[subject] = journal.until_ms[position]
            self._notice[subject] = journal.notices[position]
        self._position = max(stop, self._position)

    def in_force(self, size: int, at_ms: int) -> npt.NDArray[np.bool_]:
        """For each customer, whether consent is in force after ``size`` entries, at a time."""
        self.advance(size)
        until = np.minimum(self._until, self._lapses(size)[self._notice])
        mask: npt.NDArray[np.bool_] = (self._choices == Choice.GIVEN) & (until > at_ms)
        return mask

    def tally(self, size: int, at_ms: int, *, noticed: int | None = None) -> Tally:
        """Counts all customers after ``size`` entries, at a time.

        Args:
            size: How many entries count.
            at_ms: When expiry is judged, in milliseconds since the epoch.
            noticed: How many entries count as to notices, if it is not ``size``.
        """
        self.advance(size)
        given = self._choices == Choice.GIVEN
        expired = given & (self._until <= at_ms)
        lapses = self._lapses(size if noticed is None else noticed)
        lapsed = given & ~expired & (lapses[self._notice] <= at_ms)
        return Tally(
            in_force=int((given & ~expired & ~lapsed).sum()),
            expired=int(expired.sum()),
            lapsed=int(lapsed.sum()),
            withdrawn=int((self._choices == Choice.WITHDRAWN).sum()),
            erased=int((self._choices == Choice.ERASED).sum()),
            refused=int((self._choices == Choice.REFUSED).sum()),
        )

    def lapse_times(self) -> list[int]:
        """When consents to superseded notices lapse."""
        return [each.lapse_ms for each in self._supersessions]

    def _lapses(self, size: int) -> Numbers:
        lapses = np.full(max(len(self._journal.notice_digests), 1), FOREVER_MS, dtype=np.int64)
        for each in self._supersessions:
            if each.index < size:
                lapses[each.notice] = min(int(lapses[each.notice]), each.lapse_ms)
        return lapses


def _supersessions(journal: Journal, replay: LogReplay) -> Iterator[_Supersession]:
    numbers = {digest: number for number, digest in enumerate(journal.notice_digests)}
    for notice in journal.logged_notices:
        older = notice.entry.record["supersedes"]
        if older in numbers:
            yield _Supersession(
                notice.entry.index,
                numbers[str(older)],
                notice.entry.time_ms("in_force_from") + 1000 * grace_s(replay),
            )


def grace_s(replay: LogReplay) -> int:
    """For how long consents to a superseded notice stay in force, by the newest policy logged."""
    policies = list(replay.of_kind("policy"))
    grace = policies[-1].part("policy").get("notice_grace_s") if policies else 0
    return grace if type(grace) is int and grace >= 0 else 0


@dataclass(frozen=True)
class Moment:
    """All customers of a log at one time."""

    at_ms: int
    tally: Tally


def moments(
    journal: Journal, replay: LogReplay, until_ms: int, also: Sequence[int]
) -> list[Moment]:
    """How the tally changes over time: every change, or as many moments as a chart shows.

    Args:
        journal: The log's consents.
        replay: The log.
        until_ms: The last moment.
        also: Moments to be among them, as far as they are between the first and the last.
    """
    if not len(journal):
        return []
    standings = Standings(journal, replay)
    # A customer's clock is not the log's: no record stands before one that was logged before it.
    logged = [min(time, until_ms) for time in accumulate(journal.times_ms, max)]
    first = logged[0]
    ends = {time for time in journal.until_ms if time < until_ms} | set(standings.lapse_times())
    times = {*logged, *ends, *also, until_ms}
    times = {time for time in times if first <= time <= until_ms}
    if len(times) > MAX_POINTS:
        step = max((until_ms - first) / MAX_POINTS, 1.0)
        times = {first, until_ms, *(round(first + step * n) for n in range(1, MAX_POINTS))}
    found, position = [], 0
    for time in sorted(times):
        while position < len(logged) and logged[position] <= time:
            position += 1
        size = journal.indexes[position - 1] + 1 if position else 0
        found.append(Moment(time, standings.tally(size, time, noticed=replay.size)))
    return found


def by_subject(journal: Journal, positions: Sequence[int]) -> Mapping[int, list[int]]:
    """The journal positions of all records of the customers that some records are of."""
    wanted = {journal.subjects[position] for position in positions}
    found: dict[int, list[int]] = {subject: [] for subject in wanted}
    for position, subject in enumerate(journal.subjects):
        if subject in found:
            found[subject].append(position)
    return found
