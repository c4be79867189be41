"""A region's store as the engine keeps it: looked at in time, closed when in doubt, recovering."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from client.data import file_source, quality
from client.data.file_source import FileSource
from client.data.sql_source import SqlSource
from client.data.standards import DEFAULT_FILE
from client.data.store_units import StoreUnit
from client.data.transactions import Transactions
from client.engine.home import RegionHome
from client.engine.kept_store import KeptStore
from client.engine.storage_key import StorageKeyFile
from client.engine.subjects import make_storage_key, open_subject_keys
from common.catalogue import Catalogue
from common.errors import InputError, QualityGateError, StorageError
from tests.support.postgresql import Machine
from tests.support.stages import purchases

SOURCE = """
kind = "files"
path = "days"
refresh_after_s = 60
[columns]
customer = "card"
item = "sku"
time = "at"
"""
MANIFEST = b"fedpref-prepared/1 manifest"
CATALOGUE = Catalogue.of([f"i{number}" for number in range(6)])


class Region:
    """A region's home with a store of days, and what is kept of it."""

    def __init__(self, root: Path) -> None:
        self.home = RegionHome(root, "region-1", "shops.example")
        (root / "data" / "days").mkdir(parents=True)
        self.home.keys.mkdir()
        make_storage_key(self.home.stored_key)
        CATALOGUE.save(self.home.catalogue)
        self.declare(SOURCE)
        self.now_s = 0.0
        self.store = self.opened()

    def opened(self) -> KeptStore:
        """As an engine that starts opens it."""
        return KeptStore(self.home, 0.9, clock_s=lambda: self.now_s)

    def declare(self, source: str) -> None:
        self.home.source.write_text(source, "utf-8")

    def day(self, name: str, *customers: str, item: str = "i0") -> Path:
        path = self.home.root / "data" / "days" / f"{name}.csv"
        rows = [f"{customer},{item},2024-03-0{name}\n" for customer in customers]
        path.write_text("card,sku,at\n" + "".join(rows), "utf-8")
        return path

    def customers(self, store: KeptStore | None = None) -> list[str]:
        checked = (store or self.store).checked()
        return [customer for customer, _, _ in purchases(checked, CATALOGUE)]


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Region:
    # Files count as left alone at once.
    monkeypatch.setattr(file_source, "_GRAIN_NS", 0)
    region = Region(tmp_path / "region-1")
    region.day("1", "anna", "ben")
    return region


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    seen: list[str] = []
    batches = FileSource.batches

    def note(self: FileSource, unit: StoreUnit) -> Iterator[Transactions]:
        seen.append(Path(unit.name).stem)
        return batches(self, unit)

    monkeypatch.setattr(FileSource, "batches", note)
    return seen


def test_what_is_new_is_taken_up_once_it_is_time(region: Region, read: list[str]) -> None:
    assert region.customers() == ["anna", "ben"]
    region.day("2", "eve")
    region.now_s = 59
    first = region.store.checked()
    assert region.customers() == ["anna", "ben"]
    region.now_s = 60
    assert region.customers() == ["anna", "ben", "eve"]
    assert region.store.checked() is not first
    assert read == ["1", "2"]


def test_nothing_new_is_the_same_data(region: Region) -> None:
    first = region.store.checked()
    region.now_s = 600
    assert region.store.checked() is first


def test_an_engine_that_starts_again_reads_nothing_anew(region: Region, read: list[str]) -> None:
    expected = region.customers()
    assert region.customers(region.opened()) == expected
    assert read == ["1"]


def test_other_standards_judge_all_rows_anew(region: Region, read: list[str]) -> None:
    region.declare(SOURCE + 'quantity = "n"\n')
    for day, count in (("1", 5), ("2", 50)):
        path = region.home.root / "data" / "days" / f"{day}.csv"
        rows = [
            f"c{number},i0,2024-03-0{day},{count if not number else 1}\n" for number in range(20)
        ]
        path.write_text("card,sku,at,n\n" + "".join(rows), "utf-8")
    assert region.store.checked().report.reasons == {}
    standards = DEFAULT_FILE.read_text("utf-8")
    narrow = standards.replace('unit = "1"\nrange = [0, 100_000]', 'unit = "1"\nrange = [0, 10]', 1)
    region.home.source.with_name("standards.toml").write_text(narrow, "utf-8")
    region.now_s = 60
    assert region.store.checked().report.reasons == {"quantity-out-of-range": 1}
    assert read == ["1", "2", "1", "2"]


def test_a_large_store_is_read_from_the_disk_part_by_part(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.day("2", *(f"c{number}" for number in range(200)), item="i3")
    expected = region.customers()
    monkeypatch.setattr(quality, "HELD_ROWS", 10)
    large = region.opened()
    assert region.customers(large) == expected
    # Whatever happens to the store meanwhile.
    checked = large.checked()
    region.day("1", "zoe")
    region.store.refresh()
    assert [customer for customer, _, _ in purchases(checked, CATALOGUE)] == expected


def test_a_store_that_is_down_closes_the_region_until_it_is_back(region: Region) -> None:
    days = region.home.root / "data" / "days"
    region.customers()
    days.rename(days.with_name("elsewhere"))
    for region.now_s in (60, 61):
        with pytest.raises(InputError, match="There are no data files at"):
            region.store.checked()
    days.with_name("elsewhere").rename(days)
    assert region.customers() == ["anna", "ben"]


def test_a_bad_day_closes_the_region_until_it_is_corrected(region: Region) -> None:
    region.customers()
    region.day("2", "eve", item="granite")
    region.now_s = 60
    for _ in range(2):
        with pytest.raises(QualityGateError, match="item-unknown 1"):
            region.store.checked()
    region.day("2", "eve")
    assert region.customers() == ["anna", "ben", "eve"]


def test_a_file_that_is_not_whole_closes_the_region_until_it_is(region: Region) -> None:
    region.customers()
    path = region.day("2", "eve")
    whole = path.read_bytes()
    path.write_bytes(whole + b'"cut')
    region.now_s = 60
    with pytest.raises(InputError, match=r"2\.csv cannot be read"):
        region.store.checked()
    path.write_bytes(whole)
    assert region.customers() == ["anna", "ben", "eve"]


def test_a_refresh_that_fails_is_tried_again_at_once(region: Region) -> None:
    region.customers()
    days = region.home.root / "data" / "days"
    days.rename(days.with_name("elsewhere"))
    with pytest.raises(InputError):
        region.store.refresh()
    # It is not time yet; but what failed must not be covered up by what was read before.
    with pytest.raises(InputError):
        region.store.checked()


def test_an_erasure_makes_what_is_kept_unreadable_and_the_store_is_read_anew(
    region: Region, read: list[str]
) -> None:
    old_key = StorageKeyFile(region.home.stored_key).find(lambda: None)
    region.customers()
    assert old_key.open((region.home.prepared / "manifest").read_bytes(), MANIFEST)
    kept = {path.name: path.read_bytes() for path in region.home.prepared.glob("*.rows")}
    with open_subject_keys(region.home.subjects, region.home.stored_key) as subjects:
        subjects.enrol(["anna", "ben"])
        subjects.erase(["ben"])
    new_key = StorageKeyFile(region.home.stored_key).find(lambda: None)
    assert old_key.fingerprint != new_key.fingerprint
    region.now_s = 60
    region.customers()
    assert read == ["1", "1"]
    assert not kept.keys() & {path.name for path in region.home.prepared.iterdir()}
    with pytest.raises(StorageError):
        old_key.open((region.home.prepared / "manifest").read_bytes(), MANIFEST)
    # The purchases go in the store itself, as the command asks for.
    region.day("1", "anna")
    region.now_s = 120
    assert region.customers() == ["anna"]


def test_a_damaged_file_is_made_again(
    region: Region, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    region.customers()
    (path,) = region.home.prepared.glob("*.rows")
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "fedpref.engine"):
        assert region.customers(region.opened()) == ["anna", "ben"]
    assert read == ["1", "1"]
    assert "The store is read anew" in caplog.text
    assert "anna" not in caplog.text


def test_another_declaration_reads_all_anew(region: Region, read: list[str]) -> None:
    region.customers()
    region.declare(SOURCE.replace("refresh", "period_from = 2024-03-02T00:00:00Z\nrefresh"))
    region.day("2", "eve")
    region.now_s = 60
    with pytest.raises(QualityGateError, match="time-outside-period 2"):
        region.store.checked()
    assert read == ["1", "1", "2"]


def test_how_often_the_store_is_looked_at_reads_nothing_anew(
    region: Region, read: list[str]
) -> None:
    region.customers()
    region.declare(SOURCE.replace("refresh_after_s = 60", "refresh_after_s = 600"))
    region.now_s = 60
    region.customers()
    region.day("2", "eve")
    region.now_s = 659
    assert region.customers() == ["anna", "ben"]
    region.now_s = 660
    assert region.customers() == ["anna", "ben", "eve"]
    assert read == ["1", "2"]


def test_another_catalogue_reads_all_anew(region: Region, read: list[str]) -> None:
    region.customers()
    larger = Catalogue.of([*CATALOGUE.items[1:], "i0"])
    larger.save(region.home.catalogue)
    checked = region.opened().checked()
    assert read == ["1", "1"]
    assert {item for _, item, _ in purchases(checked, larger)} == {"i0"}


def test_the_log_tells_how_much_was_read_and_of_nobody(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedpref.engine"):
        region.customers()
    assert "2 rows of 1 new or changed units read, 0 units given up" in caplog.text
    assert "anna" not in caplog.text


def test_a_home_that_cannot_be_written_to_says_so(region: Region) -> None:
    region.home.prepared.write_text("a file in its place", "utf-8")
    with pytest.raises(StorageError, match=r"cannot be kept in .*prepared"):
        region.store.checked()


DATABASE = """
kind = "sql"
url = "{url}"
table = "sales"
refresh_by = "id"
refresh_overlap = 0
refresh_after_s = 0
[columns]
customer = "card"
item = "sku"
time = "at"
"""


def test_a_database_is_followed_closes_the_region_while_it_is_down_and_is_followed_on(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    batches = SqlSource.batches

    def note(self: SqlSource, unit: StoreUnit) -> Iterator[Transactions]:
        read.append(unit.name)
        return batches(self, unit)

    monkeypatch.setattr(SqlSource, "batches", note)
    machine = Machine()
    try:
        server = machine.start()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute(
                "CREATE TABLE sales (id int PRIMARY KEY, card text, sku text, at date)"
            )
            connection.execute("INSERT INTO sales VALUES (1, 'anna', 'i0', '2024-03-01')")
        region.declare(DATABASE.format(url=server.url("owner")))
        assert region.customers() == ["anna"]
        read.clear()
        machine.stop()
        for store in (region.store, region.opened()):
            with pytest.raises(InputError, match="cannot be read: connection"):
                store.checked()
        machine.start()
        assert region.customers() == region.customers(region.opened()) == ["anna"]
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("INSERT INTO sales VALUES (2, 'ben', 'i1', '2024-03-02')")
        assert region.customers() == ["anna", "ben"]
        assert read == ["rows above 1 up to 2", "newest rows above 2 up to 2"]
    finally:
        with suppress(RuntimeError):
            machine.stop()
        machine.remove()
