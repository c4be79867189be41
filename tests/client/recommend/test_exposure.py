"""The exposure log: what was shown, to those who consent, for as long as it may be kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from client.recommend.exposure import FILE_NAME, Exposure, ExposureLog
from common.errors import StorageError

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def shown(customer: bytes, at_ms: int, *items: str, experiment: str = "trial") -> Exposure:
    return Exposure(experiment, customer, "control", at_ms, items)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ExposureLog]:
    made = ExposureLog(tmp_path / FILE_NAME)
    yield made
    made.close()


def test_exposures_come_back_by_customer_in_the_order_of_time(log: ExposureLog) -> None:
    rows = [shown(B, 9, "x", "ünïcode"), shown(A, 5), shown(A, 3, "y"), shown(A, 5, "z")]
    for each in rows:
        log.add(each)
    log.add(shown(A, 1, experiment="other"))
    assert list(log.all("trial")) == [rows[2], rows[1], rows[3], rows[0]]


def test_a_file_is_its_owners_alone_and_lasts(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    log = ExposureLog(path)
    log.add(shown(A, 5, "x"))
    log.close()
    assert path.stat().st_mode & 0o777 == 0o600
    again = ExposureLog(path)
    assert [each.items for each in again.all("trial")] == [("x",)]
    again.close()


def count(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(connection.execute("SELECT count(*) FROM exposures").fetchone()[0])
    finally:
        connection.close()


def test_exposures_are_written_in_batches_or_after_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / FILE_NAME, [0.0]
    log = ExposureLog(path, clock_s=lambda: clock[0])
    for number in range(255):
        log.add(shown(A, number))
    assert count(path) == 0
    log.add(shown(A, 255))
    assert count(path) == 256
    log.add(shown(A, 256))
    clock[0] = 1.0
    log.add(shown(A, 257))
    assert count(path) == 258
    log.add(shown(A, 258))
    log.flush()
    assert count(path) == 259
    log.close()


def test_whoever_withdrew_is_taken_out_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    log = ExposureLog(path)
    for each in (
        shown(A, 100, "kept"),
        shown(B, 100, "a-very-secret-item"),
        shown(A, 10, "too-old-item"),
        shown(C, 100, "of-another-experiment", experiment="other"),
    ):
        log.add(each)
    assert log.keep_only("trial", {A, C}, since_ms=50) == 3
    assert [each.items for each in log.all("trial")] == [("kept",)]
    assert list(log.all("other")) == []
    # Not only once the file is closed: a service is open for months.
    left = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    log.close()
    for item in (b"a-very-secret-item", b"too-old-item", b"of-another-experiment"):
        assert item not in left


def test_a_disk_that_refuses_is_told_of_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / FILE_NAME, [0.0]
    log = ExposureLog(path, clock_s=lambda: clock[0])
    other = apsw.Connection(str(path))
    log._connection.set_busy_timeout(0)
    other.execute("BEGIN IMMEDIATE")
    log.add(shown(A, 1))
    clock[0] = 1.0
    with pytest.raises(StorageError, match="cannot be used"):
        log.add(shown(A, 2))
    other.execute("ROLLBACK")
    other.close()
    log.flush()
    assert count(path) == 2
    log.close()


def test_a_damaged_file_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"nothing like a database" * 500)
    with pytest.raises(StorageError):
        ExposureLog(path)
