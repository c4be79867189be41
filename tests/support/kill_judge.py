"""What a region's files and its answers show, read by nothing of the engine's own code.

SQLite by Python's own module on copies of the files, envelopes and checkpoints taken apart by hand,
Merkle roots by RFC 6962's recursion, ε of Gaussian mechanisms by the closed form of Balle and Wang
(2018). `Judge` holds what is seen later against what was seen before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Left:
    """One payload that left the region: the answer to a train request."""

    run: str
    server_round: int
    attempt: int
    arrays: bytes
    reply: Record

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.arrays).hexdigest()[:12]

    @property
    def entry(self) -> Record:
        return record_of(base64.b64decode(self.reply["round_entry"]))


def record_of(envelope: bytes) -> Record:
    """The record in a DSSE envelope."""
    record: Record = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return record


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(
        b"\x01" + merkle_root(leaves[:split]) + merkle_root(leaves[split:])
    ).digest()


def gaussian_epsilon(noise_multipliers: list[float], delta: float) -> float:
    """ε at δ of Gaussian mechanisms on everyone's data (q = 1): exact, Balle and Wang (2018)."""
    if not noise_multipliers:
        return 0.0
    sigma = sum(value**-2 for value in noise_multipliers) ** -0.5

    def delta_of(epsilon: float) -> float:
        shift = 1 / (2 * sigma)
        return _phi(shift - epsilon * sigma) - math.exp(epsilon) * _phi(-shift - epsilon * sigma)

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return high


def _phi(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2


@dataclass(frozen=True)
class Files:
    """The ledger's rows and the log's entries at one moment."""

    charges: list[Record]
    entries: list[bytes]
    checkpoints: list[tuple[int, bytes, bytes]]

    def records(self, kind: str) -> list[Record]:
        found = [record_of(entry) for entry in self.entries]
        return [record for record in found if record["v"] == f"fedpref-{kind}/1"]


def read_files(home: Path) -> Files:
    """Reads copies: neither a lock nor a checkpoint of the reader touches the region's files."""
    with tempfile.TemporaryDirectory() as scratch:
        ledger, log = (_open_copy(home / name, Path(scratch)) for name in ("ledger", "log"))
        charges = [dict(row) for row in ledger.execute("SELECT * FROM charges ORDER BY seq")]
        entries = [bytes(row["data"]) for row in log.execute("SELECT * FROM entry ORDER BY 1")]
        checkpoints = [
            (row["size"], bytes(row["root"]), bytes(row["note"]))
            for row in log.execute("SELECT * FROM checkpoint ORDER BY rowid")
        ]
        for connection in (ledger, log):
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            connection.close()
    return Files(charges, entries, checkpoints)


def _open_copy(path: Path, scratch: Path) -> sqlite3.Connection:
    for suffix in (".sqlite", ".sqlite-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, scratch / source.name)
    connection = sqlite3.connect(scratch / f"{path.name}.sqlite")
    connection.row_factory = sqlite3.Row
    return connection


@dataclass
class Judge:
    """One region, from before its first life to after its last.

    Attributes:
        home: Its home folder.
        cap: The year's cap of ε.
        delta: δ of every ε.
        left: What has left, in order.
        faults: What should not be, in words.
    """

    home: Path
    cap: float
    delta: float
    left: list[Left] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _seen: Files = field(default_factory=lambda: Files([], [], []))

    def sees_leaving(self, payload: Left) -> None:
        """Called at the moment a payload has left, while the region waits."""
        files = self.look()
        self.left.append(payload)
        entry, place = payload.entry, f"round {payload.server_round} of {payload.run}"
        self._hold((entry["run"], entry["round"]) == (payload.run, payload.server_round), place)
        paid = [row for row in files.charges if row["charge_id"] == entry["charge_id"]]
        rounds = [(row["run"], row["round"]) for row in paid]
        self._hold(
            rounds == [(payload.run, payload.server_round)],
            f"uncharged: {place} left, and the ledger has {rounds or 'nothing'} for it",
        )
        logged = [
            record["v"].split("-")[1].split("/")[0]
            for record in map(record_of, files.entries)
            if (record.get("run"), record.get("round")) == (payload.run, payload.server_round)
        ]
        self._hold(
            logged == ["charge", "round", "release"],
            f"{place} left, and the log has {logged} of it",
        )
        earlier = {
            each.arrays
            for each in self.left
            if (each.run, each.server_round) == (payload.run, payload.server_round)
            or each.entry["charge_id"] == entry["charge_id"]
        }
        self._hold(len(earlier) == 1, f"two payloads for one charge: {place}")

    def look(self) -> Files:
        """Reads the files; nothing that was there before may be gone or other."""
        files, before = read_files(self.home), self._seen
        self._hold(
            files.charges[: len(before.charges)] == before.charges, "the ledger lost a charge"
        )
        self._hold(files.entries[: len(before.entries)] == before.entries, "the log lost an entry")
        self._hold(
            files.checkpoints[: len(before.checkpoints)] == before.checkpoints,
            "the log lost a checkpoint",
        )
        self._check_ledger(files)
        self._check_log(files)
        self._seen = files
        return files

    def ends(self, rounds: int) -> None:
        """Called when the last life is over: all is there, and nothing twice."""
        files = self.look()
        charged = [(row["run"], row["round"]) for row in files.charges]
        logged = {(each["run"], each["round"]) for each in files.records("round")}
        answered = {(each.run, each.server_round) for each in self.left}
        self._hold(answered == logged, f"what left is {answered}, the log has {logged}")
        given_up = {(each["run"], each["round"]) for each in files.records("incident")}
        self._hold(
            len(logged | (given_up & set(charged))) == rounds,
            f"{len(logged)} of {rounds} rounds were finished",
        )
        charges = {each["charge_id"] for each in files.records("charge")}
        self._hold(
            charges == {row["charge_id"] for row in files.charges},
            "the log's charges are not the ledger's",
        )
        halves = [path.name for path in (self.home / "seals").glob(".*")]
        self._hold(halves == [], f"half-written seals are left: {halves}")
        roots = {size: root for size, root, _ in files.checkpoints}
        for each in self.left:
            size, root = _stated(each.reply["checkpoint"].encode())
            self._hold(roots.get(size) == root, f"a checkpoint of {size} that left is not ours")

    def _check_ledger(self, files: Files) -> None:
        charged = [(row["run"], row["round"]) for row in files.charges]
        self._hold(len(set(charged)) == len(charged), f"a round was charged twice: {charged}")
        self._hold(
            [row["seq"] for row in files.charges] == list(range(1, len(charged) + 1)),
            "the ledger's rows are not in sequence",
        )
        assert all(float(row["sampling_probability"]) == 1 for row in files.charges)
        sigmas = [float(row["noise_multiplier"]) for row in files.charges]
        spent = gaussian_epsilon(sigmas, self.delta)
        self._hold(spent <= self.cap, f"ε {spent} is above the cap {self.cap}")
        stated = [float(each["epsilon_total"]) for each in files.records("charge")]
        self._hold(all(value <= self.cap for value in stated), f"the log states ε {stated}")
        self._hold(stated == sorted(stated), f"the log's ε decreases: {stated}")

    def _check_log(self, files: Files) -> None:
        leaves = [hashlib.sha256(b"\x00" + entry).digest() for entry in files.entries]
        for size, root, note in files.checkpoints:
            known = (size, root) in ((each[0], each[1]) for each in self._seen.checkpoints)
            self._hold(_stated(note) == (size, root), f"checkpoint {size} states something else")
            self._hold(
                known or merkle_root(leaves[:size]) == root, f"checkpoint {size} is of another log"
            )
        newest = max((size for size, _, _ in files.checkpoints), default=0)
        self._hold(newest == len(leaves), f"{len(leaves)} entries, {newest} of them signed")
        for kind in ("charge", "round", "release"):
            named = [(each["run"], each["round"]) for each in files.records(kind)]
            self._hold(len(set(named)) == len(named), f"a {kind} entry is there twice: {named}")

    def _hold(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.faults.append(otherwise)


def _stated(note: bytes) -> tuple[int, bytes]:
    """The size and the root that a signed note states."""
    _, size, root = note.split(b"\n")[:3]
    return int(size), base64.b64decode(root)
