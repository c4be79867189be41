"""Targets: files of existing consents, as another system exported them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from client.consent_service.import_rows import RowReader
from client.consent_service.importing import RowFile
from client.consent_service.registrar import Choice
from common.consent_record import parse_consent
from common.errors import FedprefError
from tests.fuzz.record_targets import scratch
from tests.fuzz.target import Target, same
from tests.support.consent_records import consent_record

_COLUMNS: dict[str, list[object]] = {
    "customer": ["c-1", "007"],
    "event_time": ["2026-01-01T00:00:00Z", "2026-02-01 10:00:00+01:00"],
    "evidence": ["form 12", "form 13"],
    "state": ["given", "withdrawn"],
    "expires": ["2027-01-01T00:00:00Z", ""],
    "training": ["yes", ""],
    "minor": ["true", "no"],
    "guardian_state": ["given", ""],
}
_TYPED = {**_COLUMNS, "event_time": [datetime(2026, 1, 1, tzinfo=UTC)] * 2, "minor": [True, False]}


def _rows(path: Path) -> None:
    """Reads every row; one that is refused does not keep the next from being read."""
    file = RowFile(path, {})
    reader = RowReader(
        purposes=file.purposes,
        granted=("fedpref:FederatedTraining",),
        forms={"": parse_consent(consent_record()).form},
        lang="en",
        zone=UTC,
        now_ms=1_900_000_000_000,
    )
    count = 0
    for batch in file.batches():
        for number, row in batch:
            count += 1
            same(number, count)
            try:
                same(type(reader.read(row)), Choice)
            except FedprefError as refusal:
                same(bool(refusal.message), True)
    same(count, len(file))


def _csv(data: bytes) -> None:
    path = scratch() / "consents.csv"
    path.write_bytes(data)
    _rows(path)


def _parquet(data: bytes) -> None:
    path = scratch() / "consents.parquet"
    path.write_bytes(data)
    _rows(path)


def _csv_seeds() -> Iterator[bytes]:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(_COLUMNS), buffer)
    yield buffer.getvalue()
    yield b"customer,event_time,evidence\nc-1,2026-01-01,paper\n"
    yield b"customer,event_time,evidence,x\nc-1,2026-01-01,paper,customer\n"


def _parquet_seeds() -> Iterator[bytes]:
    for compression in ("none", "snappy"):
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pa.table(_TYPED), buffer, compression=compression)
        yield buffer.getvalue()


TARGETS = (
    Target("import-csv", _csv, _csv_seeds, runs=200),
    Target("import-parquet", _parquet, _parquet_seeds, runs=200),
)
