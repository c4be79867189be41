"""Scheduled retraining: plans made ahead, so that regions can permit each, and queued when due.

A schedule never asks a region for more than it signed: every run of it has a plan of its own, with
a training window that moves along, which each region permits or does not. It is made only as far as
the year's ε, which the federation declared, pays for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.durable_file import write_durably
from common.errors import BudgetError, FormatError, InputError, StorageError, UsageError
from common.plan import RunPlan
from common.privacy import GaussianEvent, epsilon_rdp
from common.system_users import as_owner
from common.timestamps import format_time, parse_time
from common.validate import array, exact_fields, timestamp
from server.config import RUN_NAME
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig, RunTable
from server.provisioning.plans import make_plan, write_plan
from server.queue import read_queue
from server.status import read_status

_VERSION = "fedpref-schedule/1"
_FIELDS = frozenset({"v", "runs"})
_RUN_FIELDS = frozenset({"run", "at"})
_INTERVAL = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_MOST_RUNS = 60


@dataclass(frozen=True)
class ScheduledRun:
    """A run that is to be queued.

    Attributes:
        run: Its name; it has a plan.
        at_ms: When, in milliseconds since the epoch.
    """

    run: str
    at_ms: int


def parse_interval(text: str) -> timedelta:
    """Reads an interval: a whole number of hours, days or weeks, such as ``12h``, ``7d``, ``2w``.

    Raises:
        UsageError: It is none.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no interval.", remedy="Write it as 12h, 7d or 2w.")
    return int(match[1]) * _UNITS[match[2]]


def make_schedule(
    deployment: Deployment,
    config: FederationConfig,
    name: str,
    *,
    every: timedelta,
    times: int,
    first_ms: int,
    regions: Sequence[str],
) -> list[ScheduledRun]:
    """Plans and schedules repetitions of a declared run.

    Args:
        deployment: The deployment.
        config: The federation.
        name: The declared run; repetitions are called after it, ``NAME-YYYYMMDD`` and a letter.
        every: From one to the next; the training window moves along by it.
        times: How many.
        first_ms: When the first is queued, in milliseconds since the epoch.
        regions: Who takes part.

    Returns:
        The runs, in order.

    Raises:
        InputError: There is no such run, or no ε a year is declared.
        BudgetError: The year's ε does not pay for all of them: says for how many.
    """
    declared = config.run.get(name)
    if declared is None:
        raise InputError(
            f"federation.toml declares no [run.{name}].",
            remedy=f"It declares {', '.join(config.run) or 'none'}.",
        )
    if not 1 <= times <= _MOST_RUNS:
        raise UsageError(f"A schedule has 1 to {_MOST_RUNS} runs.")
    catalogue = Catalogue.load(deployment.catalogue)
    planned: list[tuple[ScheduledRun, RunPlan]] = []
    for repetition in range(times):
        at_ms = first_ms + repetition * _milliseconds(every)
        run = _free_name(deployment, name, at_ms, {each.run for each, _ in planned})
        moved = _moved(declared, repetition * _milliseconds(every))
        planned.append(
            (ScheduledRun(run, at_ms), make_plan(config, run, moved, catalogue, regions))
        )
    _require_paid(deployment, config, planned)
    for scheduled, plan in planned:
        write_plan(deployment.home(scheduled.run), plan)
    runs = [scheduled for scheduled, _ in planned]
    _write(deployment, [*read_schedule(deployment), *runs])
    return runs


def read_schedule(deployment: Deployment) -> list[ScheduledRun]:
    """What is scheduled, the next first.

    Raises:
        InputError: The schedule's file is malformed.
    """
    path = _path(deployment)
    if not path.exists():
        return []
    try:
        fields = exact_fields(canonical_json.decode(path.read_bytes()), _FIELDS, "A schedule")
        if fields["v"] != _VERSION:
            raise FormatError(f"It is no {_VERSION}.")
        runs = [_parse(item) for item in array(fields["runs"], "runs")]
    except OSError as error:
        raise InputError(f"The schedule {path} cannot be read: {error.strerror}.") from error
    except FormatError as error:
        raise InputError(
            f"The schedule {path} is malformed: {error.message}",
            remedy="Remove it, and schedule anew.",
        ) from error
    return sorted(runs, key=lambda each: (each.at_ms, each.run))


def take_due(deployment: Deployment, *, at_ms: int) -> list[str]:
    """The runs that are due, which are then scheduled no longer.

    Args:
        deployment: The deployment.
        at_ms: Now, in milliseconds since the epoch.
    """
    runs = read_schedule(deployment)
    due = [each for each in runs if each.at_ms <= at_ms]
    if due:
        _write(deployment, [each for each in runs if each.at_ms > at_ms])
    return [each.run for each in due]


def cancel(deployment: Deployment) -> int:
    """Cancels all that is scheduled; gives how many runs that were. Their plans stay."""
    runs = read_schedule(deployment)
    if runs:
        _write(deployment, [])
    return len(runs)


def _require_paid(
    deployment: Deployment,
    config: FederationConfig,
    planned: Sequence[tuple[ScheduledRun, RunPlan]],
) -> None:
    """Checks each calendar year: runs that took place, are queued or scheduled, and these."""
    cap = config.federation.epsilon_per_year
    if cap is None:
        raise InputError(
            "federation.toml declares no epsilon_per_year: nothing says what a schedule may spend.",
            remedy="Declare [federation] epsilon_per_year; the regions' own caps must have room.",
        )
    spent = _spent(deployment)
    for done, (scheduled, plan) in enumerate(planned):
        year = _year(scheduled.at_ms)
        spent.setdefault(year, []).append(plan)
        plans = spent[year]
        delta = max(float(each.delta) for each in plans)
        events: list[GaussianEvent] = [event for each in plans for event in each.privacy_events()]
        # Written so that a NaN is refused too.
        if not epsilon_rdp(events, delta) <= float(cap):
            raise BudgetError(
                f"The ε of {year}, {cap} at δ = {delta:g}, pays for {done} of the {len(planned)} "
                "runs.",
                remedy="Schedule fewer runs, or runs of a smaller ε.",
            )


def _spent(deployment: Deployment) -> dict[int, list[RunPlan]]:
    """The plans of what was or will be spent, by calendar year (UTC)."""
    found: dict[int, list[RunPlan]] = {}
    home = deployment.home()
    waiting = {each.run for each in read_queue(deployment) if each.active}
    later = {each.run: each.at_ms for each in read_schedule(deployment)}
    for run in home.runs():
        plan = deployment.home(run).read_plan()
        years = {
            _year(parse_time(each.end))
            for each in read_status(deployment.home(run), last_events=0).rounds
        }
        if run in waiting:
            years.add(datetime.now(UTC).year)
        if run in later:
            years.add(_year(later[run]))
        for year in years:
            found.setdefault(year, []).append(plan)
    return found


def _moved(run: RunTable, by_ms: int) -> RunTable:
    return run.model_copy(
        update={
            field: format_time(parse_time(getattr(run, field)) + by_ms)
            for field in ("train_from", "train_until")
        }
    )


def _free_name(deployment: Deployment, name: str, at_ms: int, taken: set[str]) -> str:
    stem = f"{name}-{datetime.fromtimestamp(at_ms / 1000, UTC):%Y%m%d}"
    for letter in ("", *"bcdefghijklmnopqrstuvwxyz"):
        run = f"{stem}{letter}"
        if RUN_NAME.fullmatch(run) is None:
            raise UsageError(f"The run's name {name} is too long to be repeated.")
        if run not in taken and not deployment.home(run).plan.exists():
            return run
    raise InputError(f"There are too many runs called {stem} already.")


def _write(deployment: Deployment, runs: Sequence[ScheduledRun]) -> None:
    record: dict[str, JsonValue] = {
        "v": _VERSION,
        "runs": [{"run": each.run, "at": format_time(each.at_ms)} for each in runs],
    }
    path = _path(deployment)
    try:
        with as_owner(deployment.schedules):
            write_durably(path, canonical_json.encode(record), mode=0o644)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def _parse(item: JsonValue) -> ScheduledRun:
    fields = exact_fields(item, _RUN_FIELDS, "A scheduled run")
    run = fields["run"]
    if type(run) is not str or RUN_NAME.fullmatch(run) is None:
        raise FormatError("A scheduled run has no name.")
    return ScheduledRun(run, timestamp(fields["at"], "at")[1])


def _path(deployment: Deployment) -> Path:
    return deployment.schedules / "schedule.json"


def _milliseconds(interval: timedelta) -> int:
    return round(interval.total_seconds() * 1000)


def _year(at_ms: int) -> int:
    return datetime.fromtimestamp(at_ms / 1000, UTC).year
