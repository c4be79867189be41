from __future__ import annotations

import gzip
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from client.data.sources import TransactionSource, load_source_config, open_source
from client.data.transactions import COLUMN_DTYPES, Transactions
from common.errors import InputError
from tests.support.stages import read_all

COLUMNS = '[columns]\ncustomer = "card"\nitem = "sku"\ntime = "at"\nquantity = "n"\n'
ROWS = {
    "card": ["00123", "00123", "x y"],
    "sku": ["7", "31", "7"],
    "at": ["2024-03-01T10:00:00Z", "2024-03-01T10:00:00Z", "2024-03-02T09:30:00Z"],
    "n": ["1", "2", "1"],
    "diagnosis": ["a", "b", "c"],
}


def declared(folder: Path, text: str) -> TransactionSource:
    (folder / "source.toml").write_text(text, "utf-8")
    return open_source(load_source_config(folder / "source.toml"))


def files(folder: Path, path: str, extra: str = "", columns: str = COLUMNS) -> TransactionSource:
    return declared(folder, f'kind = "files"\npath = "{path}"\n{extra}{columns}')


def csv_text(rows: dict[str, list[str]] = ROWS, separator: str = ",") -> str:
    lines = [separator.join(rows)]
    lines += [separator.join(values) for values in zip(*rows.values(), strict=True)]
    return "\n".join(lines) + "\n"


def check_rows(read: Transactions) -> None:
    """All sources of `ROWS` give the same transactions."""
    frame = read.frame
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMN_DTYPES
    assert frame["customer_ref"].tolist() == ["00123", "00123", "x y"]
    assert frame["item_ref"].tolist() == ["7", "31", "7"]
    assert frame["time"].tolist() == [pd.Timestamp(text) for text in ROWS["at"]]
    assert frame["quantity"].tolist() == [1, 2, 1]
    assert read.mapped == {"customer_ref", "item_ref", "time", "quantity"}
    for unmapped in ("amount", "basket_ref", "store_ref", "home_store_ref"):
        assert frame[unmapped].isna().all()


def typed_table() -> pa.Table:
    columns = {name: pa.array(values) for name, values in ROWS.items()}
    columns["sku"] = pa.array([7, 31, 7], pa.int32())
    columns["at"] = pa.array([pd.Timestamp(text) for text in ROWS["at"]], pa.timestamp("ns", "UTC"))
    columns["n"] = pa.array([1, 2, 1], pa.int16())
    return pa.table(columns)


def test_parquet_and_csv_give_the_same_transactions(tmp_path: Path) -> None:
    pq.write_table(typed_table(), tmp_path / "sales.parquet")
    (tmp_path / "sales.csv").write_text(csv_text(), "utf-8")
    (tmp_path / "sales.csv.gz").write_bytes(gzip.compress(csv_text().encode()))
    (tmp_path / "semicolon.csv").write_text(csv_text(separator=";"), "utf-8-sig")
    (tmp_path / "sales.txt").write_text(csv_text(), "utf-16")
    for source in (
        files(tmp_path, "sales.parquet"),
        files(tmp_path, "sales.csv"),
        files(tmp_path, "sales.csv.gz"),
        files(tmp_path, "semicolon.csv", 'delimiter = ";"\n'),
        files(tmp_path, "sales.txt", 'format = "csv"\nencoding = "utf-16"\n'),
    ):
        assert source.columns() == list(ROWS)
        check_rows(read_all(source))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_and_a_glob_read_all_their_files(tmp_path: Path, ending: str) -> None:
    days = tmp_path / "days"
    days.mkdir()
    for number, row in enumerate(zip(*ROWS.values(), strict=True)):
        day = dict(zip(ROWS, ([value] for value in row), strict=True))
        if ending == "csv":
            (days / f"{number}.csv").write_text(csv_text(day), "utf-8")
        else:
            pq.write_table(pa.table(day), days / f"{number}.parquet")
    (days / "README").write_text("not data", "utf-8")
    check_rows(read_all(files(tmp_path, "days")))
    check_rows(read_all(files(tmp_path, f"days/*.{ending}")))
    assert len(read_all(files(tmp_path, f"days/[01].{ending}"))) == 2


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "sales[1].csv").write_text(csv_text(), "utf-8")
    wrong = {name: ["9"] if name != "at" else ["2024-01-01"] for name in ROWS}
    (tmp_path / "sales1.csv").write_text(csv_text(wrong), "utf-8")
    check_rows(read_all(files(tmp_path, "sales[1].csv")))


def test_an_unmapped_parquet_column_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "sales.parquet"
    pq.write_table(typed_table(), path, compression="none", use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
    assert chunk.path_in_schema == "diagnosis"
    data = bytearray(path.read_bytes())
    size = chunk.total_compressed_size
    data[chunk.data_page_offset : chunk.data_page_offset + size] = b"\xff" * size
    path.write_bytes(data)
    # The poison works: who reads the column fails.
    with pytest.raises(InputError, match="cannot be read"):
        read_all(files(tmp_path, "sales.parquet", columns=COLUMNS + 'store = "diagnosis"\n'))
    check_rows(read_all(files(tmp_path, "sales.parquet")))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_unknown_column_lists_what_there_is(tmp_path: Path, ending: str) -> None:
    if ending == "csv":
        (tmp_path / "sales.csv").write_text(csv_text(), "utf-8")
    else:
        pq.write_table(pa.table(ROWS), tmp_path / "sales.parquet")
    source = files(tmp_path, f"sales.{ending}", columns=COLUMNS.replace('"card"', '"cart"'))
    with pytest.raises(
        InputError,
        match=r"no column 'cart'; it has card, sku, at, n, diagnosis\. Did you mean 'card'\?",
    ):
        read_all(source)


@pytest.mark.parametrize("path", ["none.csv", "none/*.csv", "empty"])
def test_missing_files_are_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There are no data files at") as caught:
        read_all(files(tmp_path, path))
    assert str(tmp_path / path) in caught.value.message


def test_files_of_two_formats_or_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(csv_text(), "utf-8")
    pq.write_table(pa.table(ROWS), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="not all of one known format"):
        read_all(files(tmp_path, "*"))
    (tmp_path / "sales.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match="not all of one known format"):
        read_all(files(tmp_path, "sales.xlsx"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("twice.csv", b"card,sku,at,n,n\n1,7,2024-01-01,1,1\n", "column 'n' more than once"),
        ("cut.parquet", b"PAR1 and no more", "cannot be read"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", csv_text({name: [] for name in ROWS}).encode(), "has no rows"),
        ("latin.csv", csv_text().encode() + b"\xff\xfe,7,2024-01-01,1,d\n", "Line: 5.*unicode"),
        (
            "wide.csv",
            csv_text().encode() + b"1,7,2024-01-01,1,cancer,x\n",
            r"Line: 5; Expected Number of Columns: 5 Found: 6; file = .*wide\.csv",
        ),
        ("open.csv", csv_text().encode() + b'"1,7,2024-01-01,1,cancer\n', "Line: 5.*unterminated"),
        ("not.csv.gz", b"plain", "not.csv.gz cannot be read"),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_all(files(tmp_path, name))
    assert name in caught.value.message
    # No row is repeated in a message or traceback, least of all what is not mapped.
    assert "cancer" not in "".join(traceback.format_exception(caught.value))


def test_each_file_is_read_by_its_own_header(tmp_path: Path) -> None:
    first, rest = (
        {name: values[a:b] for name, values in ROWS.items()} for a, b in ((0, 1), (1, 3))
    )
    (tmp_path / "a.csv").write_text(csv_text(first), "utf-8")
    (tmp_path / "b.csv").write_text(csv_text(dict(reversed(rest.items()))), "utf-8")
    check_rows(read_all(files(tmp_path, "*.csv")))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_that_lacks_a_column_is_named(tmp_path: Path, ending: str) -> None:
    without = {name: values for name, values in ROWS.items() if name != "sku"}
    for name, rows in (("a", ROWS), ("b", without)):
        path = tmp_path / f"{name}.{ending}"
        if ending == "csv":
            path.write_text(csv_text(rows), "utf-8")
        else:
            pq.write_table(pa.table(rows), path)
    with pytest.raises(
        InputError, match=rf"/b\.{ending} has no column 'sku'; it has card, at, n, diagnosis"
    ):
        read_all(files(tmp_path, f"*.{ending}"))


def test_names_that_need_quoting_are_quoted(tmp_path: Path) -> None:
    poison = 'n"; DROP TABLE sales; --'
    rows = {("a b" if name == "card" else poison if name == "n" else name): values
            for name, values in ROWS.items()}  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "sales.parquet")
    with sqlite3.connect(tmp_path / "shop.db") as database:
        pd.DataFrame(rows).to_sql('odd "table"', database, index=False)
    columns = COLUMNS.replace('"card"', '"a b"').replace('"n"', f"'{poison}'")
    check_rows(read_all(files(tmp_path, "sales.parquet", columns=columns)))
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    source = declared(tmp_path, f'kind = "sql"\nurl = "{url}"\ntable = \'odd "table"\'\n' + columns)
    check_rows(read_all(source))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as database:
        pd.DataFrame(ROWS).to_sql("sales", database, index=False)
    database.close()
    return path


@pytest.fixture
def statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    yield seen
    event.remove(sa.Engine, "before_cursor_execute", note)


def sql(folder: Path, url: str = "sqlite:///shop.db", table: str = "sales") -> TransactionSource:
    return declared(folder, f'kind = "sql"\nurl = "{url}"\ntable = "{table}"\n' + COLUMNS)


def test_sqlite_gives_the_same_transactions(tmp_path: Path, shop: Path) -> None:
    assert sql(tmp_path).columns() == list(ROWS)
    check_rows(read_all(sql(tmp_path)))
    check_rows(read_all(sql(tmp_path, f"sqlite:///{shop}")))


def test_an_unmapped_database_column_is_never_selected(
    tmp_path: Path, shop: Path, statements: list[str]
) -> None:
    check_rows(read_all(sql(tmp_path)))
    selects = [text for text in statements if "FROM" in text and "sqlite_master" not in text]
    assert selects == ['SELECT "card", "sku", "at", "n" \nFROM "sales"']


def test_sqlite_is_opened_for_reading_only(
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    real = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = real(*args, **kwargs)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM sales")
        opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    check_rows(read_all(sql(tmp_path)))
    assert opened


def test_a_missing_database_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.db does not exist"):
        read_all(sql(tmp_path, "sqlite:///nowhere.db"))
    assert not (tmp_path / "nowhere.db").exists()


def test_what_is_wrong_in_a_database_is_named(tmp_path: Path, shop: Path) -> None:
    with pytest.raises(InputError, match=r"table returns of sqlite://.* does not exist"):
        read_all(sql(tmp_path, table="returns"))
    (tmp_path / "junk.db").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="cannot be read: file is not a database"):
        read_all(sql(tmp_path, "sqlite:///junk.db"))
    with sqlite3.connect(shop) as database:
        database.execute("DELETE FROM sales")
    database.close()
    with pytest.raises(InputError, match=r"table sales of .* has no rows"):
        read_all(sql(tmp_path))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://reader:hush@db.example/shop", "names a mysql database"),
        ("reader:hush@db.example", "is not a database URL"),
        ("postgresql://reader:hush@127.0.0.1:1/shop", "cannot be read: .*127.0.0.1.*refused"),
    ],
)
def test_a_database_out_of_reach_is_named_without_its_password(
    tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_all(sql(tmp_path, url))
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_a_column_that_changes_its_type_is_read_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE sales (card, sku, at, n)")
        database.executemany(
            "INSERT INTO sales VALUES (?, ?, '2024-03-01', ?)",
            [(1, "a", 1), (2, 7, "2"), ("x", 8.0, None)],
        )
    database.close()
    for chunk_rows in (1, 3):
        monkeypatch.setattr("client.data.sql_source._CHUNK_ROWS", chunk_rows)
        frame = read_all(sql(tmp_path)).frame
        assert frame["customer_ref"].tolist() == ["1", "2", "x"]
        assert frame["item_ref"].tolist()[:2] == ["a", "7"]
        assert frame["quantity"].tolist()[:2] == [1, 2]
        assert frame["quantity"].isna().tolist() == [False, False, True]
