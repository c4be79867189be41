"""A region's quality report: tables examined, drift named, history kept, treatment undone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.data.standards import DEFAULT_FILE, standards_file
from client.data.tables.reading import read_tables
from client.engine.home import RegionHome
from client.engine.storage_key import make_storage_key
from client.governance import quality_files
from client.governance.quality_changes import Treatment
from client.governance.quality_files import QualityFiles
from client.governance.quality_run import make_report, redo, undo
from common.errors import InputError, StorageError, UsageError
from common.timestamps import now_ms
from tests.support.governed_home import make_governed_home, put_tables

EVENT = ("customer", "time", "kind", "item", "value")


def events(count: int = 60, **changed: object) -> list[tuple[object, ...]]:
    return [
        tuple(
            {
                "customer": f"c{n % 5}",
                "time": f"2024-03-{1 + n % 28:02d} 10:{n % 60:02d}:00",
                "kind": "view",
                "item": "milk",
                "value": "",
                **changed,
            }.values()
        )
        for n in range(count)
    ]


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_governed_home(
        tmp_path / "home", events=(EVENT, [*events(), *events(2, kind="dwell", value=5000)])
    )


def test_a_report_judges_every_table_and_is_kept(home: RegionHome) -> None:
    report = make_report(home)
    assert [each.table for each in report.tables] == ["purchases", "events"]
    assert report.passed
    assert report.meant == {"active": 10, "current": 10, "browsing": 0}
    kept = QualityFiles(home).history()
    assert kept == [report]
    assert make_report(home, names=["events"]).tables[0].treatments == {"clipped value": 2}
    assert len(QualityFiles(home).history()) == 2


def test_what_is_used_is_what_the_report_counts(home: RegionHome) -> None:
    report = make_report(home)
    tables = read_tables(home)
    for quality in report.tables:
        read = tables.read(quality.table)
        assert read.rows.num_rows == read.counts.accepted == quality.accepted
    assert max(tables.read("events").rows.column("value").drop_null().to_pylist()) == 1800.0


def test_undone_and_redone_as_the_table_is_read(home: RegionHome) -> None:
    make_report(home)
    assert _decide(home, "clipped", "value") == 2
    values = read_tables(home).read("events").rows.column("value").drop_null().to_pylist()
    assert values == [5000.0, 5000.0]
    assert make_report(home).tables[1].treatments == {}
    assert _decide(home, "clipped", "value", again=True) == 1
    values = read_tables(home).read("events").rows.column("value").drop_null().to_pylist()
    assert values == [1800.0, 1800.0]


def test_one_row_of_many_is_undone(home: RegionHome) -> None:
    make_report(home)
    changes = QualityFiles(home).changes("events")
    assert changes is not None
    row = f"{changes.column('row').to_pylist()[0]:016x}"
    assert _decide(home, "clipped", "value", rows=[row]) == 1
    values = read_tables(home).read("events").rows.column("value").drop_null().to_pylist()
    assert sorted(values) == [1800.0, 5000.0]


@pytest.mark.parametrize("grade", ["low", "medium", "high"])
def test_the_journal_has_no_value_that_people_read_under_a_grant_alone(
    home: RegionHome, grade: str
) -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    begin = text.index("[tables.events.columns.value]")
    own = text[:begin] + text[begin:].replace('grade = "low"', f'grade = "{grade}"', 1)
    standards_file(home).write_text(own, encoding="utf-8")
    make_report(home)
    changes = QualityFiles(home).changes("events")
    assert changes is not None
    values = {(each["before"], each["after"]) for each in changes.to_pylist()}
    assert values == ({("5000", "1800")} if grade == "low" else {(None, None)})
    # What is undone is the treatment: it takes no value.
    assert _decide(home, "clipped", "value") == 2
    read = read_tables(home).read("events").rows.column("value").drop_null().to_pylist()
    assert read == [5000.0, 5000.0]


def test_a_repeat_that_was_meant_is_read_again(home: RegionHome) -> None:
    put_tables(home, {"events": (EVENT, [*events(), events()[0]])})
    make_report(home)
    assert read_tables(home).read("events").rows.num_rows == 60
    assert _decide(home, "repeated", "") == 1
    read = read_tables(home).read("events")
    assert (read.rows.num_rows, read.counts.reasons) == (61, {})


def test_what_is_not_in_the_journal_is_not_undone(home: RegionHome) -> None:
    with pytest.raises(UsageError, match="no journal of what treatment changed in events"):
        _decide(home, "clipped", "value")
    make_report(home)
    for column, rows in (("item", []), ("value", ["0" * 16])):
        with pytest.raises(UsageError, match="There is no change"):
            _decide(home, "clipped", column, rows=rows)
    with pytest.raises(UsageError, match="There is no decision 'clipped value'"):
        _decide(home, "clipped", "value", again=True)


def _decide(
    home: RegionHome,
    treatment: Treatment,
    column: str,
    *,
    again: bool = False,
    rows: list[str] | None = None,
) -> int:
    if again:
        return redo(home, "events", treatment, column, rows or [])
    return undo(home, "events", treatment, column, rows or [], at_ms=now_ms())


def test_a_table_that_cannot_be_read_is_named_and_the_others_are_judged(home: RegionHome) -> None:
    (home.source.parent / "events.csv").write_text("customer,time,what\nc,2024-03-01,view\n")
    report = make_report(home)
    purchases, broken = report.tables
    assert purchases.passed
    assert not broken.passed
    assert "has no column 'kind'" in broken.problems[0]


def test_bytes_of_another_encoding_are_named_by_their_line(home: RegionHome) -> None:
    path = home.source.parent / "events.csv"
    path.write_bytes(path.read_bytes() + "Müller,2024-03-01,view,milk,\n".encode("latin-1"))
    problem = make_report(home, names=["events"]).tables[0].problems[0]
    assert "CSV Error on Line: 64" in problem
    assert "nvalid unicode" in problem
    assert "ller" not in problem


def test_days_that_stand_for_never_are_counted_wherever_the_region_is(home: RegionHome) -> None:
    never = [("c1", at, "view", "milk", "") for at in ("9999-12-31 23:59:59", "0001-01-01")]
    put_tables(home, {"events": (EVENT, [*events(400), *never])})
    declared = home.source.with_name("tables.toml")
    zone = '[events]\ntime_zone = "America/New_York"'
    declared.write_text(declared.read_text().replace("[events]", zone))
    (quality,) = make_report(home, names=["events"]).tables
    assert quality.reasons == {"time-out-of-range": 2}
    assert quality.passed


def test_an_empty_region_is_refused_table_by_table(tmp_path: Path) -> None:
    home = make_governed_home(tmp_path / "home", purchases=[], events=(EVENT, []))
    report = make_report(home)
    assert [each.passed for each in report.tables] == [False, False]
    for each in report.tables:
        assert each.problems == ["it has no rows"]


def test_a_column_that_holds_something_else_is_refused_till_it_is_accepted(
    home: RegionHome,
) -> None:
    make_report(home)
    _as_parquet(home)
    report = make_report(home)
    assert "the column customer held text and holds numbers" in report.tables[1].problems
    with pytest.raises(InputError, match="the table events is not what it was"):
        read_tables(home).read("events")
    # Seeing it once is not accepting it.
    assert not make_report(home).passed
    assert make_report(home, accept=True).passed
    assert make_report(home).passed
    assert read_tables(home).read("events").rows.num_rows == 60


def _as_parquet(home: RegionHome) -> None:
    """Writes the events with customers that are numbers."""
    rows = events()
    table = pa.table(
        {name: [str(row[place]) for row in rows] for place, name in enumerate(EVENT)}
        | {"customer": [int(str(row[0])[1:]) for row in rows]}
        | {"value": [None] * len(rows)}
    )
    folder = home.source.parent
    pq.write_table(table, folder / "events.parquet")
    text = (folder / "tables.toml").read_text(encoding="utf-8")
    (folder / "tables.toml").write_text(text.replace("events.csv", "events.parquet"))


def test_what_is_new_since_the_last_report_is_noted(home: RegionHome) -> None:
    make_report(home)
    put_tables(home, {"events": (EVENT[:4], [row[:4] for row in events(20, item="")])})
    notes = make_report(home).notes
    assert "events: the column value is gone" in notes
    assert "events: 20 rows, where there were 62" in notes
    assert "events: 0.0% of rows have a item, where 100.0% had one" in notes


def test_only_so_many_reports_are_kept(home: RegionHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_files, "MAX_REPORTS", 2)
    made = [make_report(home, names=["purchases"]) for _ in range(3)]
    assert QualityFiles(home).history() == made[1:]


def test_after_an_erasure_the_journal_is_made_anew(home: RegionHome) -> None:
    make_report(home)
    assert QualityFiles(home).changes("events") is not None
    make_storage_key(home.stored_key)
    assert QualityFiles(home).changes("events") is None
    make_report(home)
    assert QualityFiles(home).changes("events") is not None


def test_the_journal_is_encrypted(home: RegionHome) -> None:
    make_report(home)
    data = (home.root / "quality" / "events.changes").read_bytes()
    assert b"clipped" not in data
    assert b"5000" not in data


@pytest.mark.parametrize("data", [b"", b"[]", b'{"v":"x"}', b"{"])
def test_damaged_files_are_named(home: RegionHome, data: bytes) -> None:
    files, folder = QualityFiles(home), home.root / "quality"
    folder.mkdir()
    for name, read in (
        ("history.json", files.history),
        ("undone.json", files.undone),
        ("kinds.json", files.kinds),
    ):
        (folder / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            read()
    with pytest.raises(InputError, match="is malformed"):
        make_report(home)


def test_a_full_disk_is_named(home: RegionHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quality_files, "write_durably", full)
    with pytest.raises(StorageError, match="No space left"):
        make_report(home)


def test_an_undeclared_table_is_named(home: RegionHome) -> None:
    with pytest.raises(InputError, match="declares no table sales; it declares purchases, events"):
        make_report(home, names=["sales"])
