"""The command: names, what is printed, and its exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import UsageError
from simulations.attack_demos import table
from simulations.attack_demos.demo import Demo, Setting, Spoils, slice_of
from simulations.attack_demos.names import NAMES, find_names
from simulations.attack_demos.table import show_demos
from simulations.scenarios import find_scenario

SIM = Path(sys.executable).parent / "fedpref-sim"


def fake(name: str, *, flower: bool, ours: bool) -> Demo:
    def spoils(won: bool) -> Spoils:
        return Spoils(won, "the victim's update" if won else "nothing", {"share": float(won)})

    return Demo(
        name, f"about {name}", "FedAvg", "rules", lambda _: spoils(flower), lambda _: spoils(ours)
    )


def show(*, as_json: bool = False) -> tuple[bool, str]:
    console = Console(width=120, file=io.StringIO())
    scenario = find_scenario("retail-5")
    holds = show_demos(("one", "two"), scenario, seed=7, as_json=as_json, console=console)
    return holds, console.file.getvalue()  # type: ignore[attr-defined]


def test_all_are_found_by_name() -> None:
    assert find_names("all") == NAMES
    assert find_names("replay") == ("replay",)


def test_a_wrong_name_ends_the_command_with_2_and_names_the_nearest() -> None:
    done = subprocess.run(
        [SIM, "attack", "shiling"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "There is no attack 'shiling'. Did you mean shilling?" in done.stderr
    for name in NAMES:
        assert name in done.stderr


def test_too_few_regions_are_refused() -> None:
    with pytest.raises(UsageError, match="on 4 regions or more; synthetic-3 has 3"):
        slice_of(find_scenario("synthetic-3"), 1)


def test_one_table_says_what_was_got_from_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "DEMOS", (fake("one", flower=True, ours=False),))
    holds, text = show()
    assert holds
    assert "succeeds (FedAvg)" in text
    assert "fails (rules)" in text
    assert "flwr 1.41" in text
    assert "seed 7" in text
    assert "1 of 1 attacks succeed against Flower and fail here." in text


@pytest.mark.parametrize(("flower", "ours"), [(False, False), (True, True), (False, True)])
def test_it_does_not_hold_unless_the_attack_is_real_and_fails_here(
    monkeypatch: pytest.MonkeyPatch, flower: bool, ours: bool
) -> None:
    demos = (fake("one", flower=True, ours=False), fake("two", flower=flower, ours=ours))
    monkeypatch.setattr(table, "DEMOS", demos)
    holds, text = show()
    assert not holds
    assert "1 of 2 attacks" in text


def test_json_is_all_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "DEMOS", (fake("one", flower=True, ours=False),))
    _, text = show(as_json=True)
    assert text == ""
    record = json.loads(capsys.readouterr().out)
    assert record["flower"].startswith("flwr 1.41")
    assert (record["seed"], record["scenario"], record["holds"]) == (7, "retail-5", True)
    (one,) = record["attacks"]
    assert one["flower"]["succeeds"]
    assert not one["ours"]["succeeds"]
    assert one["flower"]["figures"] == {"share": 1.0}


def test_attacks_get_copies_of_their_own(setting: Setting) -> None:
    first, second = setting.federation(), setting.federation()
    assert first.folder.root != second.folder.root
    assert first.plan == second.plan
