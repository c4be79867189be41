"""Runs a command as a user's process and accounts for it and all its children."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        wall_s: From start to end.
        cpu_s: Processor time of it and its children, user and system.
        memory_mb: The most memory they had at once: proportional set size, sampled.
        status: Its exit code.
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    status: int


def run(*command: object) -> Usage:
    """Runs a command to its end; its output goes nowhere."""
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)  # noqa: S603
    peak = [0.0]
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, peak, ended), daemon=True)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_mb=peak[0] / 1024,
        status=process.returncode,
    )


def _sample(pid: int, peak_kb: list[float], ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_S):
        peak_kb[0] = max(peak_kb[0], sum(map(_pss_kb, _tree(pid))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _pss_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass  # it has ended meanwhile
    return 0
