"""The PostgreSQL source against a real server, started here on a socket of its own."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from client.data.sources import TransactionSource, load_source_config, open_source
from common.errors import InputError

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
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA shop TO reader;
GRANT SELECT ("Card No", sku, at, n, paid) ON shop.sales TO reader;
GRANT SELECT ON shop.empty TO reader;
GRANT INSERT ON shop.sales TO reader;
"""


def binaries() -> Path:
    """Where the server's programs are; on Debian they are not on the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.fail(
            "This test needs a PostgreSQL server and found no initdb: install the package "
            "postgresql (apt-get install postgresql).",
            pytrace=False,
        )
    return installed[-1].parent


def unprivileged_user() -> str:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return getpass.getuser()
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A running server; gives the folder of its socket. Socket paths must be short."""
    programs, user = binaries(), unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    as_user = user if os.geteuid() == 0 else None
    if as_user is not None:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        done = subprocess.run(
            command, user=as_user, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout

    data = str(folder / "data")
    run(str(programs / "initdb"), "-D", data, "-U", "owner", "-A", "trust", "-N", "-E", "UTF8")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c timezone=Asia/Tokyo"
    control = str(programs / "pg_ctl")
    run(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        with psycopg.connect(f"host={folder} user=owner dbname=postgres") as connection:
            connection.execute(SETUP)
        yield folder
    finally:
        run(control, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def source(
    folder: Path,
    server: Path,
    *,
    table: str = "sales",
    user: str = "reader",
    columns: str = COLUMNS,
) -> TransactionSource:
    declaration = folder / "source.toml"
    declaration.write_text(
        f'kind = "sql"\nurl = "postgresql://{user}@/postgres?host={server}"\n'
        f'table = "{table}"\ndb_schema = "shop"\n{columns}',
        "utf-8",
    )
    return open_source(load_source_config(declaration))


@pytest.mark.parametrize("ignore_timezone", [None, "1"])
def test_rows_arrive_as_they_are_meant(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_timezone: str | None
) -> None:
    # Importing pandera sets this, and with it pyarrow forgets the zone of a Python datetime.
    monkeypatch.delenv("PYARROW_IGNORE_TIMEZONE", raising=False)
    if ignore_timezone is not None:
        monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", ignore_timezone)
    read = source(tmp_path, server)
    assert read.columns() == ["Card No", "sku", "at", "n", "paid", "diagnosis"]
    frame = read.read().frame
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


def test_a_column_without_privilege_is_never_touched(server: Path, tmp_path: Path) -> None:
    with psycopg.connect(f"host={server} user=reader dbname=postgres") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM shop.sales")
        connection.rollback()
    assert len(source(tmp_path, server).read()) == 3
    reaching = source(tmp_path, server, columns=COLUMNS + 'store = "diagnosis"\n')
    with pytest.raises(InputError, match=r"sales of postgresql://.* cannot be read: permission"):
        reaching.read()


def test_the_transaction_is_read_only(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []
    inspect = psycopg.Connection.cursor

    def cursor(self: psycopg.Connection, *args: object, **kwargs: object) -> object:
        modes.append(str(self.read_only))
        return inspect(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(psycopg.Connection, "cursor", cursor)
    source(tmp_path, server).read()
    assert modes[-1] == "True"


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
    server: Path, tmp_path: Path, table: str, user: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        source(tmp_path, server, table=table, user=user).read()


def test_an_unknown_column_lists_what_there_is(server: Path, tmp_path: Path) -> None:
    wrong = source(tmp_path, server, columns=COLUMNS.replace('"Card No"', '"card no"'))
    with pytest.raises(InputError, match="no column 'card no'; it has Card No, sku, at, n"):
        wrong.read()


def test_a_server_that_is_down_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: connection .*failed"):
        source(tmp_path, tmp_path).read()
