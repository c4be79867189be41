"""`fedpref-region recommend prepare`, as an operator gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.recommend.local_release import local_path
from client.recommend.local_statistics import SCENES
from common.consent import RECOMMENDATIONS
from common.errors import EXIT_OK, BudgetError, InputError, PolicyError, UsageError
from tests.support.command_line import Command, command_line
from tests.support.small_federation import make_federation


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepare") / "run"
    return make_federation(root, regions=1, quorum=1)[0].root


@pytest.fixture
def home(provisioned: Path, tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned, tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(
        cli.main, "fedpref-region", "recommend", "prepare", patch=monkeypatch, capture=capsys
    )


def test_scenes_are_prepared_and_the_charge_is_shown(home: RegionHome, command: Command) -> None:
    code, out, err = command(home, "--epsilon", "2", "--anyway", "--time-zone", "Europe/Berlin")
    assert code == EXIT_OK, err
    assert "of 8 is spent this year" in out
    assert "scenes" in out
    assert local_path(home, SCENES).is_file()
    (charge,) = read_charges(home.ledger)
    assert (charge.request.purpose, charge.request.mechanism) == (RECOMMENDATIONS, SCENES)


def test_json_says_the_same(home: RegionHome, command: Command) -> None:
    code, out, err = command(home, "--epsilon", "2", "--anyway", "--json")
    assert code == EXIT_OK, err
    (told,) = json.loads(out)
    (charge,) = read_charges(home.ledger)
    assert told["name"] == SCENES
    assert told["query"] == charge.request.permit_id
    assert told["dp"]["noise_multiplier"] == charge.request.noise_multiplier


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--epsilon", "2"), BudgetError, "Nothing was spent"),
        (("--epsilon", "3"), PolicyError, "queries.scenes"),
        (("--epsilon", "0"), InputError, "No noise brings"),
        (("--epsilon", "nan"), InputError, "No noise brings"),
        (("--epsilon", "2", "--ask", "regional-bias"), InputError, "no model is installed"),
        (("--epsilon", "2", "--ask", "everything"), InputError, "nothing that a region"),
        (("--epsilon", "2", "--time-zone", "Nowhere"), InputError, "no time zone"),
        (("--epsilon", "2", "--from", "2024-01-01"), UsageError, "two ends"),
        (
            ("--epsilon", "2", "--from", "2024-02-01", "--until", "2024-01-01"),
            InputError,
            "window",
        ),
    ],
)
def test_what_cannot_be_is_said_and_costs_nothing(
    home: RegionHome,
    command: Command,
    options: tuple[str, ...],
    error: type[Any],
    words: str,
) -> None:
    code, _, err = command(home, *options)
    assert code == error.exit_code
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert read_charges(home.ledger) == []


def test_each_call_spends_anew(home: RegionHome, command: Command) -> None:
    window = ("--from", "2024-01-01", "--until", "2024-04-01")
    for calls in (1, 2):
        assert command(home, "--epsilon", "1.5", "--anyway", *window)[0] == EXIT_OK
        assert len(read_charges(home.ledger)) == calls
