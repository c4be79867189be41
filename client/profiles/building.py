"""A build of profiles: everything is read, models are fitted, and everybody is judged."""

from __future__ import annotations

from collections.abc import Mapping

from client.data.consent_filter import EligibleCustomers
from client.data.tables.rows import TableCounts
from client.data.tables.schema import EVENTS, PURCHASES
from client.profiles.columns import Models, Moment, buying_columns, columns_of
from client.profiles.events import EventCollector
from client.profiles.feeds import PurchaseFeed
from client.profiles.fitting import fit_models, joined
from client.profiles.judging import Judged, judge
from client.profiles.making import Making, Outcome, require_profiling
from client.profiles.manifest import Manifest
from client.profiles.purchases import SHARDS, Admitted, PurchaseCollector, shard_of
from client.profiles.rfm import Cuts
from client.profiles.store import Change, DamagedProfilesError
from client.profiles.tables import Facts, added

#: So many rows at most wait before they become facts, in memory (about 1 GB).
FOLD_ROWS = 24_000_000


def build(
    making: Making,
    eligible: EligibleCustomers,
    now_ms: int,
    *,
    as_of_ms: int | None = None,
    cuts: Cuts | None = None,
) -> Outcome:
    """Builds the profiles of a region anew; as a whole or not at all.

    Args:
        making: What they are made of and with.
        eligible: Those who consented to profiling, and nobody else.
        now_ms: The time, milliseconds since the epoch.
        as_of_ms: The moment that profiles are about; the present if it is not given. What is later
            does not count.
        cuts: Cuts of recency, frequency and monetary value from outside.

    Raises:
        ConsentError: The customers are chosen by another purpose.
        QualityGateError: Too many rows are wrong, or the data standards let nobody use a table; the
            profiles of before stay.
        InputError: A table cannot be read.
        StorageError: Profiles cannot be kept.
    """
    require_profiling(eligible)
    with making.store.exclusive():
        return build_within(making, eligible, now_ms, as_of_ms=as_of_ms, cuts=cuts)


def build_within(
    making: Making,
    eligible: EligibleCustomers,
    now_ms: int,
    *,
    as_of_ms: int | None = None,
    cuts: Cuts | None = None,
) -> Outcome:
    """As `build`, to be called within the store's `exclusive`."""
    admitted, before = Admitted(eligible.pseudonyms), making.store.manifest()
    with making.store.change(Manifest(making.basis)) as change:
        look = PurchaseFeed(making.tables, making.catalogue).look()
        collector = PurchaseCollector(admitted, making.catalogue, making.local, until_ms=as_of_ms)
        for rows in look.batches():
            collector.add(rows)
            if collector.waiting >= FOLD_ROWS:
                _fold(making, change, collector)
        making.require_quality(PURCHASES, look.counts())
        _fold(making, change, collector)
        events = making.new_events(admitted, b"", until_ms=as_of_ms)
        making.require_quality(EVENTS, events.counts)
        _fold(making, change, events.collector)
        _add(change, making.members(admitted))
        moment = making.moment(as_of_ms or now_ms, stated=look.stated)
        models = _models(making, change, moment, cuts)
        customers = sum(
            _judge(making, change, shard, moment, models, before) for shard in range(SHARDS)
        )
        change.put_admitted(admitted.sids)
        change.commit(
            purchases=look.state(),
            events=change.put_blob(events.state),
            counts=counted(look.counts()),
            event_counts=counted(events.counts),
            stated=look.stated,
            models=models,
            judged_day=moment.day,
            as_of_ms=as_of_ms,
            built_ms=now_ms,
            refreshed_ms=now_ms,
            consent_size=eligible.consent_size,
            **making.library_state(),
        )
    return Outcome(True, customers, look.counts(), events.counts, customers)


def counted(counts: TableCounts) -> dict[str, int]:
    """What a manifest keeps of what was read."""
    return {
        "read": counts.read,
        "unmatched": counts.unmatched,
        "accepted": counts.accepted,
        "guessed": counts.guessed,
        **{f"reason:{name}": rows for name, rows in counts.reasons.items()},
    }


def counts_of(kept: Mapping[str, int]) -> TableCounts:
    """Reads what `counted` gave."""
    reasons = {
        name.removeprefix("reason:"): rows
        for name, rows in kept.items()
        if name.startswith("reason:")
    }
    return TableCounts(
        kept.get("read", 0),
        kept.get("unmatched", 0),
        kept.get("accepted", 0),
        reasons,
        kept.get("guessed", 0),
    )


def _fold(making: Making, change: Change, collector: PurchaseCollector | EventCollector) -> None:
    """Makes facts of what waits, and adds them to their shards."""
    for shard in collector.shards():
        known = None
        layers = change.shard(shard)
        if layers.layers:
            customers = collector.customers(shard)
            parts = making.store.facts(layers, marks=True)
            known = added([each.take(each.rows_of(customers)) for each in parts])
        change.add_layer(shard, collector.facts(shard, known))


def _add(change: Change, facts: Facts) -> None:
    """Adds facts of customers of all shards."""
    shards = shard_of(facts.sids)
    for shard in sorted(set(shards.tolist())):
        change.add_layer(shard, facts.take((shards == shard).nonzero()[0]))


def _models(making: Making, change: Change, moment: Moment, cuts: Cuts | None) -> Models:
    """Puts each shard into one layer, and fits what customers are compared with."""
    parts = []
    for shard in range(SHARDS):
        layers = change.shard(shard)
        if len(layers.layers) > 1:
            change.replace_layers(shard, added(making.store.facts(layers, marks=True)))
        for facts in making.store.facts(change.shard(shard)):
            parts.append(buying_columns(facts, moment.day, amounts=moment.amounts))
    return fit_models(joined(parts), groups=making.settings.groups, cuts=cuts)


def _judge(
    making: Making,
    change: Change,
    shard: int,
    moment: Moment,
    models: Models,
    before: Manifest | None,
) -> int:
    """Judges one shard's customers; gives their number."""
    count = 0
    for facts in making.store.facts(change.shard(shard)):
        columns = columns_of(facts, moment, models)
        known = _said_before(making, before, shard)
        judged = judge(facts.sids, columns, making.library, moment.day, known)
        change.put_judged(shard, judged)
        count += len(judged)
    return count


def _said_before(making: Making, before: Manifest | None, shard: int) -> Judged | None:
    """What was said before, in the library's numbers of now: what still is keeps its day."""
    if before is None:
        return None
    try:
        known = making.store.judged(before.shards[shard])
    except DamagedProfilesError:
        # Then everything is new, as it is after an erasure.
        return None
    return known.renumbered(before.library, making.library, before.segments)
