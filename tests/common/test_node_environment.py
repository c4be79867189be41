"""A process of a deployment has a short environment, and Flower talks to nobody in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from common.node_environment import QUIET, be_quiet, process_environment, quiet_environment


def test_calls_home_and_installing_are_off() -> None:
    quiet = quiet_environment()
    assert quiet["FLWR_TELEMETRY_ENABLED"] == "0"
    assert quiet["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert quiet["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert quiet["RAY_USAGE_STATS_ENABLED"] == "0"
    quiet.clear()
    assert QUIET


def test_nothing_of_the_callers_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/planted")
    monkeypatch.setenv("LD_PRELOAD", "/planted.so")
    environment = process_environment(Path("/srv/region/node"))
    assert set(environment) == {
        *QUIET,
        "FLWR_HOME",
        "HOME",
        "LANG",
        "OMP_NUM_THREADS",
        "PATH",
        "PYTHONUNBUFFERED",
    }
    assert environment["FLWR_HOME"] == "/srv/region/node/.flwr"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_stubs_come_first_on_the_path() -> None:
    environment = process_environment(Path("/srv"), first_on_path=Path("/srv/bin"))
    assert environment["PATH"].startswith("/srv/bin:")


def test_a_process_started_by_hand_is_made_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    for name in QUIET:
        monkeypatch.setenv(name, "changed")
    be_quiet()
    assert {name: os.environ[name] for name in QUIET} == QUIET
