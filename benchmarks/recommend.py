"""What the recommender and training promise at scale: lists, answers, and a DP round of a million.

Lists beside `implicit`'s; the service with a million customers, and all their lists in a file; one
round of a million customers in five regions on the cores there are. Takes up to twenty minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import batch_scoring, serving
from benchmarks.processes import run
from benchmarks.results import Bar, Figure
from benchmarks.scale_round import CUSTOMERS, ITEMS, REGIONS
from common.strategies import FACTORS, TIED_AUTOENCODER

_SIZES = f"{CUSTOMERS:,} customers × {ITEMS:,} items × {REGIONS} regions"
ROUND = Bar(f"a DP round, {_SIZES}: factors", "s", 600)
MEMORY = Bar("… memory of all processes, the most there was", "MB", 8_000)
WIDE_ROUND = Bar("… of the tied autoencoder over all items", "s", 600)
WIDE_MEMORY = Bar("… memory of that round", "MB", 8_000)

BARS = (*batch_scoring.BARS, *serving.BARS, ROUND, MEMORY, WIDE_ROUND, WIDE_MEMORY)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area."""
    measured = {**batch_scoring.measure(), **serving.measure()}
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        rounds = measure_rounds(Path(name) / "federation", CUSTOMERS, ITEMS, REGIONS)
    return measured | {bar.name: figure for bar, figure in rounds.items()}


def measure_rounds(root: Path, customers: int, items: int, regions: int) -> dict[Bar, Figure]:
    """Plays the popularity round and one more, of factors; then one of the autoencoder."""
    _scale_round("make", root, customers, items, regions)
    first_s, first_mb, _ = _measured_round(root, 1, FACTORS)
    second_s, second_mb, told = _measured_round(root, 2, FACTORS)
    _measured_round(root, 1, TIED_AUTOENCODER, items)
    wide_s, wide_mb, wide = _measured_round(root, 2, TIED_AUTOENCODER, items)
    return {
        ROUND: Figure(
            max(first_s, second_s),
            f"round 1 {first_s:.0f} s, round 2 {second_s:.0f} s; {told}",
        ),
        MEMORY: Figure(max(first_mb, second_mb)),
        WIDE_ROUND: Figure(wide_s, wide),
        WIDE_MEMORY: Figure(wide_mb),
    }


def _measured_round(
    root: Path, server_round: int, strategy: str, *vocabulary: int
) -> tuple[float, float, str]:
    """Seconds, megabytes, and what of it was what."""
    out = root / "told.json"
    usage = run(
        *(sys.executable, "-m", "benchmarks.scale_round"),
        *("round", root, server_round, strategy, *vocabulary),
    )
    if usage.status:
        raise RuntimeError(f"round {server_round} of {strategy} ended with {usage.status}")
    times = json.loads(out.read_text())
    told = (
        f"the slowest region's data set {times['dataset_s']:.0f} s, its release "
        f"{times['release_s']:.0f} s; m = {times['vocabulary']:,.0f}, d = {times['rank']:.0f}; "
        f"{usage.cpu_s:.0f} s of processor time"
    )
    return usage.wall_s, usage.memory_mb, told


def _scale_round(*arguments: object) -> None:
    command = [sys.executable, "-m", "benchmarks.scale_round", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
