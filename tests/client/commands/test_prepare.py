"""`fedpref-region prepare`: what is new in the store, ahead of a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import cli
from client.engine.home import RegionHome
from client.engine.service import open_engine
from common.errors import EXIT_OK, InputError, QualityGateError
from tests.support.command_line import Command, command_line
from tests.support.small_federation import home_of, make_federation


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    folder, _, _ = make_federation(tmp_path, regions=1, quorum=1, customers=4)
    return home_of(folder)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-region", patch=monkeypatch, capture=capsys)


def test_it_reads_what_is_new_also_beside_a_running_engine(
    home: RegionHome, command: Command
) -> None:
    with open_engine(home):
        code, out, _ = command("prepare", home.root)
        assert code == EXIT_OK
        assert "Of 120 rows in scope 100.0000% pass (threshold 98%); 120 are used." in out
    code, out, _ = command("prepare", home.root, "--anew")
    assert (code, "region-1: 120 rows of 1 new or changed parts of the store read" in out) == (
        0,
        True,
    )
    path = home.source.resolve().parent / "transactions.csv"
    rows = path.read_text("utf-8")
    path.write_text(rows + "new,item-01,2024-01-05T00:00:00Z,r,x\n", "utf-8")
    code, out, _ = command("prepare", home.root)
    assert code == EXIT_OK
    assert "121 rows of 1 new or changed parts" in out


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ("new,granite,2024-01-05T00:00:00Z,r,x\n" * 9, QualityGateError, "item-unknown 9"),
        ('"cut', InputError, "transactions.csv cannot be read"),
    ],
)
def test_what_is_wrong_with_the_store_is_said(
    home: RegionHome, command: Command, rows: str, error: type[Exception], said: str
) -> None:
    path = home.source.resolve().parent / "transactions.csv"
    path.write_text(path.read_text("utf-8") + rows, "utf-8")
    code, _, err = command("prepare", home.root)
    assert code == error.exit_code  # type: ignore[attr-defined]
    assert said in " ".join(err.split())
