"""A refresh of profiles: what is new is taken in, and those whom it is about are judged.

What a refresh leaves is what a build of the same rows would, but for the models, which are those of
the last build. On a new day everybody is judged, as time alone changes what is true.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from client.data.consent_filter import EligibleCustomers
from client.data.tables.schema import EVENTS, PURCHASES
from client.profiles.building import build_within, counted, counts_of
from client.profiles.columns import Moment, columns_of
from client.profiles.feeds import PurchaseFeed
from client.profiles.judging import fired, judge
from client.profiles.making import Making, NewEvents, Outcome, require_profiling
from client.profiles.manifest import Manifest
from client.profiles.purchases import SHARDS, Admitted, PurchaseCollector, shard_of
from client.profiles.store import Change, DamagedProfilesError
from client.profiles.tables import Array, Facts, added

_DAY_MS = 86_400_000


@dataclass
class Refresher:
    """Refreshes the profiles of one region, again and again.

    Attributes:
        making: What they are made of and with.
    """

    making: Making
    # Sorting half a million pseudonyms takes a second: they rarely change.
    _eligible: EligibleCustomers | None = field(default=None, repr=False)
    _everybody: Admitted | None = field(default=None, repr=False)
    _chosen: tuple[str, Admitted, Array] | None = field(default=None, repr=False)

    def refresh(self, eligible: EligibleCustomers, now_ms: int) -> Outcome:
        """Takes in what is new and judges whom it is about; builds if there is nothing yet.

        Args:
            eligible: Those who consent to profiling now.
            now_ms: The time, milliseconds since the epoch.

        Raises:
            ConsentError: The customers are chosen by another purpose.
            QualityGateError: Too many rows are wrong, or the data standards let nobody use a table;
                the profiles of before stay.
            InputError: A table cannot be read.
            StorageError: Profiles cannot be kept.
        """
        require_profiling(eligible)
        store = self.making.store
        with store.exclusive():
            manifest = store.manifest()
            if manifest is None or manifest.basis != self.making.basis:
                return build_within(self.making, eligible, now_ms)
            try:
                return self._refresh(manifest, eligible, now_ms)
            except DamagedProfilesError:
                return self._build(manifest, eligible, now_ms)

    def _build(self, manifest: Manifest, eligible: EligibleCustomers, now_ms: int) -> Outcome:
        """Builds anew, for the same moment and by the same cuts if they came from outside."""
        return build_within(
            self.making,
            eligible,
            now_ms,
            as_of_ms=manifest.as_of_ms,
            cuts=manifest.models.cuts.from_outside,
        )

    def _refresh(self, manifest: Manifest, eligible: EligibleCustomers, now_ms: int) -> Outcome:
        making = self.making
        admitted, gone, waiting = self._who(manifest, eligible)
        if len(gone):
            # First of all: a table that cannot be read keeps nobody's profile who has left.
            manifest = self._without(manifest, admitted, gone, eligible.consent_size)
        look = PurchaseFeed(making.tables, making.catalogue).look(manifest.purchases)
        if look.anew:
            # All of it has to be read in any case.
            return self._build(manifest, eligible, now_ms)
        collector = PurchaseCollector(
            admitted, making.catalogue, making.local, until_ms=manifest.as_of_ms
        )
        for rows in look.batches():
            collector.add(rows)
        counts = counts_of(manifest.counts) + look.counts()
        making.require_quality(PURCHASES, counts)
        events = making.new_events(
            admitted, making.store.blob(manifest.events), until_ms=manifest.as_of_ms
        )
        event_counts = counts_of(manifest.event_counts) + events.counts
        making.require_quality(EVENTS, event_counts)
        moment = making.moment(manifest.as_of_ms or now_ms, stated=manifest.stated)
        due = manifest.due
        if look.withdrawn or events.withdrawn:
            due = "rows that were counted are gone"
        step = _Step(making, manifest, moment, collector, events)
        with making.store.change(manifest) as change:
            for shard in range(SHARDS):
                step.take(change, shard)
            if look.changed or events.units or step.everybody or due != manifest.due:
                change.commit(
                    purchases=look.state(),
                    events=change.put_blob(events.state) if events.units else manifest.events,
                    counts=counted(counts),
                    event_counts=counted(event_counts),
                    judged_day=moment.day,
                    refreshed_ms=now_ms,
                    consent_size=eligible.consent_size,
                    due=due,
                    **making.library_state(),
                )
        return Outcome(
            built=False,
            customers=step.customers,
            purchases=look.counts(),
            events=events.counts,
            judged=step.judged,
            triggers=MappingProxyType(dict(step.triggers)),
            taken_out=len(gone),
            waiting=waiting,
            build_due=due or self._due(manifest, now_ms, waiting),
            latency=events.latency,
        )

    def _without(
        self, manifest: Manifest, admitted: Admitted, gone: Array, consent_size: int
    ) -> Manifest:
        """Takes those who left out of all that is kept, whatever else can be read now."""
        store = self.making.store
        with store.change(manifest) as change:
            for shard in range(SHARDS):
                theirs = gone[shard_of(gone) == shard]
                layers = store.facts(change.shard(shard), marks=True) if len(theirs) else []
                if not layers:
                    continue
                whole = added(layers)
                rest = np.flatnonzero(~np.isin(whole.sids, theirs))
                judged = store.judged(change.shard(shard))
                change.replace_layers(shard, whole.take(rest))
                stay = np.flatnonzero(~np.isin(judged.sids, theirs))
                change.put_judged(shard, judged.take(stay))
            change.put_admitted(admitted.sids)
            return change.commit(consent_size=consent_size)

    def _who(self, manifest: Manifest, eligible: EligibleCustomers) -> tuple[Admitted, Array, int]:
        """Whose rows count, whose profile has to go, and how many wait for a build."""
        if self._everybody is None or eligible is not self._eligible:
            self._everybody, self._eligible = Admitted(eligible.pseudonyms), eligible
            self._chosen = None
        everybody = self._everybody
        if self._chosen is None or self._chosen[0] != manifest.admitted:
            before = self.making.store.admitted(manifest)
            staying = np.intersect1d(before, everybody.sids, assume_unique=True)
            admitted = everybody.only(staying)
            gone = np.setdiff1d(before, staying, assume_unique=True)
            self._chosen = (manifest.admitted, admitted, gone)
        _, admitted, gone = self._chosen
        return admitted, gone, len(everybody) - len(admitted)

    def _due(self, manifest: Manifest, now_ms: int, waiting: int) -> str:
        days = (now_ms - manifest.built_ms) / _DAY_MS
        if manifest.as_of_ms is None and days >= self.making.settings.build_every_days:
            return f"the last build is {days:.1f} days old"
        return f"{waiting} customers wait" if waiting else ""


@dataclass
class _Step:
    """One refresh, shard by shard."""

    making: Making
    manifest: Manifest
    moment: Moment
    purchases: PurchaseCollector
    events: NewEvents
    customers: int = 0
    judged: int = 0
    triggers: Counter[str] = field(default_factory=Counter)

    @property
    def everybody(self) -> bool:
        """Whether all are judged: on a new day, or by another library."""
        known = (self.manifest.library_version, self.manifest.judged_day)
        return known != (self.making.library.digest, self.moment.day)

    def take(self, change: Change, shard: int) -> None:
        """Takes in what is new of a shard, and judges."""
        new = self._new_facts(change, shard)
        if new is not None:
            change.add_layer(shard, new)
        self._judge(change, shard, None if new is None else new.sids)

    def _new_facts(self, change: Change, shard: int) -> Facts | None:
        collectors = [
            each for each in (self.purchases, self.events.collector) if len(each.customers(shard))
        ]
        if not collectors:
            return None
        parts = self.making.store.facts(change.shard(shard), marks=True)
        found = []
        for collector in collectors:
            customers = collector.customers(shard)
            known = added_of(parts, customers)
            found.append(collector.facts(shard, known))
        new = added(found)
        # A file that is read again has rows of many, and news of few.
        those = [table.owner for table in new.tables.values()]
        news = np.unique(np.concatenate([np.zeros(0, dtype=np.int32), *those])).astype(np.int64)
        return new.take(news) if len(news) else None

    def _judge(self, change: Change, shard: int, new: Array | None) -> None:
        store, library = self.making.store, self.making.library
        files = change.shard(shard)
        if not files.layers:
            return
        before = store.judged(files)
        if self.everybody:
            before = before.renumbered(self.manifest.library, library, self.manifest.segments)
        now = before
        for facts in self._facts_to_judge(change, shard, new):
            columns = columns_of(facts, self.moment, self.manifest.models)
            judged = judge(facts.sids, columns, library, self.moment.day, before)
            self.triggers.update(fired(judged, before, library))
            self.judged += len(judged)
            now = now.replaced(judged)
        if now is not before:
            change.put_judged(shard, now)
        self.customers += len(now)

    def _facts_to_judge(self, change: Change, shard: int, new: Array | None) -> list[Facts]:
        """Whole facts of those who are judged: of most there is one layer, which is not copied."""
        if not self.everybody and new is None:
            return []
        first, *more = self.making.store.facts(change.shard(shard))
        if not self.everybody and new is not None:
            return [added_of([first, *more], new)]
        if not more:
            return [first]
        later = np.unique(np.concatenate([each.sids for each in more]))
        only_first = np.flatnonzero(~np.isin(first.sids, later))
        return [first.take(only_first), added_of([first, *more], later)]


def added_of(layers: list[Facts], sids: Array) -> Facts:
    """All facts of some customers."""
    none = Facts(sids[:0], {})
    return added([none, *(each.take(each.rows_of(sids)) for each in layers)])
