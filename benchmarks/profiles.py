"""What profiles cost: 500,000 customers and 20 million rows built, followed, and an event taken up.

The store lies in daily Parquet files as a till would write them; all customers have consented.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.data import CUSTOMERS, DAYS, ITEMS, ROWS
from benchmarks.results import Bar, Figure

BUILD = Bar("profiles of 500,000 customers, 20M rows: built", "s", 300)
MEMORY = Bar("… memory of the whole process, consents in it", "MB", 4096)
EVENT = Bar("… an event in its customer's profile, worst of 5", "s", 10)
DAY = Bar("… a day's 200,000 rows taken up, of a build", "%", 5)
NEW_DAY = Bar("… all judged anew on a new day, of a build", "%", 5)

BARS = (BUILD, MEMORY, EVENT, DAY, NEW_DAY)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes some six minutes."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        measured = measure_region(Path(name) / "region", ROWS, CUSTOMERS, ITEMS, DAYS)
    return {bar.name: figure for bar, figure in measured.items()}


def measure_region(
    home: Path, rows: int, customers: int, items: int, days: int
) -> dict[Bar, Figure]:
    """Makes a store of daily files, and measures the profiles of its customers."""
    # Each by a process of its own, whose memory ends with it.
    _run("benchmarks.large_store", home, rows, customers, items, days)
    found: dict[str, float] = json.loads(_run("benchmarks.profile_data", home, customers))
    kept = f"{found['kept_bytes'] / 1e6:,.0f} MB kept, encrypted"
    return {
        BUILD: Figure(found["build_s"], f"{found['build_cpu_s']:.0f} s of processor; {kept}"),
        MEMORY: Figure(found["peak_mb"], f"{found['before_mb']:,.0f} MB before, by consents alone"),
        EVENT: Figure(found["event_s"], f"with nothing new: {found['nothing_new_s']:.1f} s"),
        DAY: Figure(
            100 * found["day_s"] / found["build_s"],
            f"{found['day_s']:.1f} s, {found['day_judged']:,.0f} customers judged",
        ),
        NEW_DAY: Figure(100 * found["new_day_s"] / found["build_s"], f"{found['new_day_s']:.1f} s"),
    }


def _run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
