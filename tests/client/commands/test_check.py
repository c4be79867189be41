"""`fedpref-region check`: what it prints, and with which code it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import cli
from client.inspection import inspect_region
from common.errors import EXIT_OK
from tests.support.bad_regions import (
    SimulatedMachine,
    Surroundings,
    made_surroundings,
    region_in,
)
from tests.support.region_folder import RegionFolder
from tests.support.small_federation import N_ITEMS


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    with made_surroundings(tmp_path_factory.mktemp("check")) as made:
        yield made


@pytest.fixture
def region(surroundings: Surroundings, tmp_path: Path) -> RegionFolder:
    return region_in(surroundings, tmp_path / "eu")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    monkeypatch.setattr(inspect_region, "ThisMachine", SimulatedMachine)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["fedpref-region", "check", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(str(stop.value.code)), " ".join(capsys.readouterr().out.split())


def test_the_command_shows_permissions_bytes_rounds_and_that_all_is_well(
    region: RegionFolder,
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, output = run(monkeypatch, capsys, region.root)
    plan = surroundings.plan
    assert code == EXIT_OK
    assert "What region-1 allows" in output
    assert "epsilon_cap_per_year 8" in output
    assert "What would leave in run run-1" in output
    assert f"1 popularity <f4 {N_ITEMS} {N_ITEMS * 4:,}" in output
    assert f"0 of {plan.total_rounds} rounds are charged" in output
    assert "more such runs" in output
    assert "No problem was found: the region is ready to start." in output


def test_the_command_ends_with_the_first_problem_s_code_and_names_all(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    region.write(policy={"rounds_max": 5, "quorum_min": 3})
    code, output = run(monkeypatch, capsys, region.root, "--offline")
    assert code == 7
    assert "1. policy:" in output
    assert "region.toml, [policy] quorum_min: It is 3" in output
    assert "2 problems: mend before you start." in output
    code, output = run(monkeypatch, capsys, region.root, "--offline", "--json")
    record = json.loads(output)
    assert (code, record["exit_code"]) == (7, 7)
    assert [each["kind"] for each in record["problems"]] == ["policy", "policy"]
    assert record["runs"][0]["bytes"] > 0
    assert record["policy"]["rounds_max"] == 64
