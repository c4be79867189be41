"""The recommender's service with a million customers: its answers' times, its memory, a live event.

The service has one core to itself and is asked from another; requests are due at random times,
whether earlier ones are answered or not (`benchmarks.recommend_load`).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import large_store
from benchmarks.processes import run
from benchmarks.recommend_load import (
    EVENTS,
    RECOMMENDATIONS,
    Target,
    customer_requests,
    put_load,
)
from benchmarks.results import Bar, Figure

CUSTOMERS, ITEMS, ROWS_EACH, RATE, SECONDS, TRIALS = 1_000_000, 100_000, 10, 200.0, 30.0, 50
_BIN = Path(sys.executable).parent
# Opening verifies a million consents, and reads the store for the first time.
_OPENING_S = 900.0
# How long the lists are that live events move, and at which place the item stands that is viewed.
_LISTED, _FAR_DOWN = 50, 30

TIME = Bar(
    f"a list of 10, {CUSTOMERS:,} customers, {ITEMS:,} items, {RATE:.0f} requests/s: p99", "ms", 20
)
MEMORY = Bar("… memory of the service, the most there was", "MB", 2_000)
LIVE = Bar("… of live events in the very next list", "share", 1.0, least=True)
BATCH = Bar("… lists of all of them in a file", "s", 600)
BATCH_MEMORY = Bar("… memory of making that file", "MB", 3_000)
BARS = (TIME, MEMORY, LIVE, BATCH, BATCH_MEMORY)


def measure() -> dict[str, Figure]:
    """Measures these bars."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        measured = measure_region(
            Path(name) / "home", CUSTOMERS, ITEMS, seconds=SECONDS, trials=TRIALS
        )
    return {bar.name: figure for bar, figure in measured.items()}


def measure_region(
    home: Path, customers: int, items: int, *, seconds: float, trials: int
) -> dict[Bar, Figure]:
    """Makes a region, serves it, asks, and makes a batch."""
    made = [sys.executable, "-m", "benchmarks.served_store", home, customers, items, ROWS_EACH]
    subprocess.run(list(map(str, made)), check=True)  # noqa: S603
    with _served(home) as (process, target, opened_s):
        everybody = [large_store.customer(number) for number in range(customers)]
        requests = customer_requests(target, everybody, count=round(RATE * seconds))
        load = put_load(target, requests, rate=RATE)
        live = sum(_is_live(target, each) for each in everybody[:trials]) / trials
        peak_mb = _peak_mb(process.pid)
    lists = home.parent / "lists.parquet"
    batch = run(_BIN / "fedpref-region", "recommend", "batch", home, "--out", lists)
    if batch.status:
        raise RuntimeError(f"the batch ended with {batch.status}")
    told = (
        f"p50 {load.quantile_ms(0.5):.1f}, p90 {load.quantile_ms(0.9):.1f}, "
        f"longest {load.quantile_ms(1.0):.1f}; {load.rate:.0f} answers/s, "
        f"{load.refused + load.lost} refused or lost"
    )
    return {
        TIME: Figure(load.quantile_ms(0.99), told),
        MEMORY: Figure(peak_mb, f"ready after {opened_s:.0f} s, when its log was verified"),
        LIVE: Figure(live, f"of {trials} views, each followed at once by a request"),
        BATCH: Figure(
            batch.wall_s,
            f"{batch.cpu_s:.0f} s of processor time, opening included; "
            f"{lists.stat().st_size / customers:.0f} B a customer",
        ),
        BATCH_MEMORY: Figure(batch.memory_mb),
    }


@contextmanager
def _served(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Target, float]]:
    """The service on the last core, and this process on the others."""
    cores = os.sched_getaffinity(0)
    own = {max(cores)}
    path = home.parent / "recommend.socket"
    command = [_BIN / "fedpref-region", "recommend", "serve", home, "--socket", path]
    began = time.monotonic()
    os.sched_setaffinity(0, own)
    process = subprocess.Popen(list(map(str, command)))  # noqa: S603
    os.sched_setaffinity(0, (cores - own) or cores)
    try:
        while not _answers(path):
            if process.poll() is not None or time.monotonic() - began > _OPENING_S:
                raise RuntimeError("the service does not open")
            time.sleep(0.2)
        token = (home / "recommend" / "token").read_text("ascii").strip()
        yield process, Target(token, unix_socket=path), time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        os.sched_setaffinity(0, cores)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def _is_live(target: Target, customer: str) -> bool:
    """Whether an item far down a customer's list moves up in the next one if she looks at it."""
    asked = {"customer": customer, "k": _LISTED}
    before = _items(_post(target, RECOMMENDATIONS, asked))
    viewed = before[_FAR_DOWN]
    _post(target, EVENTS, {"customer": customer, "kind": "view", "item": viewed})
    after = _items(_post(target, RECOMMENDATIONS, asked))
    return viewed in after[:_FAR_DOWN]


def _items(answer: dict[str, object]) -> list[str]:
    listed = answer["items"]
    if not isinstance(listed, list):
        raise RuntimeError("an answer has no list")
    return [str(each["item"]) for each in listed]


def _post(target: Target, path: str, record: object) -> dict[str, object]:
    """One request on a connection of its own, and its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(target.unix_socket))
        client.sendall(target.request(path, record))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        content = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{path}: {answer.status}")
    found: dict[str, object] = json.loads(content) if content else {}
    return found


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell the most that was resident")
