"""A further table that is kept by columns: programs read low and medium grades of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from client.data.tables.declaration import declaration_file, declared_tables
from client.data.tables.reading import RegionTables
from client.engine.home import RegionHome
from client.governance.column_store import ColumnStore
from common.errors import InputError, PolicyError

GRADES = {"who": "medium", "since": "low", "level": "low", "mail": "high"}
ROWS = pa.table(
    {
        "who": ["1", "2"],
        "since": ["2024-03-01", "2024-05-09"],
        "level": ["gold", "silver"],
        "mail": ["a@shop.example", "b@shop.example"],
    }
)
DECLARED = """\
[members]
kind = "kept"
table = "members"
[members.columns]
customer = "who"
joined = "since"
level = "level"
"""


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    made = RegionHome(tmp_path / "home", "region-1", "small.example")
    made.keys.mkdir(parents=True)
    made.write_identity()
    keep(made, ROWS)
    declare(made, DECLARED)
    return made


def keep(home: RegionHome, rows: pa.Table) -> None:
    ColumnStore(home).keep("members", rows, GRADES, subject="who")  # type: ignore[arg-type]


def declare(home: RegionHome, text: str) -> None:
    path = declaration_file(home)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def tables(home: RegionHome) -> RegionTables:
    return RegionTables(declared_tables(home))


def test_a_kept_table_is_read_as_any_other(home: RegionHome) -> None:
    declared = tables(home)
    declared.check()
    found = declared.read("members")
    assert found.rows.column("customer").to_pylist() == ["1", "2"]
    assert found.rows.column("level").to_pylist() == ["gold", "silver"]
    assert (found.counts.read, found.counts.score) == (2, 1.0)
    (raw,) = declared.raw("members")
    assert sorted(raw.rows.column_names) == ["customer", "joined", "level"]
    assert raw.origin == "the kept table members"


def test_programs_read_no_column_of_high_grade(home: RegionHome) -> None:
    declare(home, DECLARED.replace('"level"\n', '"mail"\n'))
    for read in (RegionTables.check, lambda each: each.read("members")):
        with pytest.raises(PolicyError, match="mail of members is of high grade"):
            read(tables(home))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('table = "members"', 'table = "visits"', "No table 'visits'"),
        ('"level"\n', '"points"\n', "no column 'points'"),
        ('table = "members"\n', "", "table"),
        ('table = "members"', 'table = "members"\npath = "x"', "path"),
    ],
)
def test_what_is_not_kept_or_not_declared_is_said(
    home: RegionHome, before: str, after: str, said: str
) -> None:
    declare(home, DECLARED.replace(before, after))
    with pytest.raises(InputError, match=said):
        tables(home).check()


def test_a_declaration_outside_of_a_home_is_said(home: RegionHome) -> None:
    home.identity.unlink()
    with pytest.raises(InputError, match="not a region's home"):
        tables(home).check()


def test_what_is_kept_anew_is_read_anew_and_a_turned_key_changes_nothing(home: RegionHome) -> None:
    source = tables(home).places("members")[0].source
    (unit,) = source.changes({}, 1).fresh
    ColumnStore(home).turn_key()
    assert not source.changes({unit.name: unit}, 2)
    keep(home, ROWS.slice(0, 1))
    changes = source.changes({unit.name: unit}, 3)
    assert changes.gone == {unit.name}
    assert [each.name for each in changes.fresh] == [unit.name]
    assert sum(each.num_rows for each in source.tables(changes.fresh[0])) == 1
