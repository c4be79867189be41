"""The report's section on consents: per region, over time, and the notices they rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.audit.report.journal import Choice, Journal
from common.audit.report.standing import Moment, Standings, Tally, grace_s, moments
from common.audit.verify.replay import Entry, LogReplay
from common.timestamps import format_time, parse_time


@dataclass(frozen=True)
class Share:
    """How many consents in force share something, such as a legal basis."""

    name: str
    number: int


@dataclass(frozen=True)
class RoundCount:
    """Consents in force at a round's consent checkpoint, counted anew."""

    run: str
    number: int
    at: str
    in_force: int


@dataclass(frozen=True)
class RegionConsents:
    """One region's consents.

    Attributes:
        region: Its name.
        records: Consent records in the log.
        unread: Entries that could not be read; they are in no figure.
        choices: Records by what was chosen.
        tally: All customers when the bundle was written.
        at: When that was.
        minors: Minors among the consents in force, each with a guardian's consent.
        legal_bases: Consents in force by legal basis.
        jurisdictions: Likewise by jurisdiction.
        methods: All records by how the choice was made.
        moments: All customers over time.
        snapshots: Consents in force at each round's checkpoint.
    """

    region: str
    records: int
    unread: int
    choices: Mapping[str, int]
    tally: Tally
    at: str
    minors: int
    legal_bases: tuple[Share, ...]
    jurisdictions: tuple[Share, ...]
    methods: tuple[Share, ...]
    moments: tuple[Moment, ...]
    snapshots: tuple[RoundCount, ...]


@dataclass(frozen=True)
class Notice:
    """A notice that customers were shown.

    Attributes:
        region: In whose log it is.
        index: Its entry there.
        notice_id: Its name.
        lang: Its language, as a BCP 47 tag.
        controller: Who asks.
        purposes: For what.
        in_force_from: From when.
        recipients: Who receives what, as it says.
        retention: How long what is kept.
        storage: Where.
        contact: Whom to ask.
        text: Its whole text.
        sha256: The digest by which consents name it; None if the bundle has no consents.
        supersedes: The name of the notice it replaces, if any.
        supersedes_index: That notice's entry.
        lapse_at: From when consents to it are over, because another replaced it.
        records: How many consent records name it; None if consents are not in the bundle.
        in_force: How many consents in force name it; None likewise.
    """

    region: str
    index: int
    notice_id: str
    lang: str
    controller: str
    purposes: tuple[str, ...]
    in_force_from: str
    recipients: str
    retention: str
    storage: str
    contact: str
    text: str
    sha256: str | None = None
    supersedes: str | None = None
    supersedes_index: int | None = None
    lapse_at: str | None = None
    records: int | None = None
    in_force: int | None = None


def region_consents(replay: LogReplay, journal: Journal, created_ms: int) -> RegionConsents:
    """Reads one region's consents.

    Args:
        replay: The region's log.
        journal: Its consents.
        created_ms: When the bundle was written, in milliseconds since the epoch.
    """
    standings = Standings(journal, replay)
    counts = _snapshots(replay, standings)
    tally = standings.tally(replay.size, created_ms)
    newest = _newest_in_force(journal, standings, replay.size, created_ms)
    return RegionConsents(
        region=replay.party,
        records=len(journal),
        unread=journal.unread,
        choices={each.name.lower(): journal.choices.count(each) for each in Choice},
        tally=tally,
        at=format_time(created_ms),
        minors=sum(journal.form_of(position).minor for position in newest),
        legal_bases=_shares(journal.form_of(position).legal_basis for position in newest),
        jurisdictions=_shares(journal.form_of(position).jurisdiction for position in newest),
        methods=_shares(journal.form_list[form].method for form in journal.forms),
        moments=tuple(
            moments(journal, replay, created_ms, [parse_time(count.at) for count in counts])
        ),
        snapshots=tuple(sorted(counts, key=lambda count: (count.run, count.number))),
    )


def _snapshots(replay: LogReplay, standings: Standings) -> list[RoundCount]:
    counts = []
    for entry in sorted(replay.of_kind("round"), key=consent_size):
        size, at = consent_size(entry), str(entry.part("train")["at"])
        in_force = int(standings.in_force(size, parse_time(at)).sum())
        counts.append(RoundCount(entry.text("run"), entry.number("round"), at, in_force))
    return counts


def consent_size(entry: Entry) -> int:
    """At how many entries of its region's log a round's consents end."""
    size = entry.part("consent")["size"]
    return size if isinstance(size, int) else 0


def notices(replay: LogReplay, journal: Journal | None, created_ms: int) -> list[Notice]:
    """The notices of one region's log; arguments as for `region_consents`.

    Without a journal (the bundle has no consents) nothing is said of who consented to which.
    """
    if journal is None:
        return [_notice(entry) for entry in replay.of_kind("notice")]
    named = Counter(journal.notices)
    newest = _newest_in_force(journal, Standings(journal, replay), replay.size, created_ms)
    in_force = Counter(journal.notices[position] for position in newest)
    numbers = {digest: number for number, digest in enumerate(journal.notice_digests)}
    known = {each.sha256: each.entry for each in journal.logged_notices}
    lapses = _lapses(replay, journal)
    found = []
    for logged in journal.logged_notices:
        number = numbers.get(logged.sha256, -1)
        older = known.get(str(logged.entry.record["supersedes"]))
        found.append(
            replace(
                _notice(logged.entry),
                sha256=logged.sha256,
                supersedes=older.text("notice_id") if older else None,
                supersedes_index=older.index if older else None,
                lapse_at=lapses.get(logged.sha256),
                records=named[number],
                in_force=in_force[number],
            )
        )
    return found


def _notice(entry: Entry) -> Notice:
    purposes = entry.record["purposes"]
    return Notice(
        region=entry.party,
        index=entry.index,
        notice_id=entry.text("notice_id"),
        lang=entry.text("lang"),
        controller=entry.text("controller"),
        purposes=tuple(map(str, purposes)) if isinstance(purposes, list) else (),
        in_force_from=entry.text("in_force_from"),
        recipients=entry.text("recipients"),
        retention=entry.text("retention"),
        storage=entry.text("storage"),
        contact=entry.text("contact"),
        text=entry.text("text"),
    )


def _newest_in_force(
    journal: Journal, standings: Standings, size: int, at_ms: int
) -> Sequence[int]:
    """The journal positions of the records by which consents are in force."""
    mask = standings.in_force(size, at_ms)
    newest: dict[int, int] = {}
    for position, subject in enumerate(journal.subjects):
        if mask[subject]:
            newest[subject] = position
    return list(newest.values())


def _lapses(replay: LogReplay, journal: Journal) -> dict[str, str]:
    lapses: dict[str, int] = {}
    for logged in journal.logged_notices:
        older = logged.entry.record["supersedes"]
        if older is not None:
            lapse = logged.entry.time_ms("in_force_from") + 1000 * grace_s(replay)
            lapses[str(older)] = min(lapse, lapses.get(str(older), lapse))
    return {digest: format_time(lapse) for digest, lapse in lapses.items()}


def _shares(names: Iterable[str]) -> tuple[Share, ...]:
    counted = Counter(names)
    return tuple(Share(name, counted[name]) for name in sorted(counted))
