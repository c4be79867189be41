"""Tables are followed: each row once, whatever is appended, rewritten or read again; latency."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.tables.following import Fresh, TableFollower
from client.data.tables.latency import TARGET_S, Latency
from common.errors import FormatError, InputError
from tests.support.further_tables import NOW_MS, TableFolder, declared, write_csv

EVENT = ("customer", "time", "kind", "value")


def row(number: int) -> tuple[object, ...]:
    return (f"c{number % 3}", "2024-03-01T10:00:00Z", "view", number)


def values(fresh: Fresh) -> list[float]:
    return sorted(fresh.rows.column("value").to_pylist())


def settle(path: Path, age_s: float = 60.0) -> None:
    """Makes a file look as if it had been left alone for a while."""
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def append(path: Path, *rows: tuple[object, ...]) -> None:
    with path.open("a") as file:
        file.writelines(",".join(map(str, each)) + "\n" for each in rows)


@pytest.fixture
def folder(tmp_path: Path) -> TableFolder:
    found = TableFolder(tmp_path)
    found.put("events", EVENT, [row(0), row(1)])
    return found


def test_appended_rows_come_once(folder: TableFolder) -> None:
    path, follower = folder.folder / "events.csv", TableFollower(folder.tables(), "events")
    assert values(follower.poll()) == [0, 1]
    assert follower.poll().rows.num_rows == 0
    append(path, row(2), row(1))
    fresh = follower.poll()
    assert values(fresh) == [2]
    # The two of before, and one that repeats another.
    assert dict(fresh.counts.reasons) == {"row-repeated": 3}
    assert fresh.withdrawn == 0
    assert values(follower.poll()) == []


def test_new_files_are_found_and_rows_that_vanish_are_told(folder: TableFolder) -> None:
    folder.declare("events", declared("events", EVENT) | {"path": "e*.csv"})
    follower = TableFollower(folder.tables(), "events")
    follower.poll()
    write_csv(folder.folder / "events-2.csv", EVENT, [row(1), row(5)])
    fresh = follower.poll()
    assert (values(fresh), fresh.withdrawn) == ([5], 0)
    (folder.folder / "events-2.csv").unlink()
    # Of its two rows one stands in the other file, too.
    fresh = follower.poll()
    assert (values(fresh), fresh.withdrawn) == ([], 1)
    write_csv(folder.folder / "events.csv", EVENT, [row(0), row(7)])
    fresh = follower.poll()
    assert (values(fresh), fresh.withdrawn) == ([7], 1)


def test_a_line_that_is_still_being_written_is_left_till_it_ends(folder: TableFolder) -> None:
    path, follower = folder.folder / "events.csv", TableFollower(folder.tables(), "events")
    follower.poll()
    with path.open("a") as file:
        file.write("c1,2024-03-01T10:00:00Z,view,12")
    fresh = follower.poll()
    assert (fresh.rows.num_rows, fresh.units, fresh.withdrawn) == (0, 0, 0)
    with path.open("a") as file:
        file.write("3\n")
    assert values(follower.poll()) == [123]


def test_a_last_line_without_an_end_counts_once_it_is_left_alone(folder: TableFolder) -> None:
    path, follower = folder.folder / "events.csv", TableFollower(folder.tables(), "events")
    follower.poll()
    with path.open("a") as file:
        file.write("c1,2024-03-01T10:00:00Z,view,12")
    settle(path)
    assert values(follower.poll()) == [12]


def test_what_was_kept_goes_on_where_it_was(folder: TableFolder) -> None:
    tables = folder.tables()
    first = TableFollower(tables, "events")
    first.poll()
    append(folder.folder / "events.csv", row(4))
    later = TableFollower(tables, "events", first.state())
    assert values(later.poll()) == [4]
    again = TableFollower(tables, "events", later.state())
    assert values(again.poll()) == []
    write_csv(folder.folder / "events.csv", EVENT, [row(4)])
    fresh = TableFollower(tables, "events", later.state()).poll()
    assert (values(fresh), fresh.withdrawn) == ([], 2)


def test_what_was_kept_of_another_table_or_broken_is_refused(folder: TableFolder) -> None:
    tables = folder.tables()
    state = TableFollower(tables, "events").state()
    with pytest.raises(FormatError):
        TableFollower(tables, "events", state.replace(b"events", b"others"))
    with pytest.raises(FormatError):
        TableFollower(tables, "events", state[:40])


def test_rows_of_a_database_are_followed_by_its_growing_column(tmp_path: Path) -> None:
    folder = TableFolder(tmp_path)
    columns = {name: name for name in EVENT}
    place = {"kind": "sql", "url": "sqlite:///e.db", "table": "e", "refresh_by": "id"}
    folder.declare("events", {**place, "refresh_overlap": 2, "columns": columns})
    with sqlite3.connect(tmp_path / "e.db") as database:
        database.execute("CREATE TABLE e (id INTEGER, customer, time, kind, value REAL)")
        for number in range(5):
            database.execute("INSERT INTO e VALUES (?, ?, ?, ?, ?)", (number, *row(number)))
    follower = TableFollower(folder.tables(), "events")
    assert values(follower.poll()) == [0, 1, 2, 3, 4]
    with sqlite3.connect(tmp_path / "e.db") as database:
        database.execute("INSERT INTO e VALUES (?, ?, ?, ?, ?)", (7, *row(7)))
        # One whose transaction ended late, among those that are read again.
        database.execute("INSERT INTO e VALUES (?, ?, ?, ?, ?)", (3, *row(33)))
    fresh = follower.poll()
    assert (values(fresh), fresh.withdrawn) == ([7, 33], 0)
    assert follower.poll().rows.num_rows == 0


def test_a_look_that_fails_changes_nothing(folder: TableFolder) -> None:
    path, follower = folder.folder / "events.csv", TableFollower(folder.tables(), "events")
    follower.poll()
    whole = path.read_bytes()
    path.write_bytes(whole + b'c1,2024-03-01T10:00:00Z,"view\n')
    with pytest.raises(InputError):
        follower.poll()
    path.write_bytes(whole + b"c1,2024-03-01T10:00:00Z,view,9\n")
    fresh = follower.poll()
    assert (values(fresh), fresh.withdrawn) == ([9], 0)


def test_only_what_has_a_time_is_followed(folder: TableFolder) -> None:
    folder.put("members", ("customer",), [])
    with pytest.raises(InputError, match="says nothing of when"):
        TableFollower(folder.tables(), "members")


def test_latency_is_from_the_event_to_the_look_and_not_of_what_was_there(
    folder: TableFolder,
) -> None:
    clock = [NOW_MS]
    follower = TableFollower(folder.tables(lambda: clock[0]), "events")
    assert follower.poll().latency == Latency()
    clock[0] += 90_000
    times = ["2024-06-01T00:00:00Z", "2024-05-31T23:00:00Z"]
    append(
        folder.folder / "events.csv", *[("c", each, "cart", 50 + n) for n, each in enumerate(times)]
    )
    latency = follower.poll().latency
    assert latency == Latency(2, 3690.0, 3690.0, 3690.0, late=1)


def test_latency_of_clocks_that_are_ahead_is_none_and_of_nobody_is_unknown() -> None:
    assert Latency.of(np.array([5_000]), 1_000).max_s == 0.0
    assert Latency.of(np.zeros(0, dtype=np.int64), 1_000) == Latency()
    late = Latency.of(np.array([0, 0, 1000 * TARGET_S]), 1000 * TARGET_S + 1)
    assert (late.rows, late.late) == (3, 2)
    assert late.to_record()["max_s"] == "600.001"
    assert Latency().to_record()["median_s"] is None


@settings(max_examples=6, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=6))
def test_whatever_is_written_each_distinct_row_comes_once(
    tmp_path_factory: pytest.TempPathFactory, looks: list[list[int]]
) -> None:
    folder = TableFolder(tmp_path_factory.mktemp("followed"))
    folder.put("events", EVENT, [])
    follower, path = TableFollower(folder.tables(), "events"), folder.folder / "events.csv"
    given_rows: list[float] = []
    for numbers in looks:
        append(path, *[row(number) for number in numbers])
        given_rows += values(follower.poll())
    assert sorted(given_rows) == sorted({float(n) for numbers in looks for n in numbers})


def test_digests_of_what_was_given_are_all_that_is_remembered(folder: TableFolder) -> None:
    follower = TableFollower(folder.tables(), "events")
    follower.poll()
    assert b"c0" not in follower.state()
