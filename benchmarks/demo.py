"""Measures what the demo promises: time, memory, and how quickly its evidence is verified.

Run by ``make bench``. Each command runs as a process of its own, as a user's would; figures are
wall-clock seconds and peak resident memory as the operating system accounts them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
RESULTS = Path(__file__).parent / "results.json"
DEMO = ("run", "--scenario", "retail-5", "--epsilon", "8", "--seed", "1", "--out")


@dataclass(frozen=True)
class Result:
    """One measured figure beside its bar.

    Attributes:
        name: What was measured.
        figure: The measurement.
        unit: Its unit.
        bar: The most it may be.
        baseline: What it is compared with; null where the bar is absolute.
        holds: Whether the figure is within the bar.
    """

    name: str
    figure: float
    unit: str
    bar: float
    baseline: str | None
    holds: bool


def at_most(name: str, figure: float, unit: str, bar: float) -> Result:
    """A result whose figure should not exceed its bar."""
    return Result(name, round(figure, 3), unit, bar, None, figure <= bar)


def seconds_of(*command: object) -> float:
    """How long a command takes; it must succeed."""
    started = time.monotonic()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.monotonic() - started


def measure() -> list[Result]:
    """Runs the demo and the verifier, and measures both."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as folder:
        run = Path(folder) / "run"
        demo_s = seconds_of(BIN / "fedpref-sim", *DEMO, run)
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        verify_s = min(seconds_of(BIN / "fedpref-audit", "verify", run) for _ in range(3))
        start_s = min(seconds_of(BIN / "fedpref-audit", "--help") for _ in range(5))
    return [
        at_most("demo, from data to report", demo_s, "s", 180.0),
        at_most("demo, peak memory of its process", peak_bytes / 1e9, "GB", 3.0),
        at_most("fedpref-audit verify of the demo's bundle", verify_s, "s", 10.0),
        at_most("fedpref-audit, start-up", start_s, "s", 0.5),
    ]


def main() -> int:
    """Measures, prints each figure beside its bar, and writes ``results.json``."""
    results = measure()
    for result in results:
        mark = "holds" if result.holds else "DOES NOT HOLD"
        print(f"{result.name}: {result.figure} {result.unit} (bar {result.bar}): {mark}")  # noqa: T201
    load = os.getloadavg()[0]
    print(f"Load of the machine at the end: {load:.1f} on {os.cpu_count()} cores.")  # noqa: T201
    RESULTS.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
