"""Prepares a region's data as an engine does, in a process of its own, and measures it.

``… first HOME CUSTOMERS`` reads a store for the first time and makes a round's data set of it;
``… again HOME CUSTOMERS`` starts with what is kept, makes the data set, then takes up a day that
has come and makes it once more. Consents of all customers are in memory, as an engine has them.
Prints JSON; memory is the most that was resident, from the start of the process on.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.large_store import customer, write_day
from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common.catalogue import Catalogue
from common.consent import (
    FEDERATED_TRAINING,
    GIVEN,
    ConsentForm,
    ConsentRecord,
    ConsentReplay,
    new_ulid,
)
from common.plan import RunPlan
from common.plan_defaults import default_plan

Measured = dict[str, float]


def first(home: RegionHome, customers: int) -> Measured:
    """Reads the store, and makes a data set."""
    eligible, data, plan = everyone(customers), _data(home), plan_of(home)
    times: Measured = {"before_mb": resident_mb("VmRSS")}
    with _timed(times, "read_s"):
        data.refresh()
    with _timed(times, "dataset_s"):
        dataset = data.dataset(plan, eligible)
    report = data.quality_report()
    kept = sum(path.stat().st_size for path in home.prepared.iterdir())
    return times | {
        "rows": report.rows_read,
        "accepted": report.rows_accepted,
        "customers": dataset.n_customers,
        "kept_bytes": kept,
        "peak_mb": resident_mb("VmHWM"),
    }


def again(home: RegionHome, customers: int) -> Measured:
    """Starts with what is kept, and takes up a new day."""
    eligible, data, plan = everyone(customers), _data(home), plan_of(home)
    times: Measured = {}
    with _timed(times, "start_s"):
        data.refresh()
    with _timed(times, "dataset_s"):
        data.dataset(plan, eligible)
    days = len(list((home.source.parent / "days").iterdir()))
    rows = data.quality_report().rows_read // days
    write_day(home, days, rows, customers, plan.n_items)
    with _timed(times, "day_s"):
        refreshed = data.refresh()
    with _timed(times, "day_dataset_s"):
        data.dataset(plan, eligible)
    return times | {"day_rows": refreshed.rows_read, "peak_mb": resident_mb("VmHWM")}


def everyone(customers: int, *, purpose: str = FEDERATED_TRAINING) -> EligibleCustomers:
    """Consents of all customers that nobody signed, replayed."""
    form = ConsentForm(
        type="explicit",
        legal_basis="eu-gdpr:A6-1-a",
        controller="benchmark",
        jurisdiction="DE",
        lang="en",
        method="simulated",
        withdrawal="mailto:nobody@bench.example",
        notice_id="none",
        notice_sha256="0" * 64,
        data=("pd:PurchasesAndSpendingHabit",),
    )
    references = [customer(number) for number in range(customers)]
    pseudonyms = {ref: hashlib.sha256(ref.encode()).hexdigest() for ref in references}
    replay = ConsentReplay()
    for index, sid in enumerate(pseudonyms.values()):
        record = ConsentRecord(
            record_id=new_ulid(),
            sid=sid,
            seq=1,
            prev=None,
            state=GIVEN,
            purposes={purpose: True},
            evidence=None,
            event_time="2025-01-01T00:00:00.000Z",
            expires=None,
            form=form,
        )
        replay.apply(index, record, sid)
    return EligibleCustomers.from_replay(
        replay,
        purpose=purpose,
        at_ms=1_760_000_000_000,
        consent_size=customers,
        subject_ids=pseudonyms,
    )


def plan_of(home: RegionHome) -> RunPlan:
    """A plan whose window holds the whole store."""
    catalogue = Catalogue.load(home.catalogue)
    return default_plan(
        run_id="bench",
        federation=home.federation,
        scenario="bench",
        regions=[home.region],
        quorum=1,
        catalogue=catalogue.digest,
        n_items=catalogue.n_items,
        train_from="2025-01-01T00:00:00.000Z",
        train_until="2026-01-01T00:00:00.000Z",
        epsilon="8",
        planned_customers=1_000,
        round_timeout_s=600,
    )


def resident_mb(what: str) -> float:
    """Resident memory now (``VmRSS``), or the most there was (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel does not tell {what}")


def _data(home: RegionHome) -> RegionData:
    return RegionData(home, read_policy(home.policy))


@contextmanager
def _timed(times: Measured, name: str) -> Iterator[None]:
    started, cpu = time.perf_counter(), time.process_time()
    yield
    times[name] = time.perf_counter() - started
    times[f"{name.removesuffix('_s')}_cpu_s"] = time.process_time() - cpu


def main(action: str, home: Path, customers: str) -> None:
    """Measures and prints."""
    measure = {"first": first, "again": again}[action]
    measured = measure(RegionHome.read(home), int(customers))
    sys.stdout.write(f"{json.dumps(measured)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
