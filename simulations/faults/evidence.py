"""What a party's files show, read by none of the code that wrote them.

SQLite by Python's own module on copies of the files, envelopes and checkpoints taken apart by hand,
Merkle roots by RFC 6962's recursion, ε of Gaussian mechanisms by the closed form of Balle and Wang
(2018). The engine may be running: neither a lock nor a WAL checkpoint of this reader touches it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

Record = dict[str, Any]
_EPSILON_HIGH = 100.0
_BISECTIONS = 200


@dataclass(frozen=True)
class Files:
    """A party's files at one moment.

    Attributes:
        charges: The ledger's rows, in sequence; none for the coordinator, which has no ledger.
        entries: The log's entries, in order.
        checkpoints: Each checkpoint's size, root and signed note, in order.
        damaged: The databases that SQLite finds to be damaged.
    """

    charges: tuple[Record, ...] = ()
    entries: tuple[bytes, ...] = ()
    checkpoints: tuple[tuple[int, bytes, bytes], ...] = ()
    damaged: tuple[str, ...] = ()

    def records(self, kind: str) -> list[Record]:
        """The records of one kind, without their signatures, in the log's order."""
        found = [record_of(entry) for entry in self.entries]
        return [record for record in found if record["v"] == f"fedpref-{kind}/1"]

    @property
    def leaves(self) -> list[bytes]:
        """RFC 6962's leaf hashes."""
        return [leaf_of(entry) for entry in self.entries]


def read_files(home: Path) -> Files:
    """Reads a home's log, and its ledger if it has one.

    Args:
        home: The party's home folder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        charges: tuple[Record, ...] = ()
        damaged = []
        if (home / "ledger.sqlite").exists():
            ledger = _open_copy(home / "ledger.sqlite", Path(scratch))
            charges = tuple(dict(row) for row in _rows(ledger, "charges", "seq"))
            damaged += _damaged(ledger, "ledger")
        log = _open_copy(home / "log.sqlite", Path(scratch))
        entries = tuple(bytes(row["data"]) for row in _rows(log, "entry", "1"))
        checkpoints = tuple(
            (int(row["size"]), bytes(row["root"]), bytes(row["note"]))
            for row in _rows(log, "checkpoint", "rowid")
        )
        damaged += _damaged(log, "log")
    return Files(charges, entries, checkpoints, tuple(damaged))


def _rows(database: sqlite3.Connection, table: str, order: str) -> list[sqlite3.Row]:
    """A table's rows; none of one that a crash kept from being made."""
    known = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if known is None:
        return []
    return database.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()  # noqa: S608 - names of ours


def _open_copy(path: Path, scratch: Path) -> sqlite3.Connection:
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, scratch / source.name)
    connection = sqlite3.connect(scratch / path.name)
    connection.row_factory = sqlite3.Row
    return connection


def _damaged(connection: sqlite3.Connection, name: str) -> list[str]:
    whole = connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    connection.close()
    return [] if whole else [name]


@lru_cache(maxsize=1 << 16)
def _payload_of(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def record_of(envelope: bytes) -> Record:
    """The record in a DSSE envelope."""
    record: Record = json.loads(_payload_of(envelope))
    return record


@lru_cache(maxsize=1 << 16)
def leaf_of(entry: bytes) -> bytes:
    """An entry's leaf hash (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree over leaf hashes (RFC 6962, 2.1)."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(
        b"\x01" + merkle_root(leaves[:split]) + merkle_root(leaves[split:])
    ).digest()


def stated(note: bytes) -> tuple[int, bytes]:
    """The size and the root that a signed note states."""
    _, size, root = note.split(b"\n")[:3]
    return int(size), base64.b64decode(root)


def gaussian_epsilon(noise_multipliers: Sequence[float], delta: float) -> float:
    """ε at δ of Gaussian mechanisms on everyone's data (q = 1), together.

    Exact: Balle and Wang (2018), theorem 8, of one mechanism with 1/σ² = Σ 1/σᵢ².

    Args:
        noise_multipliers: σ/C of each mechanism.
        delta: δ.
    """
    if not noise_multipliers:
        return 0.0
    sigma = sum(value**-2 for value in noise_multipliers) ** -0.5
    low, high = 0.0, _EPSILON_HIGH
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta_of(middle, sigma) > delta else (low, middle)
    return high


def _delta_of(epsilon: float, sigma: float) -> float:
    shift = 1 / (2 * sigma)
    return _phi(shift - epsilon * sigma) - math.exp(epsilon) * _phi(-shift - epsilon * sigma)


def _phi(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2
