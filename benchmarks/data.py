"""What a region's data cost: a store of 20M rows read, kept, made a data set of, and followed.

The store lies in daily Parquet files as a till would write them; the customers, 500,000, have all
consented. Memory is that of the whole process, with consents and pseudonyms in it. A table of a
PostgreSQL server is read beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pyarrow.parquet as pq

from benchmarks.results import Bar, Figure
from client.data.source_config import SqlSourceConfig
from client.data.sources import all_batches
from tests.support.postgresql import Server, running_server

ROWS, CUSTOMERS, ITEMS, DAYS = 20_000_000, 500_000, 40_000, 100
SQL_ROWS = 1_000_000

MEMORY = Bar(
    "20M rows, 500,000 customers: memory of the first reading and the data set", "MB", 2000
)
AGAIN_MEMORY = Bar("… of a start with what is kept, and a day more", "MB", 2000)
READ = Bar("… read, checked and kept", "rows/s", 100_000, least=True)
DATASET = Bar("… a round's data set of them", "s", 60)
START = Bar("… a start with what is kept", "s", 60)
DAY = Bar("… a day's file taken up", "s", 120)
DISK = Bar("… kept on disk, encrypted", "B/row", 25)
REPORT = Bar("… examined for a quality report", "rows/s", 100_000, least=True)
REPORT_MEMORY = Bar("… memory of the report", "MB", 4000)
SQL_READ = Bar("a PostgreSQL table read in batches", "rows/s", 50_000, least=True)

BARS = (
    MEMORY,
    AGAIN_MEMORY,
    READ,
    DATASET,
    START,
    DAY,
    DISK,
    REPORT,
    REPORT_MEMORY,
    SQL_READ,
)

_COLUMNS = ["card", "article", "sold_at", "pieces", "paid", "receipt", "shop"]
_MAPPED = {
    "customer": "card",
    "item": "article",
    "time": "sold_at",
    "quantity": "pieces",
    "amount": "paid",
}
_TABLE = """
CREATE TABLE sales AS
SELECT (9000000000000 + (random() * 500000)::int * 17)::text AS card,
       'ART-' || lpad((random() * 39999)::int::text, 7, '0') AS article,
       '2025-01-01T00:00Z'::timestamptz + random() * interval '100 days' AS sold_at,
       1 + (random() * 4)::int AS pieces,
       random() * 20 AS paid
FROM generate_series(1, {rows});
"""


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes some ten minutes."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        measured = measure_files(Path(name) / "region", ROWS, CUSTOMERS, ITEMS, DAYS)
    return {bar.name: figure for bar, figure in (measured | measure_sql(SQL_ROWS)).items()}


def measure_files(
    home: Path, rows: int, customers: int, items: int, days: int
) -> dict[Bar, Figure]:
    """Makes a store of daily files, and measures it."""
    # Each by a process of its own, whose memory ends with it.
    _run("benchmarks.large_store", home, rows, customers, items, days)
    first = _measured("first", home, customers)
    again = _measured("again", home, customers)
    report = json.loads(_run("benchmarks.governed_data", home))
    alone_s = _timed(lambda: _read_alone(home))
    before = f"before anything was read: {first['before_mb']:,.0f} MB"
    return {
        MEMORY: Figure(first["peak_mb"], before),
        AGAIN_MEMORY: Figure(again["peak_mb"]),
        READ: Figure(
            first["rows"] / first["read_s"],
            f"{first['read_cpu_s']:.0f} s of processor time; pyarrow alone, which throws the same "
            f"columns away: {first['rows'] / alone_s:,.0f} rows/s",
        ),
        DATASET: Figure(first["dataset_s"], f"{first['customers']:,.0f} customers"),
        START: Figure(again["start_s"]),
        DAY: Figure(
            again["day_s"] + again["day_dataset_s"],
            f"{again['day_rows']:,.0f} rows; of it the data set: {again['day_dataset_s']:.1f} s",
        ),
        DISK: Figure(first["kept_bytes"] / first["rows"]),
        REPORT: Figure(
            report["rows"] / report["report_s"],
            f"{report['cpu_s']:.0f} s of processor time; {report['accepted']:,} rows are used",
        ),
        REPORT_MEMORY: Figure(report["peak_mb"]),
    }


def measure_sql(rows: int) -> dict[Bar, Figure]:
    """Makes a table, and reads it in batches."""
    with running_server() as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute(_TABLE.format(rows=rows))
        config = SqlSourceConfig.model_validate(
            {"kind": "sql", "url": server.url("owner"), "table": "sales", "columns": _MAPPED}
        )
        read: list[int] = []
        cpu_s = time.process_time()
        ours_s = _timed(lambda: read.extend(map(len, all_batches(config))))
        cpu_s = time.process_time() - cpu_s
        copied_s = _timed(lambda: _copy(server))
    if sum(read) != rows:
        raise RuntimeError(f"{sum(read)} of {rows} rows were read")
    beside = (
        f"{cpu_s:.1f} s of processor time here; COPY to a client that throws it away: "
        f"{rows / copied_s:,.0f} rows/s"
    )
    return {SQL_READ: Figure(rows / ours_s, beside)}


def _read_alone(home: Path) -> None:
    for path in sorted((home / "data" / "days").glob("*.parquet")):
        for _ in pq.ParquetFile(path).iter_batches(columns=_COLUMNS):
            pass


def _copy(server: Server) -> None:
    copying = "COPY sales TO STDOUT"
    with (
        psycopg.connect(server.dsn()) as connection,
        connection.cursor().copy(copying) as copy,
    ):
        for _ in copy:
            pass


def _measured(action: str, home: Path, customers: int) -> dict[str, float]:
    measured: dict[str, float] = json.loads(
        _run("benchmarks.prepared_data", action, home, customers)
    )
    return measured


def _run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
