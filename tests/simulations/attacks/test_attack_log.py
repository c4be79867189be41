"""Every attack of the specification, on copies of a real run, with keys that forgers would have."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.audit.verify import verify_bundle
from common.errors import InputError
from server.config import ServerHome
from simulations.attacks import table
from simulations.attacks.attack import Attack, Mark, Outcome, on_bundle
from simulations.attacks.forgery import Forgery
from simulations.attacks.table import ATTACKS
from simulations.cli import app
from simulations.run_folder import RunFolder

SPECIFIED = [f"A{number}" for number in range(1, 26)]


@pytest.fixture(scope="module")
def run(finished_run: Path) -> RunFolder:
    return RunFolder(finished_run)


@pytest.fixture
def forgery(run: RunFolder) -> Forgery:
    return Forgery(run, ServerHome(run.server).read_plan().regions[0])


def test_every_attack_of_the_specification_is_there_once() -> None:
    assert [attack.id for attack in ATTACKS] == SPECIFIED


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_it_is_caught_by_the_check_that_is_meant_for_it(
    attack: Attack, forgery: Forgery, tmp_path: Path
) -> None:
    outcome = attack.trial(forgery, tmp_path / "copy")
    assert outcome.caught, outcome.message
    assert outcome.place
    assert outcome.message


def test_a_copy_that_nobody_forged_verifies(forgery: Forgery, tmp_path: Path) -> None:
    """Without this, a fault of the copying would pass for a caught attack."""
    assert verify_bundle(forgery.write(tmp_path / "copy")).verified


def test_a_log_written_anew_without_a_change_lacks_only_the_others_cosignatures(
    forgery: Forgery, tmp_path: Path
) -> None:
    """What the forgers cannot make; and their new signatures are no fault by themselves."""
    forgery._honest[forgery.region] = []  # so that it is written and signed anew
    verdict = verify_bundle(forgery.write(tmp_path / "copy"))
    assert {failure.code for failure in verdict.failures} == {"not-witnessed"}


def test_an_attack_that_changes_nothing_counts_as_missed(forgery: Forgery, tmp_path: Path) -> None:
    trial = on_bundle(lambda _: Mark(frozenset({"tree-root"})))
    outcome = trial(forgery, tmp_path / "copy")
    assert not outcome.caught
    assert "the bundle verified" in outcome.message


def test_forgers_have_no_key_of_others(forgery: Forgery) -> None:
    with pytest.raises(InputError, match="no key of witness"):
        forgery.signer("witness", "witness")


def test_the_command_prints_the_count_last_and_fails_if_one_is_missed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(forgery: Forgery, folder: Path) -> Outcome:
        del forgery, folder
        return Outcome(caught=False, place="", message="nothing was said")

    few = (ATTACKS[0], ATTACKS[17])
    monkeypatch.setattr(table, "ATTACKS", few)
    result = CliRunner().invoke(app, ["attack-log", str(run.root)], standalone_mode=False)
    assert result.stdout.strip().splitlines()[-1] == "2 of 2 attacks caught"
    assert result.return_value == 0
    monkeypatch.setattr(table, "ATTACKS", (*few, Attack("A99", "new", missed)))
    result = CliRunner().invoke(app, ["attack-log", str(run.root)], standalone_mode=False)
    assert result.stdout.strip().splitlines()[-1] == "2 of 3 attacks caught"
    assert result.return_value == 8
