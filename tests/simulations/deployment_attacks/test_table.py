"""The command: names, what is printed, and its exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from simulations.deployment_attacks import table
from simulations.deployment_attacks.names import NAMES
from simulations.deployment_attacks.outcome import Outcome
from simulations.deployment_attacks.table import ATTACKS, DeploymentAttack, show_attacks
from tests.support.shared_python import shared_scripts

SIM = Path(sys.executable).parent / "fedpref-sim"


def fake(name: str, *, flower: bool, ours: bool, logged: str) -> DeploymentAttack:
    return DeploymentAttack(
        name,
        f"about {name}",
        lambda _: Outcome(flower, "the store's rows" if flower else "nothing"),
        lambda _: Outcome(ours, "the rows" if ours else "refused: HTTP 404", logged),
    )


@pytest.fixture
def deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployments that are none: what is tested is what is made of outcomes."""

    @contextmanager
    def none(root: Path, *, seed: int = 0, scripts: Path | None = None) -> Iterator[object]:
        yield object()

    monkeypatch.setattr(table, "stock_federation", none)
    monkeypatch.setattr(table, "our_federation", none)
    # No program is started, so none needs a Python that all users may run.
    monkeypatch.setattr(table, "require_users", lambda: None)


def show(*names: str, as_json: bool = False) -> tuple[bool, str]:
    console = Console(width=160, file=io.StringIO())
    holds = show_attacks(names, seed=7, as_json=as_json, console=console)
    return holds, console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_every_attack_in_its_order() -> None:
    assert tuple(each.name for each in ATTACKS) == NAMES


def test_a_wrong_name_ends_the_command_with_2() -> None:
    done = subprocess.run(
        [SIM, "attack-deployment", "stolen"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "Did you mean stolen-ca?" in done.stderr


def test_one_table_says_what_was_got_and_where_it_is_on_record(
    deployments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = fake("one", flower=True, ours=False, logged="north's log: not-permitted")
    monkeypatch.setattr(table, "ATTACKS", (attack,))
    holds, text = show("one")
    assert holds
    for said in ("succeeds", "the store's rows", "fails", "HTTP 404", "north's log: not-permitted"):
        assert said in text
    assert "flwr 1.41" in text
    assert "1 of 1 attacks succeed in a deployment of stock Flower, and are refused" in text


@pytest.mark.parametrize(
    ("flower", "ours", "logged"),
    [(False, False, "a log"), (True, True, "a log"), (True, False, "")],
    ids=["not-real", "not-refused", "not-on-record"],
)
def test_it_does_not_hold_unless_it_is_real_refused_and_on_record(
    deployments: None, monkeypatch: pytest.MonkeyPatch, flower: bool, ours: bool, logged: str
) -> None:
    attacks = (
        fake("one", flower=True, ours=False, logged="a log"),
        fake("two", flower=flower, ours=ours, logged=logged),
    )
    monkeypatch.setattr(table, "ATTACKS", attacks)
    holds, text = show("one", "two")
    assert not holds
    assert "1 of 2 attacks" in text


def test_json_is_all_that_is_printed(
    deployments: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = fake("one", flower=True, ours=False, logged="a log")
    monkeypatch.setattr(table, "ATTACKS", (attack,))
    _, text = show("one", as_json=True)
    assert text == ""
    record = json.loads(capsys.readouterr().out)
    assert record["flower"].startswith("flwr 1.41")
    assert (record["seed"], record["holds"]) == (7, True)
    (one,) = record["attacks"]
    assert one["flower"]["succeeds"]
    assert not one["ours"]["succeeds"]
    assert one["ours"]["logged"] == "a log"


@pytest.mark.slow
def test_the_command_carries_attacks_out_on_deployments_that_it_sets_up() -> None:
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        Path(folder).chmod(0o711)
        scripts = shared_scripts(Path(folder))
        done = subprocess.run(
            [scripts / "fedpref-sim", "attack-deployment", "local-user", "--json"],
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (shown,) = json.loads(done.stdout)["attacks"]
    assert shown["flower"]["succeeds"]
    assert not shown["ours"]["succeeds"]
