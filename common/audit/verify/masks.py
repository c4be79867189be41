"""Step 7, continued: in a confidential run every update left under masks, for the sum it is in.

What masks hide cannot be checked here; that they were made for one sum, and for whose, can: each
region logs the roster before its masked update leaves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

from common import canonical_json
from common.audit.verify.fields import Record
from common.audit.verify.replay import SERVER, Entry, Evidence, LogReplay
from common.audit.verify.verdict import CHAIN

SECURE_SUM = "secure-sum"
LEAST_REGIONS = 3
RING_BITS = 32
_RING_BYTES = RING_BITS // 8
_MAX_ROSTER_BYTES = 1 << 17
_NAMED = 5


def verify_masks(evidence: Evidence) -> None:
    """Checks the masks that the regions logged, and each aggregate against them."""
    masks = [mask for replay in evidence.regions() for mask in _RegionMasks(evidence, replay).all()]
    by_attempt: dict[tuple[int, int], dict[str, Entry]] = {}
    for mask in masks:
        by_attempt.setdefault(_attempt(mask), {})[mask.party] = mask
    plan = evidence.plan
    if plan is None or plan.rule != SECURE_SUM:
        for mask in masks:
            evidence.fail(CHAIN, "mask-not-planned", mask, "Its run's plan has no secure sum.")
        return
    aggregates = [
        entry
        for entry in (evidence.replays[SERVER].entries if SERVER in evidence.replays else [])
        if entry.kind == "aggregate" and entry.record["run"] == evidence.run
    ]
    shared = plan.record["mode"] == "distributed"
    for aggregate in aggregates:
        _check_aggregate(evidence, aggregate, by_attempt.get(_attempt(aggregate), {}), shared)
    evidence.findings.note(
        "The run is confidential: its plan lets the coordinator see the sum of a round's updates "
        "and no single one. That every update kept to its norm bound is its region's claim; behind "
        "masks nobody else could check it."
    )
    if not shared:
        _note_differences(evidence, by_attempt)


class _RegionMasks:
    """The masks of the run in one region's log, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._rounds = {
            entry.leaf: entry
            for other in evidence.regions()
            for entry in other.of_kind("round")
            if entry.record["run"] == evidence.run
        }
        self._released: dict[int, Entry] = {}
        self._last: dict[int, Entry] = {}
        self._keys: dict[str, int] = {}

    def all(self) -> Iterator[Entry]:
        """Checks each mask, and gives it."""
        for entry in self._replay.entries:
            if entry.kind not in ("mask", "release") or entry.record["run"] != self._evidence.run:
                continue
            if entry.kind == "release":
                self._released[entry.number("round")] = entry
                continue
            self._evidence.findings.count(CHAIN, "masks")
            self._check(entry)
            self._last[entry.number("round")] = entry
            yield entry

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(CHAIN, code, entry, message)

    def _check(self, entry: Entry) -> None:
        self._check_order(entry)
        self._check_roster(entry)
        self._check_bytes(entry)
        own = self._own_round(entry)
        if own is None:
            self._fail("mask-round", entry, "Its roster has no round entry that this log holds.")
            return
        self._check_members(entry, own)
        self._check_digest(entry, own)

    def _check_order(self, entry: Entry) -> None:
        last = self._last.get(entry.number("round"))
        if last is None:
            return
        if entry.number("attempt") <= last.number("attempt"):
            self._fail("mask-attempt", entry, "Its attempt was used before, or an earlier one was.")
        # With double masks a later attempt is of other sealed updates: its regions are its own.
        if not self._is_shared() and not set(_regions(entry)) <= set(_regions(last)):
            self._fail(
                "mask-survivors", entry, "It is of regions that the attempt before it was without."
            )

    def _is_shared(self) -> bool:
        plan = self._evidence.plan
        return plan is not None and plan.record["mode"] == "distributed"

    def _check_roster(self, entry: Entry) -> None:
        regions, plan = _regions(entry), self._evidence.plan
        if regions != sorted(set(regions)):
            self._fail("mask-roster", entry, "Its roster names a region twice or out of order.")
        least = LEAST_REGIONS
        if plan is not None:
            quorum = plan.record["quorum"]
            least = max(least, quorum if isinstance(quorum, int) else 0)
            if not set(regions) <= plan.regions:
                self._fail("mask-roster", entry, "Its roster has a region that is not planned.")
        if len(regions) < least:
            self._fail(
                "mask-too-few", entry, f"Its roster has {len(regions)} regions of {least} needed."
            )

    def _check_bytes(self, entry: Entry) -> None:
        release = self._released.get(entry.number("round"))
        if release is None:
            self._fail("mask-release", entry, "No release of its round precedes it.")
            return
        elements = sum(_elements(array) for array in release.parts("arrays"))
        if entry.number("bytes") != _RING_BYTES * elements:
            self._fail("mask-bytes", entry, f"{elements} masked values have another size.")

    def _own_round(self, entry: Entry) -> Entry | None:
        for member in entry.parts("members"):
            own = self._rounds.get(str(member["round_entry"]))
            if member["region"] == entry.party == (own.party if own else None):
                return own if own and own.index < entry.index and _same_round(own, entry) else None
        return None

    def _check_members(self, entry: Entry, own: Entry) -> None:
        keys = set()
        for member in entry.parts("members"):
            other = self._rounds.get(str(member["round_entry"]))
            alike = other is not None and all(
                other.record[name] == own.record[name]
                for name in ("round", "mechanism", "model_in", "plan")
            )
            if other is None or other.party != member["region"] or not alike:
                self._fail(
                    "mask-member",
                    entry,
                    f"The round entry that it names of {member['region']} is not one of this "
                    "round, from the same model.",
                )
            key = str(member["public_key"])
            keys.add(key)
            if self._keys.setdefault(key, entry.number("round")) != entry.number("round"):
                self._fail("mask-key-reused", entry, "A key in its roster served another round.")
        if len(keys) != len(entry.parts("members")):
            self._fail("mask-key-shared", entry, "Two regions of its roster have one key.")

    def _check_digest(self, entry: Entry, own: Entry) -> None:
        plan = self._evidence.plan
        grid = None if plan is None else plan.grid_exponent_of(own.number("round"))
        if plan is None or grid is None:
            return
        roster: Record = {
            "v": "fedpref-roster/1",
            "run": entry.record["run"],
            "plan": own.record["plan"],
            "round": own.record["round"],
            "mechanism": own.record["mechanism"],
            "model_in": own.record["model_in"],
            "quantiser": {
                "grid_exponent": grid,
                "most_summed": len(plan.regions),
                "ring_bits": RING_BITS,
            },
            "members": entry.record["members"],
        }
        data = canonical_json.encode(roster, max_bytes=_MAX_ROSTER_BYTES)
        if hashlib.sha256(data).hexdigest() != entry.record["roster"]:
            self._fail("mask-digest", entry, "Its roster has another digest than it states.")


def _check_aggregate(
    evidence: Evidence, aggregate: Entry, masks: dict[str, Entry], shared: bool
) -> None:
    """Every update in an aggregate left under masks for exactly this sum.

    Double masks (``shared``) are made before it is known who is lost: they are for all of it.
    """
    used = {str(p["region"]): str(p["round_entry"]) for p in aggregate.parts("regions")}
    missing = sorted(used.keys() - masks.keys())
    if missing:
        evidence.fail(
            CHAIN,
            "mask-missing",
            aggregate,
            f"{', '.join(missing[:_NAMED])} logged no mask for its attempt: what the server summed "
            "has not left there under masks.",
        )
    for region in sorted(used.keys() & masks.keys()):
        of = {str(m["region"]): str(m["round_entry"]) for m in masks[region].parts("members")}
        if not (used.items() <= of.items() if shared else used == of):
            evidence.fail(
                CHAIN,
                "mask-mismatch",
                masks[region],
                f"It was made for another sum than the aggregate of round "
                f"{aggregate.number('round')}.",
            )


def _note_differences(
    evidence: Evidence, by_attempt: dict[tuple[int, int], dict[str, Entry]]
) -> None:
    """Where two attempts of one round were whole, the coordinator may know their difference."""
    whole: dict[int, list[frozenset[str]]] = {}
    for (number, _), masks in sorted(by_attempt.items()):
        asked = {frozenset(_regions(mask)) for mask in masks.values()}
        if asked == {frozenset(masks)}:
            whole.setdefault(number, []).extend(asked)
    for number, rosters in sorted(whole.items()):
        told = sorted(max(rosters, key=len) - min(rosters, key=len))
        if told:
            evidence.findings.note(
                f"In round {number} all regions answered in attempts of different rosters: the "
                f"coordinator may know the update of {', '.join(told)} alone or together, noised "
                "as in an open run."
            )


def _attempt(entry: Entry) -> tuple[int, int]:
    return entry.number("round"), entry.number("attempt")


def _regions(entry: Entry) -> list[str]:
    return [str(member["region"]) for member in entry.parts("members")]


def _same_round(own: Entry, entry: Entry) -> bool:
    return own.record["round"] == entry.record["round"]


def _elements(array: Record) -> int:
    shape = array["shape"]
    return math.prod(n for n in shape if isinstance(n, int)) if isinstance(shape, list) else 0
