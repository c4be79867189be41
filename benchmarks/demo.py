"""What the demo promises: time, memory, and how quickly its evidence is verified.

Each command runs as a process of its own, as a user's would.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.processes import Usage, run
from benchmarks.results import Bar, Figure

BIN = Path(sys.executable).parent
_DEMO = ("run", "--scenario", "retail-5", "--epsilon", "8", "--seed", "1", "--out")

BARS = (
    Bar("demo, from data to report", "s", 180.0),
    Bar("demo, peak memory", "MB", 3000.0),
    Bar("fedpref-audit verify of the demo's bundle", "s", 10.0),
    Bar("fedpref-audit, start-up", "s", 0.5),
)


def measure() -> dict[str, Figure]:
    """Runs the demo and the verifier, and measures both."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as folder:
        out = Path(folder) / "run"
        demo = _succeed(BIN / "fedpref-sim", *_DEMO, out)
        verify_s = min(_succeed(BIN / "fedpref-audit", "verify", out).wall_s for _ in range(3))
        start_s = min(_succeed(BIN / "fedpref-audit", "--help").wall_s for _ in range(5))
    figures = (demo.wall_s, demo.memory_mb, verify_s, start_s)
    return {bar.name: Figure(value) for bar, value in zip(BARS, figures, strict=True)}


def _succeed(*command: object) -> Usage:
    usage = run(*command)
    if usage.status:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {usage.status}")
    return usage
