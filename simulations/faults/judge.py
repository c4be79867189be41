"""Judges what a region and the coordinator did, by their files and by what left, at every look.

`RegionJudge` and `CoordinatorJudge` hold what is seen later against what was seen before. They read
with `simulations.faults.evidence`, which shares no code with what they judge.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from simulations.faults.evidence import (
    Files,
    Record,
    gaussian_epsilon,
    leaf_of,
    merkle_root,
    read_files,
    record_of,
    stated,
)

#: What a region has logged of a round by the time its update leaves.
_OF_A_RELEASE = ["charge", "round", "release"]


@dataclass(frozen=True)
class Left:
    """One payload that left a region: the answer to a train request.

    Attributes:
        run: The run.
        server_round: The round.
        attempt: The attempt that the request named.
        payload: Digest of the arrays that left, or the arrays: equal for equal bytes.
        reply: The reply's header.
    """

    run: str
    server_round: int
    attempt: int
    payload: bytes
    reply: Record

    @property
    def entry(self) -> Record:
        """The signed round entry that left with it."""
        return record_of(base64.b64decode(self.reply["round_entry"]))


class _Faults:
    """What should not be, in words."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def hold(self, holds: bool, otherwise: str) -> None:
        """Notes a fault unless something holds."""
        if not holds:
            self.faults.append(otherwise)


class RegionJudge(_Faults):
    """One region, from before its first life to after its last.

    Args:
        home: Its home folder.
        cap: The year's cap of ε.
        delta: δ of every ε.
    """

    def __init__(self, home: Path, cap: float, delta: float) -> None:
        super().__init__()
        self.home = home
        self.cap = cap
        self.delta = delta
        #: What has left, in order.
        self.left: list[Left] = []
        self._seen = Files()

    def sees_leaving(self, payload: Left) -> None:
        """Called at the moment a payload has left, while the region waits."""
        files = self.look()
        self.left.append(payload)
        entry, place = payload.entry, f"round {payload.server_round} of {payload.run}"
        self.hold(
            (entry["run"], entry["round"]) == (payload.run, payload.server_round),
            f"{place} left with the entry of another",
        )
        paid = [row for row in files.charges if row["charge_id"] == entry["charge_id"]]
        rounds = [(row["run"], row["round"]) for row in paid]
        self.hold(
            rounds == [(payload.run, payload.server_round)],
            f"uncharged: {place} left, and the ledger has {rounds or 'nothing'} for it",
        )
        logged = [
            record["v"].split("-")[1].split("/")[0]
            for record in map(record_of, files.entries)
            if (record.get("run"), record.get("round")) == (payload.run, payload.server_round)
        ]
        # An earlier request of the round may have been refused, or masked: that is logged too.
        told = [kind for kind in logged if kind in _OF_A_RELEASE]
        self.hold(told == _OF_A_RELEASE, f"{place} left, and the log has {logged} of it")
        earlier = {
            each.payload
            for each in self.left
            if (each.run, each.server_round) == (payload.run, payload.server_round)
            or each.entry["charge_id"] == entry["charge_id"]
        }
        self.hold(len(earlier) == 1, f"two payloads for one charge: {place}")

    def look(self) -> Files:
        """Reads the files; nothing that was there before may be gone or other."""
        files, before = read_files(self.home), self._seen
        self.hold(not files.damaged, f"SQLite finds damage in {', '.join(files.damaged)}")
        self.hold(
            files.charges[: len(before.charges)] == before.charges, "the ledger lost a charge"
        )
        _check_appended(self, files, before)
        self._check_ledger(files)
        for kind in _OF_A_RELEASE:
            named = [(each["run"], each["round"]) for each in files.records(kind)]
            self.hold(len(set(named)) == len(named), f"a {kind} entry is there twice: {named}")
        self._check_chain(files)
        self._check_masks(files)
        self._seen = files
        return files

    def _check_chain(self, files: Files) -> None:
        """Each round entry names the one of its run before it."""
        last: dict[str, str] = {}
        for leaf, record in zip(files.leaves, map(record_of, files.entries), strict=True):
            if record["v"] == "fedpref-round/1":
                self.hold(
                    record["prev_round"] == last.get(record["run"]),
                    f"round {record['round']} does not name the region's round before it",
                )
                last[record["run"]] = leaf.hex()

    def _check_masks(self, files: Files) -> None:
        """One attempt of a secure sum is masked for one roster only."""
        rosters: dict[tuple[str, int, int], set[str]] = {}
        for each in files.records("mask"):
            key = (each["run"], each["round"], each["attempt"])
            rosters.setdefault(key, set()).add(each["roster"])
        twice = [key for key, found in rosters.items() if len(found) > 1]
        self.hold(not twice, f"attempts were masked for two rosters: {twice}")

    def ends(self, rounds: int | None = None) -> None:
        """Called when the last life is over: all is there, and nothing twice.

        Args:
            rounds: How many rounds were asked till they were answered or given up; None if a round
                may have been left, as a coordinator does that goes on without a region.
        """
        files = self.look()
        charged = [(row["run"], row["round"]) for row in files.charges]
        logged = {(each["run"], each["round"]) for each in files.records("round")}
        answered = {(each.run, each.server_round) for each in self.left}
        self.hold(answered <= logged, f"what left is {answered}, the log has {logged}")
        if rounds is not None:
            self.hold(answered == logged, f"what left is {answered}, the log has {logged}")
            given_up = {(each["run"], each["round"]) for each in files.records("incident")}
            self.hold(
                len(logged | (given_up & set(charged))) == rounds,
                f"{len(logged)} of {rounds} rounds were finished",
            )
        charges = {each["charge_id"] for each in files.records("charge")}
        self.hold(
            charges == {row["charge_id"] for row in files.charges},
            "the log's charges are not the ledger's",
        )
        halves = [path.name for path in (self.home / "seals").glob(".*")]
        self.hold(halves == [], f"half-written seals are left: {halves}")
        roots = {size: root for size, root, _ in files.checkpoints}
        for each in self.left:
            size, root = stated(each.reply["checkpoint"].encode())
            self.hold(roots.get(size) == root, f"a checkpoint of {size} that left is not ours")

    def _check_ledger(self, files: Files) -> None:
        charged = [(row["run"], row["round"], row["attempt"]) for row in files.charges]
        self.hold(len(set(charged)) == len(charged), f"a round was charged twice: {charged}")
        self.hold(
            [row["seq"] for row in files.charges] == list(range(1, len(charged) + 1)),
            "the ledger's rows are not in sequence",
        )
        sampled = [row for row in files.charges if float(row["sampling_probability"]) != 1]
        self.hold(not sampled, "a charge is of a sample, which this reader cannot account for")
        sigmas = [float(row["noise_multiplier"]) for row in files.charges]
        spent = gaussian_epsilon(sigmas, self.delta)
        self.hold(spent <= self.cap, f"ε {spent} is above the cap {self.cap}")
        totals = [float(each["epsilon_total"]) for each in files.records("charge")]
        self.hold(all(value <= self.cap for value in totals), f"the log states ε {totals}")
        self.hold(totals == sorted(totals), f"the log's ε decreases: {totals}")


@dataclass
class CoordinatorJudge(_Faults):
    """The coordinator, over all its lives.

    Attributes:
        home: Its home folder.
        run: The run's id.
        quorum: The fewest regions that an aggregate may be made of.
        faults: What should not be, in words.
    """

    home: Path
    run: str
    quorum: int
    faults: list[str] = field(default_factory=list)
    _seen: Files = field(default_factory=Files)

    def look(self) -> Files:
        """Reads the log; nothing that was there before may be gone or other."""
        if not (self.home / "log.sqlite").exists():
            return Files()
        files = read_files(self.home)
        self.hold(not files.damaged, "SQLite finds damage in the coordinator's log")
        _check_appended(self, files, self._seen)
        self._check_aggregates(self.aggregates(files))
        self._seen = files
        return files

    def ends(self, regions: Mapping[str, Files]) -> None:
        """Called when the run is over; holds every aggregate to the regions' own logs.

        Args:
            regions: Each region's files.
        """
        files = self.look()
        for aggregate in self.aggregates(files):
            for used in aggregate["regions"]:
                self._check_used(aggregate["round"], used, regions[used["region"]])
        published = [each for each in files.records("model") if each["run"] == self.run]
        self.hold(len(published) <= 1, f"the run's model was published {len(published)} times")

    def aggregates(self, files: Files) -> list[Record]:
        """The run's aggregate entries, in the log's order."""
        return [each for each in files.records("aggregate") if each["run"] == self.run]

    def incidents(self) -> list[tuple[int | None, str | None, str]]:
        """Round, region and reason of each incident of the run."""
        found = self.look().records("incident")
        return [
            (each["round"], each["region"], each["reason"])
            for each in found
            if each["run"] == self.run
        ]

    def refused(self) -> dict[int, dict[str, str]]:
        """By round, why each region of the plan is not in its aggregate."""
        return {
            each["round"]: {who["region"]: who["reason"] for who in each["refused"]}
            for each in self.aggregates(self.look())
        }

    def _check_aggregates(self, aggregates: Sequence[Record]) -> None:
        rounds = [each["round"] for each in aggregates]
        self.hold(rounds == list(range(1, len(rounds) + 1)), f"the rounds aggregated are {rounds}")
        for before, after in pairwise(aggregates):
            self.hold(
                after["model_in"] == before["model_out"],
                f"round {after['round']} began with another model than the last one made",
            )
        for each in aggregates:
            names = [used["region"] for used in each["regions"]]
            self.hold(len(set(names)) == len(names), f"round {each['round']} counts a region twice")
            self.hold(
                len(names) >= self.quorum,
                f"round {each['round']} was made of {len(names)} regions, below the quorum",
            )

    def _check_used(self, number: int, used: Record, region: Files) -> None:
        place = f"round {number} counts {used['region']}"
        entry = next(
            (each for each in region.entries if leaf_of(each).hex() == used["round_entry"]), None
        )
        if entry is None:
            self.hold(False, f"{place} by an entry that the region's log lacks")
            return
        record = record_of(entry)
        self.hold(
            (record["run"], record["round"], record["update"])
            == (self.run, number, used["update"]),
            f"{place} by the entry of another round or update",
        )
        charged = [each["charge_id"] for each in region.records("charge")]
        permitted = [each["permit_id"] for each in region.records("permit")]
        self.hold(record["charge_id"] in charged, f"{place} without a charge in its log")
        self.hold(record["permit_id"] in permitted, f"{place} without a permit in its log")


def _check_appended(judge: _Faults, files: Files, before: Files) -> None:
    """What was logged before is there still, and every checkpoint is of this log."""
    judge.hold(files.entries[: len(before.entries)] == before.entries, "the log lost an entry")
    judge.hold(
        files.checkpoints[: len(before.checkpoints)] == before.checkpoints,
        "the log lost a checkpoint",
    )
    leaves = files.leaves
    known = {(size, root) for size, root, _ in before.checkpoints}
    for size, root, note in files.checkpoints:
        judge.hold(stated(note) == (size, root), f"checkpoint {size} states something else")
        judge.hold(
            (size, root) in known or merkle_root(leaves[:size]) == root,
            f"checkpoint {size} is of another log",
        )
    newest = max((size for size, _, _ in files.checkpoints), default=0)
    judge.hold(newest == len(leaves), f"{len(leaves)} entries, {newest} of them signed")
