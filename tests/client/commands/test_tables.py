"""``fedpref-region tables``: what is read and followed is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.engine.home import RegionHome
from common.errors import InputError
from tests.support.further_tables import write_csv

EVENT = ("customer", "time", "kind")
DECLARED = """
[events]
kind = "files"
path = "events.csv"
channel = "web"
[events.columns]
customer = "customer"
time = "time"
kind = "kind"

[keys]
kind = "files"
path = "keys.csv"
[keys.columns]
channel = "channel"
key = "key"
customer = "customer"
"""


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    """A home with purchases and events, and nothing else."""
    found = RegionHome(tmp_path / "home", "north", "shop.example")
    data = found.source.parent
    data.mkdir(parents=True)
    found.write_identity()
    write_csv(data / "sales.csv", ("c", "i", "t"), [("1", "a", "2024-03-01")])
    found.source.write_text(
        'kind = "files"\npath = "sales.csv"\n[columns]\ncustomer = "c"\nitem = "i"\ntime = "t"\n'
    )
    moment = "2024-03-01T10:00:00Z"
    rows = [
        ("w1", moment, "view"),
        ("w2", moment, "view"),
        ("w1", "never", "view"),
        ("x", moment, "cart"),
    ]
    write_csv(data / "events.csv", EVENT, rows)
    keys = [("web", "w1", "1"), ("web", "w2", "1"), ("web", "w2", "2")]
    write_csv(data / "keys.csv", ("channel", "key", "customer"), keys)
    (data / "tables.toml").write_text(DECLARED)
    return found


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_each_table_is_told_with_what_was_left_out(home: RegionHome) -> None:
    record = json.loads(run("tables", "check", home.root, "--json"))
    assert record["keys_of_several_customers"] == 1
    events = record["tables"]["events"]
    assert (events["read"], events["unmatched"], events["accepted"]) == (4, 1, 1)
    assert set(events["reasons"]) == {"customer-ambiguous", "time-unreadable"}
    assert record["tables"]["purchases"]["accepted"] == 1
    told = run("tables", "check", home.root)
    assert "customer-ambiguous 1" in told
    assert "1 keys are given to several customers" in told


def test_a_table_is_followed_and_its_latency_told(home: RegionHome) -> None:
    told = run("tables", "follow", home.root, "--for", 0)
    assert "events: 1 new rows of 1 files or ranges" in told
    assert "time-unreadable 1" in told
    (line,) = run("tables", "follow", home.root, "events", "--for", 0, "--json").splitlines()
    record = json.loads(line)
    assert (record["rows"], record["withdrawn"], record["latency"]["rows"]) == (1, 0, 0)


def test_rows_that_come_meanwhile_are_told_with_how_long_they_took(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = home.source.parent / "events.csv", [0.0]

    def write_instead(seconds: float) -> None:
        clock[0] += seconds
        with path.open("a") as file:
            file.write("w1,2024-03-02T10:00:00Z,cart\n")

    fake = SimpleNamespace(sleep=write_instead, monotonic=lambda: clock[0])
    monkeypatch.setattr("client.commands.tables.time", fake)
    lines = run("tables", "follow", home.root, "--every", 10, "--for", 15).splitlines()
    assert len(lines) == 2
    assert "1 new rows" in lines[1]
    assert "1 later than ten minutes" in lines[1]


def test_what_is_not_declared_cannot_be_followed(home: RegionHome) -> None:
    with pytest.raises(InputError, match="declares no table feedback"):
        run("tables", "follow", home.root, "feedback", "--for", 0)
