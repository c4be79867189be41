"""`fedpref-region analytics`, as an operator gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.analytics.asking import ASKABLE
from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from common.analytics.further_questions import FURTHER
from common.analytics.purchase_questions import CATEGORIES, REPEATS
from common.consent import FEDERATED_ANALYTICS
from common.errors import EXIT_OK, BudgetError, InputError, PolicyError, UsageError
from simulations.provision import open_region
from tests.support.command_line import Command, command_line
from tests.support.small_federation import home_of, make_federation

WINDOW = ("--from", "2024-01-01", "--until", "2024-04-01")


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("analytics") / "run"
    folder, _, set_ups = make_federation(root, regions=1, quorum=1, customers=300)
    with open_region(home_of(folder), set_ups[0]) as region:
        agreeing = [each for each in region.customers if region.registrar.consents(each)]
        region.registrar.record(
            [Choice.give(each, {FEDERATED_ANALYTICS: True}) for each in agreeing]
        )
        allowed = {"queries": dict.fromkeys(ASKABLE, "6")}
        policy = RegionPolicy.model_validate({**region.engine.policy.to_record(), **allowed})
        sign_policy(region.engine.home, region.engine.log, policy)
    return folder.root


@pytest.fixture
def home(provisioned: Path, tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned, tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-region", "analytics", patch=monkeypatch, capture=capsys)


def test_it_asks_and_shows_intervals_and_what_was_spent(home: RegionHome, command: Command) -> None:
    code, out, err = command("ask", home, "--epsilon", "4", "--question", REPEATS, *WINDOW)
    assert code == EXIT_OK, err
    assert "of 8 this year" in out
    assert "purchase-1 → purchase-2" in out
    (charge,) = read_charges(home.ledger)
    assert (charge.request.purpose, charge.request.mechanism) == (FEDERATED_ANALYTICS, REPEATS)


def test_json_says_the_same_with_the_outlook(home: RegionHome, command: Command) -> None:
    options = ("--epsilon", "4", "--question", REPEATS, "--json", *WINDOW)
    code, out, err = command("ask", home, *options)
    assert code == EXIT_OK, err
    (told,) = json.loads(out)
    (charge,) = read_charges(home.ledger)
    assert told["query"] == charge.request.permit_id
    assert told["dp"]["noise_multiplier"] == charge.request.noise_multiplier
    assert told["outlook"]["swamped"] is False
    assert {line["unit"] for line in told["lines"]} == {"customers", "% go on"}


def test_the_outlook_of_all_that_is_allowed_costs_nothing(
    home: RegionHome, command: Command
) -> None:
    code, out, err = command("outlook", home, "--epsilon", "1", *WINDOW)
    assert code == EXIT_OK, err
    purchases = [name for name in ASKABLE if name not in FURTHER]
    assert all(name in out for name in purchases)
    # The region declares no further table.
    assert not any(name in out for name in FURTHER)
    assert "noise would swamp it" in out
    code, out, _ = command("outlook", home, "--epsilon", "1", "--json", *WINDOW)
    assert [each["name"] for each in json.loads(out)] == purchases
    assert read_charges(home.ledger) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--epsilon", "0.2"), BudgetError, "Nothing was spent"),
        (("--epsilon", "7", "--question", REPEATS), PolicyError, "queries.repeat-purchases"),
        (("--epsilon", "nan"), InputError, "No noise brings"),
        (("--epsilon", "2", "--question", "everything"), InputError, "nothing that can be asked"),
        (("--epsilon", "2", "--question", CATEGORIES) * 2, InputError, "asked twice"),
    ],
)
def test_what_cannot_be_is_said_and_costs_nothing(
    home: RegionHome, command: Command, options: tuple[str, ...], error: type[Any], words: str
) -> None:
    code, _, err = command("ask", home, *options, *WINDOW)
    assert code == error.exit_code
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert read_charges(home.ledger) == []


def test_a_window_has_two_ends(home: RegionHome, command: Command) -> None:
    code, _, _ = command("ask", home, "--epsilon", "2", "--from", "2024-01-01")
    assert code == UsageError.exit_code
