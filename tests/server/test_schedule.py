"""Scheduled retraining: plans made ahead, within the year's ε, and queued when due."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.errors import BudgetError, InputError, UsageError
from common.timestamps import parse_time
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig
from server.schedule import cancel, make_schedule, parse_interval, read_schedule, take_due
from tests.support.small_deployment import (
    REGIONS,
    declaration,
    one_user,  # noqa: F401 - used by itself
    provisioned,
)

FIRST = parse_time("2026-03-01T02:00:00.000Z")


def schedule(deployment: Deployment, config: FederationConfig, **changes: Any) -> list[str]:
    options: dict[str, Any] = {
        "every": timedelta(days=7),
        "times": 2,
        "first_ms": FIRST,
        "regions": REGIONS,
    }
    return [each.run for each in make_schedule(deployment, config, "first", **(options | changes))]


def test_each_repetition_has_a_plan_with_a_window_that_moves_along(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    runs = schedule(deployment, config)
    assert runs == ["first-20260301", "first-20260308"]
    plans = [deployment.home(run).read_plan() for run in runs]
    assert [plan.train_until for plan in plans] == [
        "2024-07-01T00:00:00.000Z",
        "2024-07-08T00:00:00.000Z",
    ]
    assert len({plan.run_id for plan in plans}) == 2
    assert [each.run for each in read_schedule(deployment)] == runs


def test_what_is_due_is_taken_once(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    schedule(deployment, config)
    assert take_due(deployment, at_ms=FIRST - 1) == []
    assert take_due(deployment, at_ms=FIRST) == ["first-20260301"]
    assert take_due(deployment, at_ms=FIRST) == []
    assert take_due(deployment, at_ms=FIRST + 30 * 86_400_000) == ["first-20260308"]
    assert read_schedule(deployment) == []


def test_the_years_epsilon_bounds_it_and_says_for_how_many_it_pays(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    with pytest.raises(BudgetError, match=r"The ε of 2026, 9 .* pays for [0-9]+ of the 60") as told:
        schedule(deployment, config, every=timedelta(hours=12), times=60)
    assert read_schedule(deployment) == []
    assert deployment.home().runs() == ()
    most = int(str(told.value).partition("pays for ")[2].split()[0])
    assert most >= 2
    assert len(schedule(deployment, config, every=timedelta(hours=12), times=most)) == most
    # What is scheduled already counts; another year is another budget.
    with pytest.raises(BudgetError, match="pays for 0 of the 1"):
        schedule(deployment, config, times=1)
    next_year = parse_time("2027-01-01T00:00:00.000Z")
    assert schedule(deployment, config, times=1, first_ms=next_year) == ["first-20270101"]


def test_without_a_years_epsilon_nothing_is_scheduled(tmp_path: Path) -> None:
    tables = declaration()
    del tables["federation"]["epsilon_per_year"]  # type: ignore[attr-defined]
    deployment, config = provisioned(tmp_path, tables)
    with pytest.raises(InputError, match="no epsilon_per_year"):
        schedule(deployment, config)


def test_what_is_not_declared_is_not_scheduled(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    with pytest.raises(InputError, match=r"no \[run\.other\]"):
        make_schedule(
            deployment,
            config,
            "other",
            every=timedelta(days=1),
            times=1,
            first_ms=FIRST,
            regions=REGIONS,
        )
    with pytest.raises(InputError, match="2 regions are enrolled"):
        schedule(deployment, config, regions=REGIONS[:2])


def test_a_schedule_is_cancelled(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    schedule(deployment, config)
    assert cancel(deployment) == 2
    assert read_schedule(deployment) == []
    # Regions may have permitted the plans: they stay, and the names are not used again.
    assert schedule(deployment, config, times=1) == ["first-20260301b"]


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("7d", 168), ("2w", 336)])
def test_an_interval_is_read(text: str, hours: int) -> None:
    assert parse_interval(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "0d", "7", "d", "7 d", "-1d", "1.5d", "7m", "100000d"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no interval"):
        parse_interval(text)


def test_a_damaged_schedule_is_named(tmp_path: Path) -> None:
    deployment, _ = provisioned(tmp_path)
    for data in (b"{}", b"[]", b'{"runs":[{"run":"../x","at":"x"}],"v":"fedpref-schedule/1"}'):
        (deployment.schedules / "schedule.json").write_bytes(data)
        with pytest.raises(InputError, match=r"schedule\.json is malformed"):
            read_schedule(deployment)
