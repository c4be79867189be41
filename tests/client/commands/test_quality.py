"""`fedpref-region quality`: report, changes, undo and redo, standards."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.data.standards import DEFAULT_FILE
from client.engine.home import RegionHome
from common.errors import FedprefError, InputError, UsageError
from tests.support.governed_home import make_governed_home

EVENT = ("customer", "time", "kind", "value")
ROWS = [("c1", f"2024-03-{1 + n % 28:02d} {n % 24:02d}:00", "view", "") for n in range(100)]
DWELL = [("c2", f"2024-03-01 {n:02d}:00", "dwell", 2000 + n) for n in range(3)]


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_governed_home(tmp_path / "home", events=(EVENT, [*ROWS, *DWELL]))


def quality(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quality", *map(str, arguments)], env={"COLUMNS": "160"})


def failed(error: type[FedprefError], *arguments: object) -> FedprefError:
    result = quality(*arguments)
    assert isinstance(result.exception, error), result.output
    return result.exception


def test_a_report_in_words_and_as_json(home: RegionHome) -> None:
    shown = quality("report", home.root)
    assert shown.exit_code == 0
    assert "may be used" in shown.output
    assert "events: treated: clipped value 3" in shown.output
    assert "active: 10 customers" in shown.output
    printed = json.loads(quality("report", home.root, "--table", "events", "--json").output)
    assert [each["table"] for each in printed["tables"]] == ["events"]
    assert printed["tables"][0]["treatments"] == {"clipped value": 3}


def test_a_table_that_may_not_be_used_ends_with_4(home: RegionHome) -> None:
    path = home.source.parent / "events.csv"
    path.write_text(path.read_text("utf-8") + "c,2024-03-01,stare,\n" * 4, "utf-8")
    result = quality("report", home.root)
    assert result.exit_code == 4
    assert "of its rows are right, and 98.00% have to be" in result.output


def test_changes_undone_and_redone(home: RegionHome) -> None:
    assert "Make one: fedpref-region quality report" in str(
        failed(InputError, "changes", home.root, "events")
    )
    quality("report", home.root)
    listed = json.loads(quality("changes", home.root, "events", "--json").output)
    assert {(each["treatment"], each["after"]) for each in listed} == {("clipped", "1800")}
    row = next(each["row"] for each in listed if each["before"] == "2002")
    assert "3 of 3 changes" in quality("changes", home.root, "events").output
    undone = quality("undo", home.root, "events", "clipped", "--column", "value", "--row", row)
    assert "1 changes of events are not made any more" in undone.output
    quality("report", home.root)
    left = json.loads(quality("changes", home.root, "events", "--json").output)
    assert {each["before"] for each in left} == {"2000", "2001"}
    redone = quality("redo", home.root, "events", "clipped", "--column", "value", "--row", row)
    assert "1 decision is taken back" in redone.output


def test_how_many_rows_count_is_not_undone(home: RegionHome) -> None:
    error = failed(UsageError, "undo", home.root, "events", "beyond-bound")
    assert "most_per_customer" in error.remedy


def test_a_page_is_its_owners_and_replaces_only_a_page(home: RegionHome, tmp_path: Path) -> None:
    page = tmp_path / "quality.html"
    assert quality("report", home.root, "--page", page).exit_code == 0
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert quality("report", home.root, "--page", page).exit_code == 0
    other = tmp_path / "notes.html"
    other.write_text("mine", "utf-8")
    failed(UsageError, "report", home.root, "--page", other)
    failed(InputError, "report", home.root, "--page", tmp_path / "none" / "quality.html")
    assert other.read_text("utf-8") == "mine"


def test_standards_to_begin_ones_own_with(home: RegionHome) -> None:
    default = DEFAULT_FILE.read_text("utf-8")
    assert quality("standards").output == default
    own = home.source.with_name("standards.toml")
    own.write_text(default + "\n# ours\n", "utf-8")
    assert quality("standards", home.root).output.endswith("# ours\n")
    own.write_text("version = 1", "utf-8")
    assert isinstance(failed(InputError, "standards", home.root), InputError)
