"""Builds and refreshes a region's profiles in a process of its own, and measures it.

``… HOME CUSTOMERS``: the home is one that `benchmarks.large_store` made. All customers consent. A
build reads the whole store; then a day's file comes, then events, one by one, then a new day.
Prints JSON; memory is the most that was resident, consents and pseudonyms in it.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.large_store import FIRST_DAY, customer, item, write_day
from benchmarks.prepared_data import everyone, resident_mb
from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.profiles.building import build
from client.profiles.making import Outcome
from client.profiles.refreshing import Refresher
from client.profiles.region import making_of
from common.catalogue import Catalogue
from common.consent import PROFILING
from common.timestamps import format_time, now_ms

CATEGORIES, EVENTS = 300, 5
_DAY_MS = 86_400_000
_TABLES = """
[events]
kind = "files"
path = "events"
[events.columns]
customer = "who"
time = "at"
kind = "what"
item = "article"
"""

Measured = dict[str, float]


def measure(home: RegionHome, customers: int) -> Measured:
    """Builds and refreshes; gives seconds, counts and megabytes."""
    days = sorted((home.source.parent / "days").iterdir())
    items = _with_categories(home)
    eligible = everyone(customers, purpose=PROFILING)
    moment_ms = _end_ms(len(days))
    making = making_of(home)
    times: Measured = {"before_mb": resident_mb("VmRSS")}
    built = _timed(times, "build", lambda: build(making, eligible, moment_ms))
    times |= {
        "rows": built.purchases.read,
        "customers": built.customers,
        "build_peak_mb": resident_mb("VmHWM"),
        "kept_bytes": sum(path.stat().st_size for path in making.store.folder.iterdir()),
    }
    refresher = Refresher(making)
    _timed(times, "nothing_new", lambda: refresher.refresh(eligible, moment_ms))
    write_day(home, len(days), built.purchases.read // len(days), customers, items)
    day = _timed(times, "day", lambda: refresher.refresh(eligible, moment_ms))
    times["day_rows"], times["day_judged"] = day.purchases.read, day.judged
    times["event_s"] = max(_event(home, refresher, eligible, n) for n in range(EVENTS))
    _timed(times, "new_day", lambda: refresher.refresh(eligible, moment_ms + _DAY_MS))
    return times | {"peak_mb": resident_mb("VmHWM")}


def _event(
    home: RegionHome, refresher: Refresher, eligible: EligibleCustomers, number: int
) -> float:
    """Seconds from an event's arrival in a file until its customer's profile has it."""
    path = home.source.parent / "events" / f"{number}.csv"
    moment_ms = refresher.making.store.require().refreshed_ms
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["who", "at", "what", "article"])
        rows.writerow([customer(number), format_time(moment_ms - 1000), "view", item(number)])
    started = time.perf_counter()
    outcome = refresher.refresh(eligible, moment_ms)
    if outcome.judged != 1:
        raise RuntimeError(f"the event of one customer changed {outcome.judged} profiles")
    return time.perf_counter() - started


def _with_categories(home: RegionHome) -> int:
    """Gives the made-up catalogue categories, and the home a table of events; counts its items."""
    catalogue = Catalogue.load(home.catalogue)
    names = [f"category {number % CATEGORIES:03}" for number in range(catalogue.n_items)]
    Catalogue.of(catalogue.items, category=names).save(home.catalogue)
    (home.source.parent / "events").mkdir()
    (home.source.parent / "events/none.csv").write_text("who,at,what,article\n")
    home.source.with_name("tables.toml").write_text(_TABLES)
    return catalogue.n_items


def _end_ms(days: int) -> int:
    """Noon of the day after the store's last."""
    first = datetime.fromisoformat(str(FIRST_DAY)).replace(tzinfo=UTC)
    return min(round(first.timestamp() * 1000) + days * _DAY_MS + _DAY_MS // 2, now_ms())


def _timed(times: Measured, name: str, action: Callable[[], Outcome]) -> Outcome:
    started, cpu = time.perf_counter(), time.process_time()
    outcome = action()
    times[f"{name}_s"] = time.perf_counter() - started
    times[f"{name}_cpu_s"] = time.process_time() - cpu
    return outcome


def main(home: Path, customers: str) -> None:
    """Measures and prints."""
    sys.stdout.write(f"{json.dumps(measure(RegionHome.read(home), int(customers)))}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
