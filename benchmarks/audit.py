"""What the audit log promises at a million consents: verification, proofs, appends, opening.

The evidence is real: a federation of two regions whose customers' records are made and signed one
by one. Where a peer does the same part of the work, it is measured in the same run, beside it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import pymerkle

from benchmarks.processes import Usage, run
from benchmarks.results import Bar, Figure
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash, verify_inclusion
from common.audit.sparse_merkle import SparseMerkleTree, verify_absence
from common.keys import verify_signature
from tests.support.bundle_builder import MemorySigner

BIN = Path(sys.executable).parent
ENTRIES = 1_000_000
_ENTRY_BYTES = 1_100
_BATCH = 1_000
_PROOFS = 20_000
_REPEATS = 20
_STARTS = 5
_PEER_LEAVES = 1 << 17

VERIFY_CPU = Bar("verify 1M signed consents, processor time", "CPU-s", 150.0)
VERIFY_WALL = Bar("verify 1M signed consents, wall time", "s", 90.0)
VERIFY_MEMORY = Bar("verify 1M signed consents, memory of all processes", "MB", 300.0)
REPLAY = Bar("replay of checkpoints only, 1M entries", "s", 10.0)
APPEND = Bar("durable append, batches of 1,000", "entries/s", 30_000.0, least=True)
PROOF_BYTES = Bar("inclusion proof from a 1M log, largest", "B", 640.0)
PROVE = Bar("inclusion proofs from a 1M log", "proofs/s", 5_000.0, least=True)
VERIFY_PROOF = Bar("inclusion proofs verified", "proofs/s", 20_000.0, least=True)
ABSENCE_BYTES = Bar("absence proof at 1M, largest", "B", 900.0)
SPARSE_ROOT = Bar("root of 1M keys in the sparse tree", "CPU-s", 10.0)
START = Bar("start of the verifier", "s", 0.5)
OPEN_SMALL = Bar("cold open and root, log of 1,000", "ms", 10.0)
OPEN_LARGE = Bar("cold open and root, log of 1M", "ms", 10.0)

BARS = (
    VERIFY_CPU,
    VERIFY_WALL,
    VERIFY_MEMORY,
    REPLAY,
    START,
    APPEND,
    PROOF_BYTES,
    PROVE,
    VERIFY_PROOF,
    ABSENCE_BYTES,
    SPARSE_ROOT,
    OPEN_SMALL,
    OPEN_LARGE,
)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes some ten minutes."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        folder = Path(name)
        measured = _measure_verify(folder / "run")
        measured |= _measure_log(folder)
    return {bar.name: figure for bar, figure in (measured | _measure_sparse()).items()}


def _measure_verify(run_folder: Path) -> dict[Bar, Figure]:
    # Made by a process of its own, whose memory ends with it.
    made = [sys.executable, "-m", "benchmarks.million_consents", run_folder, ENTRIES]
    subprocess.run(list(map(str, made)), check=True)  # noqa: S603
    verify = run(BIN / "fedpref-audit", "verify", run_folder)
    replay = run(BIN / "fedpref-audit", "verify-checkpoints", run_folder)
    for what in (verify, replay):
        _require_success(what)
    alone = f"libsodium's signatures alone: {_signatures_alone():.1f} CPU-s"
    return {
        VERIFY_CPU: Figure(verify.cpu_s, alone),
        VERIFY_WALL: Figure(verify.wall_s),
        VERIFY_MEMORY: Figure(verify.memory_mb),
        REPLAY: Figure(replay.wall_s),
        START: Figure(_start_s(), f"bare Python: {_bare_start_s():.3f} s"),
    }


def _start_s() -> float:
    """The median time of a command that only says what it can do."""
    return _median_wall_s(BIN / "fedpref-audit", "verify", "--help")


def _bare_start_s() -> float:
    return _median_wall_s(sys.executable, "-c", "")


def _median_wall_s(*command: object) -> float:
    started = [run(*command) for _ in range(_STARTS)]
    for usage in started:
        _require_success(usage)
    return sorted(usage.wall_s for usage in started)[_STARTS // 2]


def _require_success(usage: Usage) -> None:
    if usage.status:
        raise RuntimeError(f"a command ended with {usage.status}")


def _signatures_alone() -> float:
    """Processor time of as many bare signature checks, from a sample."""
    signer, sample = MemorySigner("sample"), 5_000
    messages = [os.urandom(700) for _ in range(sample)]
    signed = [(message, signer.sign(message)) for message in messages]
    started = time.process_time()
    for message, signature in signed:
        if not verify_signature(signer.public_key, message, signature):
            raise RuntimeError("a good signature was refused")
    return (time.process_time() - started) / sample * ENTRIES


def _measure_log(folder: Path) -> dict[Bar, Figure]:
    signer, origin = MemorySigner("log"), "bench.example/region-1"
    small, large = folder / "small.sqlite", folder / "large.sqlite"
    generator = random.Random(1)  # noqa: S311
    batches = [[generator.randbytes(_ENTRY_BYTES) for _ in range(_BATCH)] for _ in range(20)]
    with AuditLog.open(small, origin=origin, signer=signer, create=True) as log:
        log.append(batches[0])
    appended_s = plain_s = 0.0
    with (
        AuditLog.open(large, origin=origin, signer=signer, create=True) as log,
        _PlainTable(folder / "plain.sqlite") as plain,
    ):
        for number in range(ENTRIES // _BATCH):
            batch = batches[number % len(batches)]
            appended_s += _timed(lambda batch=batch: log.append(batch))  # type: ignore[misc]
            if number % 10 == 0:
                plain_s += _timed(lambda batch=batch: plain.append(batch))  # type: ignore[misc]
        proofs = _measure_proofs(log)
    rate, plain_rate = ENTRIES / appended_s, ENTRIES / 10 / plain_s
    return {
        APPEND: Figure(rate, f"rows into bare SQLite, durable alike: {plain_rate:,.0f}/s"),
        **proofs,
        OPEN_SMALL: Figure(_open_ms(small, origin, signer)),
        OPEN_LARGE: Figure(_open_ms(large, origin, signer)),
    }


class _PlainTable:
    """The peer of an append: the same rows into a bare table, committed as durably."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", "full")
        self._connection.execute("CREATE TABLE entry (number INTEGER PRIMARY KEY, data BLOB)")

    def __enter__(self) -> _PlainTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def append(self, batch: Sequence[bytes]) -> None:
        with self._connection:
            self._connection.executemany(
                "INSERT INTO entry (data) VALUES (?)", [(data,) for data in batch]
            )


def _measure_proofs(log: AuditLog) -> dict[Bar, Figure]:
    generator = random.Random(2)  # noqa: S311
    indices = [generator.randrange(log.size) for _ in range(_PROOFS)]
    size, root = log.size, log.root
    leaves = [log.leaf_hash(index) for index in indices]
    proofs: list[list[bytes]] = []
    prove_s = _timed(lambda: proofs.extend(log.inclusion_proof(index, size) for index in indices))

    def verify_all() -> None:
        for leaf, index, proof in zip(leaves, indices, proofs, strict=True):
            verify_inclusion(leaf, index, size, proof, root)

    verify_s = _timed(verify_all)
    peer = f"pymerkle, {_PEER_LEAVES:,} leaves in memory"
    peer_proves, peer_verifies = _pymerkle_rates(generator)
    return {
        PROOF_BYTES: Figure(max(32 * len(proof) for proof in proofs)),
        PROVE: Figure(_PROOFS / prove_s, f"{peer}: {peer_proves:,.0f}/s"),
        VERIFY_PROOF: Figure(_PROOFS / verify_s, f"{peer}: {peer_verifies:,.0f}/s"),
    }


def _pymerkle_rates(generator: random.Random) -> tuple[float, float]:
    """How many inclusion proofs the peer makes, and verifies, in a second."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for _ in range(_PEER_LEAVES):
        tree.append_entry(generator.randbytes(32))
    root = tree.get_state()
    indices = [generator.randrange(_PEER_LEAVES) + 1 for _ in range(_PROOFS // 10)]
    leaves = [tree.get_leaf(index) for index in indices]
    proofs: list[pymerkle.MerkleProof] = []
    prove_s = _timed(
        lambda: proofs.extend(tree.prove_inclusion(index, _PEER_LEAVES) for index in indices)
    )

    def verify_all() -> None:
        for leaf, proof in zip(leaves, proofs, strict=True):
            pymerkle.verify_inclusion(leaf, root, proof)

    return len(indices) / prove_s, len(indices) / _timed(verify_all)


def _open_ms(path: Path, origin: str, signer: MemorySigner) -> float:
    """The median time to open a log and read its root, each time with a new connection."""
    taken = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        with AuditLog.open(path, origin=origin, signer=signer) as log:
            root = log.root
            taken.append(time.perf_counter() - started)
        if len(root) != len(leaf_hash(b"")):
            raise RuntimeError("the log gave no root")
    return sorted(taken)[_REPEATS // 2] * 1000


def _measure_sparse() -> dict[Bar, Figure]:
    generator = random.Random(3)  # noqa: S311
    positions = [generator.randbytes(32) for _ in range(ENTRIES)]
    started = time.process_time()
    tree = SparseMerkleTree(positions)
    root = tree.root
    root_s = time.process_time() - started
    largest = 0
    for _ in range(_PROOFS):
        absent = generator.randbytes(32)
        proof = tree.prove(absent)
        verify_absence(root, absent, proof)
        # A depth of one byte and a hash for each step, and the leaf that is found instead.
        largest = max(largest, 33 * len(proof.steps) + 32)
    return {ABSENCE_BYTES: Figure(largest), SPARSE_ROOT: Figure(root_s)}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
