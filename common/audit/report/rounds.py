"""The report's sections on rounds and on what left: who took part, bound to which consents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from common.audit.report.consents import consent_size
from common.audit.verify.checkpoints import COSIGNATURE_GRAIN_MS
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, SERVER, Entry, Evidence, LogReplay
from common.timestamps import format_time, parse_time


@dataclass(frozen=True)
class Cosignature:
    """Another party's signature under a round's consent checkpoint.

    Attributes:
        party: Whose.
        at: When, to the second.
        age_s: How old it was when the round started; 0 if it came in that very second.
    """

    party: str
    at: str
    age_s: int


@dataclass(frozen=True)
class RegionRound:
    """One region's part of one round.

    Attributes:
        region: Its name.
        index: The round's entry in the region's log.
        run: The run.
        number: The round.
        attempt: Which attempt of the round.
        mechanism: What was computed.
        size: At how many log entries the round's consents end.
        root: The log's root hash there, in hex.
        snapshot_at: When expiry was judged.
        bucket: The number of customers learnt from, as a range.
        in_force: Their exact number, counted anew; None if the bundle has no consents.
        cosignatures: Who else had seen that checkpoint.
        start: When the round began.
        end: When it ended.
        used: Whether the server's log says that the update was used.
    """

    region: str
    index: int
    run: str
    number: int
    attempt: int
    mechanism: str
    size: int
    root: str
    snapshot_at: str
    bucket: str
    in_force: int | None
    cosignatures: tuple[Cosignature, ...]
    start: str
    end: str
    used: bool

    @property
    def took_ms(self) -> int:
        """How long it took, in milliseconds."""
        return max(parse_time(self.end) - parse_time(self.start), 0)


@dataclass(frozen=True)
class Array:
    """An array that left a region."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Release:
    """One release: all that left one region in one round.

    Attributes:
        region: The region.
        index: The release's entry in its log.
        run: The run.
        number: The round.
        attempt: Which attempt of the round.
        mechanism: What was computed; empty if its round entry is missing.
        arrays: What it consists of.
        n_bytes: Its size.
        update: Its digest.
        at: When.
    """

    region: str
    index: int
    run: str
    number: int
    attempt: int
    mechanism: str
    arrays: tuple[Array, ...]
    n_bytes: int
    update: str
    at: str


@dataclass(frozen=True)
class ReleaseKind:
    """Releases of the same arrays.

    Attributes:
        mechanism: What was computed.
        arrays: What each consists of.
        n_bytes: The size of each.
        releases: How many left.
        by_region: How many left each region.
    """

    mechanism: str
    arrays: tuple[Array, ...]
    n_bytes: int
    releases: int
    by_region: Mapping[str, int]


def region_rounds(
    evidence: Evidence, replay: LogReplay, in_force: Mapping[tuple[str, int], int]
) -> list[RegionRound]:
    """Reads one region's rounds.

    Args:
        evidence: The verified content.
        replay: The region's log.
        in_force: By run and round, the consents in force at its checkpoint, as far as known.
    """
    cosigned: dict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for size, party, times in replay.cosigned:
        cosigned[size].append((party, times))
    used = _used(evidence)
    return [
        _region_round(entry, cosigned[consent_size(entry)], in_force, entry.leaf in used)
        for entry in replay.of_kind("round")
    ]


def _region_round(
    entry: Entry,
    cosigned: list[tuple[str, tuple[int, ...]]],
    in_force: Mapping[tuple[str, int], int],
    used: bool,
) -> RegionRound:
    start_ms = entry.time_ms("start")
    train = entry.part("train")
    return RegionRound(
        region=entry.party,
        index=entry.index,
        run=entry.text("run"),
        number=entry.number("round"),
        attempt=entry.number("attempt"),
        mechanism=entry.text("mechanism"),
        size=consent_size(entry),
        root=str(entry.part("consent")["root"]),
        snapshot_at=str(train["at"]),
        bucket=str(train["n_bucket"]),
        in_force=in_force.get((entry.text("run"), entry.number("round"))),
        cosignatures=tuple(_cosignature(party, times, start_ms) for party, times in cosigned),
        start=entry.text("start"),
        end=entry.text("end"),
        used=used,
    )


def _cosignature(party: str, times: tuple[int, ...], start_ms: int) -> Cosignature:
    # A size may be cosigned again later; what counts for the round is the last one before it.
    latest = start_ms + CLOCK_TOLERANCE_MS + COSIGNATURE_GRAIN_MS
    time_ms = max((time for time in times if time <= latest), default=times[0])
    time_ms -= time_ms % 1000  # The second it states; the verifier takes the end of that second.
    return Cosignature(party, format_time(time_ms), max(start_ms - time_ms, 0) // 1000)


def _used(evidence: Evidence) -> set[str]:
    server = evidence.replays.get(SERVER)
    aggregates = server.of_kind("aggregate") if server else ()
    return {
        str(part["round_entry"]) for aggregate in aggregates for part in aggregate.parts("regions")
    }


def releases(evidence: Evidence) -> list[Release]:
    """Everything that left any region, in the order of regions and logs."""
    found = []
    for replay in evidence.regions():
        mechanisms = {
            entry.text("charge_id"): entry.text("mechanism") for entry in replay.of_kind("charge")
        }
        found += [
            _release(entry, mechanisms.get(entry.text("charge_id"), ""))
            for entry in replay.of_kind("release")
        ]
    return found


def _release(entry: Entry, mechanism: str) -> Release:
    return Release(
        region=entry.party,
        index=entry.index,
        run=entry.text("run"),
        number=entry.number("round"),
        attempt=entry.number("attempt"),
        mechanism=mechanism,
        arrays=tuple(
            Array(str(array["name"]), str(array["dtype"]), _shape(array["shape"]))
            for array in entry.parts("arrays")
        ),
        n_bytes=entry.number("bytes"),
        update=entry.text("update"),
        at=entry.text("time"),
    )


def _shape(value: object) -> tuple[int, ...]:
    return tuple(n for n in value if isinstance(n, int)) if isinstance(value, list) else ()


def release_kinds(items: list[Release]) -> list[ReleaseKind]:
    """The releases, those of the same arrays together."""
    grouped: dict[tuple[str, tuple[Array, ...], int], dict[str, int]] = {}
    for each in items:
        by_region = grouped.setdefault((each.mechanism, each.arrays, each.n_bytes), {})
        by_region[each.region] = by_region.get(each.region, 0) + 1
    return [
        ReleaseKind(mechanism, arrays, n_bytes, sum(by_region.values()), by_region)
        for (mechanism, arrays, n_bytes), by_region in grouped.items()
    ]
