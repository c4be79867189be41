"""What files are new, changed or gone; and that no file is ever in memory as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import client
from client.data import file_source
from client.data.file_source import FileSource
from client.data.source_config import ColumnMapping, FileSourceConfig
from client.data.sources import all_batches
from client.data.store_units import Changes, StoreUnit
from common.errors import InputError

ROOT = Path(str(client.__file__)).parents[1]
HEADER = "card,sku,at\n"


def config(folder: Path, path: str, **settings: Any) -> FileSourceConfig:
    columns = ColumnMapping(customer="card", item="sku", time="at")
    return FileSourceConfig(kind="files", path=path, base=folder, columns=columns, **settings)


def write(path: Path, *customers: str, at: str = "2024-03-01") -> None:
    path.write_text(HEADER + "".join(f"{name},i0,{at}\n" for name in customers), "utf-8")
    age(path)


def age(path: Path, seconds: int = 3600) -> None:
    """As if it had been left alone for a while."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as left alone at once: nobody can set the time of a file's change of state."""
    monkeypatch.setattr(file_source, "_GRAIN_NS", 0)


def names(changes: Changes) -> tuple[set[str], list[str]]:
    gone = {Path(name).name for name in changes.gone}
    return gone, [Path(unit.name).name for unit in changes.fresh]


def taken(changes: Changes, before: dict[str, StoreUnit] | None = None) -> dict[str, StoreUnit]:
    kept = {name: unit for name, unit in (before or {}).items() if name not in changes.gone}
    return kept | {unit.name: unit for unit in changes.fresh}


@pytest.mark.usefixtures("settled")
def test_new_changed_and_vanished_files_are_told(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.csv", name)
    source = FileSource(config(tmp_path, "*.csv"))
    first = source.changes({}, 5)
    assert names(first) == (set(), ["a.csv", "b.csv", "c.csv"])
    assert [unit.taken_ms for unit in first.fresh] == [5, 5, 5]
    known = taken(first)
    assert not source.changes(known, 6)
    (tmp_path / "b.csv").unlink()
    write(tmp_path / "c.csv", "c", "d")
    write(tmp_path / "d.csv", "d")
    second = source.changes(known, 7)
    assert names(second) == ({"b.csv", "c.csv"}, ["c.csv", "d.csv"])
    assert not source.changes(taken(second, known), 8)


@pytest.mark.usefixtures("settled")
def test_a_file_of_the_same_size_and_time_is_read_again_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "anna")
    source = FileSource(config(tmp_path, "a.csv"))
    known = taken(source.changes({}, 0))
    before = (tmp_path / "a.csv").stat()
    time.sleep(0.02)  # times of change have the grain of the kernel's clock
    write(tmp_path / "a.csv", "hans")
    os.utime(tmp_path / "a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (tmp_path / "a.csv").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert names(source.changes(known, 0)) == ({"a.csv"}, ["a.csv"])


def test_a_file_that_changed_just_now_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.csv", "anna")
    source = FileSource(config(tmp_path, "a.csv"))
    known = taken(source.changes({}, 0))
    assert not source.changes(known, 0)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_000_000_000)
    again = source.changes(known, 0)
    assert names(again) == ({"a.csv"}, ["a.csv"])
    assert not source.changes(taken(again, known), 0)


def test_what_is_still_being_written_is_not_looked_at(tmp_path: Path) -> None:
    days = tmp_path / "days"
    days.mkdir()
    for name in ("a.csv", ".b.csv.part", ".c.csv", "_d.csv", "e.csv.part"):
        write(days / name, name)
    assert names(FileSource(config(tmp_path, "days")).changes({}, 0))[1] == ["a.csv"]


def test_folders_within_folders(tmp_path: Path) -> None:
    for month in ("2024/01", "2024/02", "2023/12"):
        (tmp_path / month).mkdir(parents=True)
        write(tmp_path / month / "sales.csv", month)
    source = FileSource(config(tmp_path, "**/*.csv"))
    assert len(source.changes({}, 0).fresh) == 3
    assert len(FileSource(config(tmp_path, "2024/*/*.csv")).changes({}, 0).fresh) == 2


def test_a_store_that_is_gone_is_no_store_without_rows(tmp_path: Path) -> None:
    """A disk that is not mounted must not make a region forget what it has."""
    write(tmp_path / "a.csv", "anna")
    source = FileSource(config(tmp_path, "*.csv"))
    known = taken(source.changes({}, 0))
    (tmp_path / "a.csv").unlink()
    with pytest.raises(InputError, match="There are no data files at"):
        source.changes(known, 0)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_check_names_what_is_wrong(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    source = FileSource(config(tmp_path, f"*.{ending}"))
    with pytest.raises(InputError, match="There are no data files"):
        source.check()
    if ending == "csv":
        path.write_text("card,sku\n", "utf-8")
    else:
        pq.write_table(pa.table({"card": [1], "sku": ["7"]}), path)
    with pytest.raises(InputError, match=rf"a\.{ending} has no column 'at'; it has card, sku"):
        source.check()
    if ending == "csv":
        path.write_text(HEADER, "utf-8")
    else:
        pq.write_table(pa.table({"card": [1], "sku": ["7"], "at": [True]}), path)
        with pytest.raises(InputError, match=r"the column 'at' \(time\) holds bool"):
            source.check()
        pq.write_table(pa.table({"card": [1], "sku": ["7"], "at": [1_700_000_000]}), path)
        with pytest.raises(InputError, match=r"holds int64|holds numbers"):
            source.check()
        source = FileSource(config(tmp_path, f"*.{ending}", time_format="epoch_s"))
    source.check()


@pytest.mark.parametrize(
    ("column", "before", "now", "message"),
    [
        (
            "card",
            pa.array(["00123"]),
            pa.array([123]),
            r"\(customer_ref\) holds numbers, where",
        ),
        (
            "sku",
            pa.array([7]),
            pa.array(["7"]),
            r"\(item_ref\) holds text, where",
        ),
        (
            "at",
            pa.array([0], pa.timestamp("us", "UTC")),
            pa.array([0], pa.timestamp("us")),
            r"'at' \(time\) holds times without a time zone, where the store held times with",
        ),
        ("at", pa.array(["2024-03-01"]), pa.array([0], pa.timestamp("s")), r"held text before"),
    ],
)
def test_a_column_that_holds_something_else_in_one_file_is_refused(
    tmp_path: Path, column: str, before: pa.Array, now: pa.Array, message: str
) -> None:
    rows = {
        "card": pa.array(["1"]),
        "sku": pa.array(["7"]),
        "at": pa.array([0], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(rows | {column: before}), tmp_path / "a.parquet")
    pq.write_table(pa.table(rows | {column: now}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=message) as caught:
        list(all_batches(config(tmp_path, "*.parquet")))
    assert "b.parquet" in caught.value.message
    assert "prepare HOME --anew" in caught.value.remedy


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (pa.array([1], pa.int16()), pa.array([1.0])),
        (pa.array(["1"]), pa.array(["1"]).dictionary_encode()),
        (pa.array([None], pa.null()), pa.array(["1"])),
        (pa.array(["1"]), pa.array([None], pa.null())),
    ],
)
def test_another_spelling_of_the_same_is_none(
    tmp_path: Path, before: pa.Array, now: pa.Array
) -> None:
    for name, array in (("a", before), ("b", now)):
        rows = {"card": array, "sku": ["7"], "at": ["2024-03-01"]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    assert len(list(all_batches(config(tmp_path, "*.parquet")))) == 2


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_comes_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(file_source, "BATCH_ROWS", 1000)
    n_rows = 5500
    rows = {
        "card": [f"c{number % 77}" for number in range(n_rows)],
        "sku": ["i0"] * n_rows,
        "at": ["2024-03-01"] * n_rows,
    }
    if ending == "csv":
        write(tmp_path / "a.csv", *rows["card"])
    else:
        pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    batches = list(all_batches(config(tmp_path, f"a.{ending}")))
    assert sum(map(len, batches)) == n_rows
    assert max(map(len, batches)) <= 2048
    assert len(batches) >= 3
    together = [ref for batch in batches for ref in batch.frame["customer_ref"].tolist()]
    assert sorted(together) == sorted(rows["card"])


_READ = """
import resource, sys
from pathlib import Path
from client.data.source_config import ColumnMapping, FileSourceConfig
from client.data.sources import all_batches
config = FileSourceConfig(
    kind="files", path=sys.argv[1], columns=ColumnMapping(customer="card", item="sku", time="at")
)
rows, peaks = 0, []
for batch in all_batches(config):
    rows += len(batch)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(rows, peaks[0], peaks[-1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_memory_does_not_grow_with_a_file(tmp_path: Path, ending: str) -> None:
    """One file of one row group, several times larger in memory than what is read at a time."""
    n_rows, path = 2_500_000, tmp_path / f"large.{ending}"
    width = 60
    table = pa.table(
        {
            "card": pa.array(f"{number:0{width}}" for number in range(n_rows)),
            "sku": pa.array(["i0"]).take(pa.array([0] * n_rows, pa.int8())),
            "at": pa.array(["2024-03-01"]).take(pa.array([0] * n_rows, pa.int8())),
        }
    )
    if ending == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=n_rows, use_dictionary=False)
    del table
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows, first_kb, last_kb = map(int, done.stdout.split())
    assert rows == n_rows
    # As Python strings the references alone are 270 MB.
    assert last_kb - first_kb < 120_000
