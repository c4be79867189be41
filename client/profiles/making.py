"""What profiles are made of and with, and what making them came to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from client.data.consent_filter import EligibleCustomers
from client.data.tables.finishing import REPEATED
from client.data.tables.latency import Latency
from client.data.tables.reading import RegionTables
from client.data.tables.rows import TableCounts
from client.data.tables.schema import MEMBERS
from client.profiles.columns import Moment
from client.profiles.events import EventCollector
from client.profiles.feeds import OUT_OF_SCOPE, EventFeed, member_facts
from client.profiles.library import TagLibrary
from client.profiles.purchases import Admitted, LocalTime
from client.profiles.settings import ProfileSettings
from client.profiles.store import ProfileStore
from client.profiles.tables import Facts
from common import canonical_json
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.consent import PROFILING
from common.errors import ConsentError, QualityGateError

_HOUR_MS = 3_600_000
_REASONS_SHOWN = 3
_NOT_WRONG = (OUT_OF_SCOPE, REPEATED)


@dataclass(frozen=True)
class Making:
    """What the profiles of one region are made of and with.

    Attributes:
        region: The region, for messages.
        store: Where they are kept.
        tables: The region's tables.
        catalogue: The public catalogue.
        local: The region's local time.
        library: The tag library.
        settings: The settings.
        threshold: The least share of rows of purchases and of events that must be right.
    """

    region: str
    store: ProfileStore
    tables: RegionTables
    catalogue: Catalogue
    local: LocalTime
    library: TagLibrary
    settings: ProfileSettings
    threshold: float = 0.98

    @property
    def basis(self) -> str:
        """What facts depend on besides the tables' rows: catalogue, parts of the day, zone."""
        record: dict[str, JsonValue] = {
            "catalogue": self.catalogue.digest,
            "clock": self.local.clock.to_record(),
        }
        return hashlib.sha256(canonical_json.encode(record)).hexdigest()

    def moment(self, at_ms: int, *, stated: frozenset[str]) -> Moment:
        """The moment that profiles are judged for."""
        left_after_ms = self.settings.cart_left_after_h * _HOUR_MS
        return Moment(at_ms, self.local, stated, left_after_ms)

    def library_state(self) -> dict[str, object]:
        """What a manifest has of the library."""
        return {
            "library": tuple(each.id for each in self.library.said),
            "library_version": self.library.digest,
            "segments": tuple(each.id for each in self.library.segment),
        }

    def new_events(self, admitted: Admitted, state: bytes, *, until_ms: int | None) -> NewEvents:
        """What is new of events.

        Args:
            admitted: Whose events count.
            state: How far they were followed before.
            until_ms: What is later does not count; None: everything does.

        Raises:
            InputError: They cannot be read.
        """
        feed = EventFeed(self.tables, state)
        collector = EventCollector(admitted, self.catalogue, self.local, until_ms=until_ms)
        fresh = feed.poll()
        if fresh is None:
            return NewEvents(collector, b"")
        collector.add(fresh.rows)
        return NewEvents(
            collector, feed.state(), fresh.counts, fresh.latency, fresh.withdrawn, fresh.units
        )

    def require_quality(self, table: str, counts: TableCounts) -> None:
        """Requires that enough rows of a table are right, and that its standard lets it be used.

        Args:
            table: Purchases or events.
            counts: What was read of it, and what of it is right.

        Raises:
            QualityGateError: They are not: names share, threshold and reasons.
        """
        scope = _in_scope(counts)
        if scope.score >= self.threshold:
            self._require_usable(table, self.tables.problems(table, _right(counts)))
            return
        worst = sorted(scope.reasons.items(), key=lambda each: (-each[1], each[0]))
        shown = ", ".join(f"{reason} {count}" for reason, count in worst[:_REASONS_SHOWN])
        raise QualityGateError(
            f"{self.region}: {scope.score:.2%} of {scope.read} rows of {table} are right, less "
            f"than {self.threshold:.2%} ({shown}); profiles stay as they were.",
            remedy="Correct the table or its declaration; fedpref-region quality says what is "
            "wrong.",
        )

    def members(self, admitted: Admitted) -> Facts:
        """What members' records state of those who may have a profile; nothing without records.

        Raises:
            QualityGateError: The data standards let nobody use the table.
            InputError: It cannot be read.
        """
        if MEMBERS not in self.tables.names:
            return Facts(admitted.sids[:0], {})
        read = self.tables.read(MEMBERS)
        self._require_usable(MEMBERS, read.problems)
        return member_facts(read.rows, admitted)

    def _require_usable(self, table: str, problems: Sequence[str]) -> None:
        if problems:
            raise QualityGateError(
                f"{self.region}: the data standards let nobody use the table {table}: "
                f"{'; '.join(problems)}. Profiles stay as they were.",
                remedy="Correct the table or the standards; fedpref-region quality report says "
                "what is wrong.",
            )


@dataclass(frozen=True)
class NewEvents:
    """What is new of events.

    Attributes:
        collector: Gives their facts.
        state: How far they are followed now.
        counts: What was read, and what was left out.
        latency: From each event to now.
        withdrawn: Events that were counted and are gone.
        units: How many files or ranges were read.
    """

    collector: EventCollector
    state: bytes = field(repr=False)
    counts: TableCounts = field(default_factory=TableCounts)
    latency: Latency = field(default_factory=Latency)
    withdrawn: int = 0
    units: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a build or a refresh came to.

    Attributes:
        built: Whether everything was read anew.
        customers: How many have a profile now.
        purchases: What was read of purchases, and what was left out and why.
        events: Likewise of events.
        judged: How many profiles were judged.
        triggers: By trigger, how often it became complete.
        taken_out: Customers whose consent ended, and whose profile is gone.
        waiting: Customers who consented since the last build: the next one reads their history.
        build_due: Why a build is due; empty if none is.
        latency: From events to now, for those that were new.
    """

    built: bool
    customers: int
    purchases: TableCounts
    events: TableCounts
    judged: int
    triggers: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    taken_out: int = 0
    waiting: int = 0
    build_due: str = ""
    latency: Latency = field(default_factory=Latency)

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "built": self.built,
            "customers": self.customers,
            "purchases": self.purchases.to_record(),
            "events": self.events.to_record(),
            "judged": self.judged,
            "triggers": dict(self.triggers),
            "taken_out": self.taken_out,
            "waiting": self.waiting,
            "build_due": self.build_due,
            "latency": self.latency.to_record(),
        }


def require_profiling(eligible: EligibleCustomers) -> None:
    """Requires that customers were chosen by their consent to profiling.

    Raises:
        ConsentError: They were not.
    """
    if not isinstance(eligible, EligibleCustomers) or eligible.purpose != PROFILING:
        raise ConsentError(
            f"Profiles are made of those alone who consented to {PROFILING}.",
            remedy="Take the eligible customers of that purpose.",
        )


def _right(counts: TableCounts) -> TableCounts:
    """With rows that nothing is wrong with but what they are of, or that they are read again."""
    right = sum(counts.reasons.get(each, 0) for each in _NOT_WRONG)
    reasons = {name: rows for name, rows in counts.reasons.items() if name not in _NOT_WRONG}
    accepted = counts.accepted + right
    return TableCounts(counts.read, counts.unmatched, accepted, reasons, counts.guessed)


def _in_scope(counts: TableCounts) -> TableCounts:
    """As `_right`, without the rows of products that the catalogue excludes."""
    out, right = counts.reasons.get(OUT_OF_SCOPE, 0), _right(counts)
    return replace(right, read=right.read - out, accepted=right.accepted - out)
