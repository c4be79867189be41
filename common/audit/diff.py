"""What changed between two bundles of one federation: whether the later only adds to the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from common.audit.merkle import MerkleAccumulator, leaf_hash
from common.audit.verify import Evidence, Verdict, verify_with_evidence
from common.audit.verify.files import BundleFolder
from common.audit.verify.key_ring import RegisteredKey
from common.audit.verify.replay import SERVER, LogReplay
from common.audit.verify.tiles import read_tiles
from common.canonical_json import JsonValue
from common.errors import InputError, VerificationError
from common.timestamps import format_time

LogState = Literal["same", "extended", "shortened", "forked", "missing", "added", "not comparable"]
RegistryState = Literal["same", "extended", "changed"]

_ONLY_ADDS = ("same", "extended", "added")


@dataclass(frozen=True)
class LogDiff:
    """One party's log in both bundles.

    Attributes:
        party: Whose.
        state: ``extended`` if the later log begins with exactly the earlier one; ``shortened`` if
            it is the other way round; ``forked`` if neither. ``not comparable`` if the bundles do
            not hold enough to tell.
        size_before: How many entries the earlier one has; None if it is not there.
        size_after: How many the later one has.
        forked_at: The first entry that differs, where both are whole.
        gained: How many entries of each kind the later one has more.
    """

    party: str
    state: LogState
    size_before: int | None
    size_after: int | None
    forked_at: int | None = None
    gained: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RegionDiff:
    """What a region did in the bundles' runs.

    Attributes:
        region: Its name.
        rounds_before: The rounds it logged, by the earlier bundle.
        rounds_after: By the later one.
        epsilon_before: The ε its ledger had then spent this year; None before any charge.
        epsilon_after: By the later one.
    """

    region: str
    rounds_before: tuple[int, ...]
    rounds_after: tuple[int, ...]
    epsilon_before: str | None
    epsilon_after: str | None


@dataclass(frozen=True)
class BundleDiff:
    """Two bundles of one federation beside each other.

    Attributes:
        federation: The federation's name.
        runs: The run of the earlier bundle, and of the later one.
        integrity: Whether each of them is unaltered: if not, nothing here is more than a claim.
        registry: Whether the later registry only adds versions to the earlier one.
        versions: How many versions each has.
        keys_added: Keys of the later one only, as (party, role, key id).
        keys_revoked: Keys the later one revokes and the earlier does not, with the time.
        logs: Every party's log.
        regions: Every region's rounds and ε.
    """

    federation: str
    runs: tuple[str, str]
    integrity: tuple[bool, bool]
    registry: RegistryState
    versions: tuple[int, int]
    keys_added: tuple[tuple[str, str, str], ...]
    keys_revoked: tuple[tuple[str, str, str, str], ...]
    logs: tuple[LogDiff, ...]
    regions: tuple[RegionDiff, ...]

    @property
    def only_extends(self) -> bool:
        """Whether the later bundle only adds to the earlier one, and both hold."""
        return (
            all(self.integrity)
            and self.registry != "changed"
            and all(log.state in _ONLY_ADDS for log in self.logs)
        )

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values, for ``--json``."""
        record: dict[str, JsonValue] = {
            "v": "fedpref-diff/1",
            "only_extends": self.only_extends,
            "federation": self.federation,
            "runs": list(self.runs),
            "integrity": list(self.integrity),
            "registry": self.registry,
            "versions": list(self.versions),
            "keys_added": [list(key) for key in self.keys_added],
            "keys_revoked": [list(key) for key in self.keys_revoked],
            "logs": [asdict(log) for log in self.logs],
            "regions": [
                asdict(region)
                | {
                    "rounds_before": list(region.rounds_before),
                    "rounds_after": list(region.rounds_after),
                }
                for region in self.regions
            ],
        }
        return record


def diff_bundles(before: Path, after: Path) -> BundleDiff:
    """Compares two bundles; each is verified first.

    Args:
        before: The earlier bundle's folder, or its run folder.
        after: The later one's.

    Raises:
        InputError: There is no bundle, or they are of two federations.
        VerificationError: The manifest or registry of one cannot be used at all.
    """
    old, new = _Side.read(before), _Side.read(after)
    if old.evidence.federation != new.evidence.federation:
        raise InputError(
            f"{before} is of {old.evidence.federation}, {after} of {new.evidence.federation}.",
            remedy="Compare two bundles of one federation.",
        )
    parties = sorted(old.evidence.replays.keys() | new.evidence.replays.keys())
    registries = old.registry(), new.registry()
    keys_before, keys_after = old.keys(), new.keys()
    return BundleDiff(
        federation=new.evidence.federation,
        runs=(old.evidence.run, new.evidence.run),
        integrity=(old.verdict.integrity, new.verdict.integrity),
        registry=_registry_state(*registries),
        versions=(len(registries[0]), len(registries[1])),
        keys_added=tuple(
            (key.party, key.role, key.key_id)
            for key in keys_after.values()
            if key.key_id not in keys_before
        ),
        keys_revoked=tuple(
            (key.party, key.role, key.key_id, format_time(key.revoked_at_ms))
            for key in keys_after.values()
            if key.revoked_at_ms is not None
            and (key.key_id not in keys_before or keys_before[key.key_id].revoked_at_ms is None)
        ),
        logs=tuple(_diff_log(party, old, new) for party in parties),
        regions=tuple(_diff_region(party, old, new) for party in parties if party != SERVER),
    )


@dataclass(frozen=True)
class _Side:
    """One of the two bundles, verified."""

    folder: BundleFolder
    verdict: Verdict
    evidence: Evidence

    @classmethod
    def read(cls, path: Path) -> _Side:
        verdict, evidence = verify_with_evidence(path)
        if evidence is None:
            first = verdict.first_failure
            raise VerificationError(
                f"{path} cannot be compared: {first.message if first else 'it does not hold.'}",
                remedy="See fedpref-audit verify.",
            )
        return cls(BundleFolder(path), verdict, evidence)

    def registry(self) -> list[bytes]:
        number = len(self.folder.list_folder("registry"))
        return [self.folder.read(f"registry/{n}.json") for n in range(1, number + 1)]

    def keys(self) -> dict[str, RegisteredKey]:
        return {key.key_id: key for key in self.evidence.ring.keys}

    def leaves(self, replay: LogReplay) -> Iterator[bytes]:
        for _, _, entries in read_tiles(self.folder, replay.party, replay.size):
            yield from map(leaf_hash, entries)

    def root_at(self, replay: LogReplay, size: int) -> str | None:
        """The log's root at a size it has reached; None if the bundle cannot tell."""
        if size in replay.roots or not replay.whole:
            return replay.roots.get(size)
        tree = MerkleAccumulator()
        for leaf, _ in zip(self.leaves(replay), range(size), strict=False):
            tree.append(leaf)
        return tree.root().hex()


def _registry_state(before: list[bytes], after: list[bytes]) -> RegistryState:
    if before == after:
        return "same"
    return "extended" if after[: len(before)] == before else "changed"


def _diff_log(party: str, old: _Side, new: _Side) -> LogDiff:
    before, after = old.evidence.replays.get(party), new.evidence.replays.get(party)
    if before is None or after is None:
        held = before or after
        size = held.size if held else 0
        if after is None:
            return LogDiff(party, "missing", size, None)
        return LogDiff(party, "added", None, size, gained=_gained(after, 0))
    smaller = min(before.size, after.size)
    roots = old.root_at(before, smaller), new.root_at(after, smaller)
    if smaller and None in roots:
        return LogDiff(party, "not comparable", before.size, after.size)
    if smaller and roots[0] != roots[1]:
        at = _first_difference(old, before, new, after)
        return LogDiff(party, "forked", before.size, after.size, forked_at=at)
    if after.size < before.size:
        return LogDiff(party, "shortened", before.size, after.size)
    state: LogState = "same" if after.size == before.size else "extended"
    return LogDiff(party, state, before.size, after.size, gained=_gained(after, before.size))


def _first_difference(old: _Side, before: LogReplay, new: _Side, after: LogReplay) -> int | None:
    if not (before.whole and after.whole):
        return None
    pairs = zip(old.leaves(before), new.leaves(after), strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), None)


def _gained(replay: LogReplay, start: int) -> dict[str, int]:
    """How many entries of each kind a log has from an index on."""
    kinds = Counter(entry.kind for entry in replay.entries if entry.index >= start)
    consents = replay.size - start - kinds.total()
    if consents:
        kinds["consent" if replay.whole else "not in the bundle"] = consents
    return dict(sorted(kinds.items()))


def _diff_region(party: str, old: _Side, new: _Side) -> RegionDiff:
    before, after = _spent(party, old.evidence), _spent(party, new.evidence)
    return RegionDiff(party, before[0], after[0], before[1], after[1])


def _spent(party: str, evidence: Evidence) -> tuple[tuple[int, ...], str | None]:
    """The rounds of the bundle's run that a region logged, and the ε of its last charge."""
    replay = evidence.replays.get(party)
    if replay is None:
        return (), None
    rounds = {
        entry.number("round")
        for entry in replay.of_kind("round")
        if entry.record["run"] == evidence.run
    }
    charges = [entry.text("epsilon_total") for entry in replay.of_kind("charge")]
    return tuple(sorted(rounds)), charges[-1] if charges else None
