"""The PostgreSQL source against a real server, started here on a socket of its own."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from client.data import sql_connection
from client.data.sources import TransactionSource, load_source_config, open_source
from client.data.store_units import StoreUnit
from common.errors import InputError
from tests.support.postgresql import Machine, Server, running_server
from tests.support.stages import read_all

COLUMNS = """
[columns]
customer = "Card No"
item = "sku"
time = "at"
quantity = "n"
amount = "paid"
"""
SETUP = """
CREATE SCHEMA shop;
CREATE TABLE shop.sales (
  "Card No" numeric(20), sku text, at timestamptz, n smallint, paid numeric(8, 2), diagnosis text
);
INSERT INTO shop.sales VALUES
  (12345678901234567890, '7', '2024-03-01 10:00+01', 1, 1.99, 'a'),
  (12345678901234567890, '31', '2024-03-01 10:00+01', 2, 3.00, 'b'),
  (NULL, '7', '2024-07-01 10:00+02', 1, 0.00, 'c');
CREATE TABLE shop.empty (LIKE shop.sales);
CREATE TABLE shop.secret (LIKE shop.sales);
CREATE VIEW shop.slow AS
  SELECT "Card No", sku, at, n, paid, pg_sleep(30)::text AS diagnosis FROM shop.sales
  WHERE pg_sleep(30)::text = '';
CREATE VIEW shop.wrong AS
  SELECT "Card No", sku, at, (diagnosis || ' of Anna')::smallint AS n, paid FROM shop.sales;
CREATE TABLE shop.receipts (
  id bigint PRIMARY KEY, "Card No" text, sku text, at timestamptz, n int, paid float8,
  written timestamptz
);
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA shop TO reader;
GRANT SELECT ("Card No", sku, at, n, paid) ON shop.sales TO reader;
GRANT SELECT ON shop.empty, shop.receipts, shop.slow, shop.wrong TO reader;
GRANT INSERT ON shop.sales TO reader;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute(SETUP)
        yield server


def source(
    folder: Path,
    server: Server,
    *,
    table: str = "sales",
    user: str = "reader",
    columns: str = COLUMNS,
    extra: str = "",
) -> TransactionSource:
    declaration = folder / "source.toml"
    declaration.write_text(
        f'kind = "sql"\nurl = "{server.url(user)}"\n'
        f'table = "{table}"\ndb_schema = "shop"\n{extra}{columns}',
        "utf-8",
    )
    return open_source(load_source_config(declaration))


@pytest.mark.parametrize("ignore_timezone", [None, "1"])
def test_rows_arrive_as_they_are_meant(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_timezone: str | None
) -> None:
    # Importing pandera sets this, and with it pyarrow forgets the zone of a Python datetime.
    monkeypatch.delenv("PYARROW_IGNORE_TIMEZONE", raising=False)
    if ignore_timezone is not None:
        monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", ignore_timezone)
    read = source(tmp_path, server)
    assert read.columns() == ["Card No", "sku", "at", "n", "paid", "diagnosis"]
    frame = read_all(read).frame
    assert frame["customer_ref"].tolist()[:2] == ["12345678901234567890"] * 2
    assert frame["customer_ref"].isna().tolist() == [False, False, True]
    assert frame["item_ref"].tolist() == ["7", "31", "7"]
    assert frame["time"].tolist() == [
        pd.Timestamp("2024-03-01T09:00Z"),
        pd.Timestamp("2024-03-01T09:00Z"),
        pd.Timestamp("2024-07-01T08:00Z"),
    ]
    assert frame["quantity"].tolist() == [1, 2, 1]
    assert frame["amount"].tolist() == [1.99, 3.0, 0.0]


def test_a_column_without_privilege_is_never_touched(server: Server, tmp_path: Path) -> None:
    with psycopg.connect(server.dsn("reader")) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM shop.sales")
        connection.rollback()
    assert len(read_all(source(tmp_path, server))) == 3
    reaching = source(tmp_path, server, columns=COLUMNS + 'store = "diagnosis"\n')
    for ask in (reaching.check, lambda: read_all(reaching)):
        with pytest.raises(
            InputError, match=r"sales of postgresql://.* cannot be read: permission"
        ):
            ask()


def test_rows_stay_at_the_server_until_they_are_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor of the server's, in one read-only snapshot: a row that comes later is not in it."""
    monkeypatch.setattr("client.data.sql_source._CHUNK_ROWS", 1)
    connections: list[psycopg.Connection[Any]] = []

    def note(connection: Any, *_: Any) -> None:
        connections.append(connection.connection.dbapi_connection)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        store = source(tmp_path, server)
        (unit,) = store.changes({}, 0).fresh
        batches = store.batches(unit)
        sizes = [len(next(batches))]
        with psycopg.connect(server.dsn()) as other:
            open_cursors = other.execute(
                "SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'"
            ).fetchall()
            other.execute("INSERT INTO shop.sales SELECT * FROM shop.sales LIMIT 1")
        assert any("FETCH FORWARD 1" in query for (query,) in open_cursors)
        assert connections[-1].read_only is True
        assert connections[-1].isolation_level is psycopg.IsolationLevel.REPEATABLE_READ
        sizes += [len(batch) for batch in batches]
        assert sizes == [1, 1, 1]
        assert len(read_all(store)) == 4
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)
        with psycopg.connect(server.dsn()) as other:
            other.execute("DELETE FROM shop.sales WHERE ctid IN (SELECT max(ctid) FROM shop.sales)")


@pytest.mark.parametrize(
    ("table", "user", "message"),
    [
        ("salse", "reader", r"table shop\.salse of .* does not exist"),
        ("empty", "reader", r"table shop\.empty of .* has no rows"),
        ("secret", "reader", r"shop\.secret of .* cannot be read: permission denied"),
        ("sales", "stranger", r'cannot be read: .*role "stranger" does not exist'),
    ],
)
def test_what_is_wrong_is_named(
    server: Server, tmp_path: Path, table: str, user: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_all(source(tmp_path, server, table=table, user=user))


def test_a_check_reads_no_row(server: Server, tmp_path: Path) -> None:
    source(tmp_path, server).check()
    source(tmp_path, server, table="empty").check()
    # It would take half a minute to make the first row.
    source(tmp_path, server, table="slow").check()
    wrong = source(tmp_path, server, columns=COLUMNS.replace('"at"', '"paid"', 1).replace(
        'amount = "paid"', 'amount = "n"').replace('quantity = "n"\n', ""))  # fmt: skip
    with pytest.raises(InputError, match=r"the column 'paid' \(time\) holds numbers"):
        wrong.check()
    with pytest.raises(InputError, match=r"table shop\.salse of .* does not exist"):
        source(tmp_path, server, table="salse").check()


def test_an_unknown_column_lists_what_there_is(server: Server, tmp_path: Path) -> None:
    wrong = source(tmp_path, server, columns=COLUMNS.replace('"Card No"', '"card no"'))
    with pytest.raises(InputError, match="no column 'card no'; it has Card No, sku, at, n"):
        read_all(wrong)
    with pytest.raises(InputError, match="no column 'id'; it has Card No, sku, at, n"):
        read_all(source(tmp_path, server, extra='refresh_by = "id"\n'))


def test_a_value_that_does_not_fit_is_not_quoted(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not fit its column's type \(SQLSTATE 22P02\)") as e:
        read_all(source(tmp_path, server, table="wrong"))
    assert "Anna" not in "".join(traceback.format_exception(e.value))


def test_a_server_that_is_down_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: connection .*failed"):
        read_all(source(tmp_path, Server(tmp_path)))


def test_a_slow_database_is_named(server: Server, tmp_path: Path) -> None:
    slow = source(tmp_path, server, table="slow", extra="timeout_s = 1\n")
    with pytest.raises(
        InputError, match=r"shop\.slow of .*: the database gave no answer within 1 s"
    ):
        read_all(slow)
    with psycopg.connect(server.dsn()) as connection:
        # Nor does the server go on with it for nobody.
        left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader' AND state = 'active'"
        assert connection.execute(left).fetchone() == (0,)


def test_a_database_that_stands_still_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped backend keeps no bound of its own, and its socket goes on taking bytes."""
    monkeypatch.setattr("client.data.sql_source._CHUNK_ROWS", 1)
    monkeypatch.setattr(sql_connection, "_CUT_AFTER_S", 0.2)
    store = source(tmp_path, server, extra="timeout_s = 1\n")
    (unit,) = store.changes({}, 0).fresh
    batches = store.batches(unit)
    next(batches)
    with psycopg.connect(server.dsn()) as other:
        ((backend,),) = other.execute(
            "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'"
        ).fetchall()
    os.kill(backend, signal.SIGSTOP)
    try:
        with pytest.raises(InputError, match="gave no answer within 1 s"):
            list(batches)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert len(read_all(store)) == 3


def test_a_database_that_goes_down_while_it_is_read_is_named_and_read_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.data.sql_source._CHUNK_ROWS", 1)
    machine = Machine()
    try:
        server = machine.start()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute(SETUP)
        store = source(tmp_path, server)
        (unit,) = store.changes({}, 0).fresh
        batches = store.batches(unit)
        next(batches)
        machine.stop()
        with pytest.raises(InputError, match=r"shop\.sales of .* cannot be read: "):
            list(batches)
        with pytest.raises(InputError, match=r"cannot be read: connection .*failed"):
            store.changes({}, 0)
        machine.start()
        assert len(read_all(store)) == 3
    finally:
        with suppress(RuntimeError):
            machine.stop()
        machine.remove()


@pytest.fixture
def receipts(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """The table of receipts, emptied; statements are committed at once."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("TRUNCATE shop.receipts")
        yield connection


def sell(connection: psycopg.Connection[Any], *ids: int, at: str = "2024-03-01T10:00Z") -> None:
    for number in ids:
        connection.execute(
            "INSERT INTO shop.receipts VALUES (%s, %s, 'i0', %s, 1, 1.0, %s)",
            (number, f"c{number}", at, at),
        )


class Follower:
    """Takes up units as the kept rows do, and remembers what was read."""

    def __init__(self, store: TransactionSource) -> None:
        self._store = store
        self.taken: dict[str, StoreUnit] = {}
        self.rows: dict[str, list[str]] = {}
        #: How many rows the last refresh read.
        self.read = 0

    def refresh(self, now_ms: int = 0) -> list[str]:
        changes = self._store.changes(self.taken, now_ms)
        self.read = 0
        for name in changes.gone:
            del self.taken[name], self.rows[name]
        for unit in changes.fresh:
            self.taken[unit.name] = unit
            self.rows[unit.name] = [
                customer
                for batch in self._store.batches(unit)
                for customer in batch.frame["customer_ref"].tolist()
            ]
            self.read += len(self.rows[unit.name])
        return sorted(customer for rows in self.rows.values() for customer in rows)


BY_ID = 'refresh_by = "id"\nrefresh_overlap = 10\nreread_after_hours = 1\n'
HOUR_MS = 3_600_000


def test_only_new_rows_are_read(
    server: Server, tmp_path: Path, receipts: psycopg.Connection[Any]
) -> None:
    sell(receipts, *range(1, 101))
    follower = Follower(source(tmp_path, server, table="receipts", extra=BY_ID))
    assert (len(follower.refresh()), follower.read) == (100, 100)
    assert (len(follower.refresh()), follower.read) == (100, 0)
    sell(receipts, 101, 102)
    # The two, and the ten below them in which others may still appear.
    assert (len(follower.refresh()), follower.read) == (102, 12)
    assert (len(follower.refresh()), follower.read) == (102, 0)


def test_a_row_that_is_committed_late_is_read(
    server: Server, tmp_path: Path, receipts: psycopg.Connection[Any]
) -> None:
    """Its number was drawn before that of a row which was read already."""
    sell(receipts, *range(1, 21))
    follower = Follower(source(tmp_path, server, table="receipts", extra=BY_ID))
    with psycopg.connect(server.dsn()) as slow:
        sell(slow, 21)
        sell(receipts, 22)
        assert "c21" not in follower.refresh()
        slow.commit()
    assert follower.refresh() == sorted(f"c{number}" for number in range(1, 23))
    assert follower.read == 10


def test_after_a_while_everything_is_read_anew(
    server: Server, tmp_path: Path, receipts: psycopg.Connection[Any]
) -> None:
    sell(receipts, *range(1, 31))
    follower = Follower(source(tmp_path, server, table="receipts", extra=BY_ID))
    follower.refresh(now_ms=0)
    receipts.execute("DELETE FROM shop.receipts WHERE id = 3")
    assert "c3" in follower.refresh(now_ms=HOUR_MS - 1)
    assert "c3" not in follower.refresh(now_ms=HOUR_MS)
    assert follower.read == 29
    receipts.execute("DELETE FROM shop.receipts WHERE id > 5")
    # The newest rows are gone: what was settled is not what the table has.
    assert follower.refresh(now_ms=HOUR_MS) == ["c1", "c2", "c4", "c5"]
    receipts.execute("TRUNCATE shop.receipts")
    assert follower.refresh(now_ms=HOUR_MS) == []


def test_a_table_without_such_a_column_is_read_whole_after_a_while(
    server: Server, tmp_path: Path, receipts: psycopg.Connection[Any]
) -> None:
    sell(receipts, 1, 2)
    follower = Follower(
        source(tmp_path, server, table="receipts", extra="reread_after_hours = 1\n")
    )
    assert follower.refresh(now_ms=0) == ["c1", "c2"]
    sell(receipts, 3)
    assert follower.refresh(now_ms=HOUR_MS - 1) == ["c1", "c2"]
    assert follower.refresh(now_ms=HOUR_MS) == ["c1", "c2", "c3"]


def test_rows_may_be_followed_by_the_time_they_were_written(
    server: Server, tmp_path: Path, receipts: psycopg.Connection[Any]
) -> None:
    by_time = 'refresh_by = "written"\nrefresh_overlap = 60\n'
    follower = Follower(source(tmp_path, server, table="receipts", extra=by_time))
    now_ms = 1_709_290_800_000  # 2024-03-01T11:00Z
    for number, minute in enumerate((0, 10, 20)):
        sell(receipts, number, at=f"2024-03-01T10:{minute:02}Z")
    assert (len(follower.refresh(now_ms)), follower.read) == (3, 3)
    sell(receipts, 3, at="2024-03-01T10:20:30Z")
    assert (len(follower.refresh(now_ms)), follower.read) == (4, 2)
    # A clock far ahead must not settle what is still to come.
    sell(receipts, 4, at="2099-01-01T00:00Z")
    assert len(follower.refresh(now_ms)) == 5
    sell(receipts, 5, at="2024-03-01T11:00Z")
    assert len(follower.refresh(now_ms)) == 6


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("sku", "'sku', which holds neither whole numbers nor times"),
        ("written", "'written', which has no value in some rows"),
    ],
)
def test_a_column_that_rows_cannot_be_followed_by_is_refused(
    server: Server,
    tmp_path: Path,
    receipts: psycopg.Connection[Any],
    column: str,
    message: str,
) -> None:
    sell(receipts, 1)
    receipts.execute("INSERT INTO shop.receipts (id, sku) VALUES (2, 'i0')")
    store = source(tmp_path, server, table="receipts", extra=f'refresh_by = "{column}"\n')
    with pytest.raises(InputError, match=message):
        store.changes({}, 0)


def test_waiting_for_an_answer_leaves_no_thread_behind(server: Server, tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        read_all(source(tmp_path, server))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
