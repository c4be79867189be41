"""A small shop whose customers may have profiles: its tables in files, and who consented."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from client.data.consent_filter import EligibleCustomers
from client.data.source_config import load_source_config
from client.data.tables.declaration import load_tables
from client.data.tables.reading import RegionTables
from client.engine.storage_key import StorageKey
from client.profiles.library import TagLibrary, load_library
from client.profiles.making import Making
from client.profiles.purchases import LocalTime
from client.profiles.settings import ProfileSettings
from client.profiles.store import ProfileStore
from client.recommend.local_statistics import Clock
from client.recommend.settings import SceneSettings
from common.catalogue import Catalogue
from common.consent import GIVEN, PROFILING, ConsentForm, ConsentRecord, ConsentReplay, new_ulid
from common.timestamps import format_time

DAY_MS = 86_400_000
NOW_MS = round(datetime(2024, 6, 1, 12, tzinfo=UTC).timestamp() * 1000)
CATEGORIES = ("BREAD", "CHEESE", "FRUIT", "TEA", "WINE")
ITEMS = [f"item-{number}" for number in range(20)]
CATALOGUE = Catalogue.of(ITEMS, category=[CATEGORIES[n % len(CATEGORIES)] for n in range(20)])
LOCAL = LocalTime(Clock(SceneSettings().dayparts, "Europe/Berlin"))
PURCHASE_COLUMNS = ("customer", "item", "time", "paid", "receipt")
EVENT_COLUMNS = ("customer", "time", "kind", "item", "category")
_SOURCE = """
kind = "files"
path = "purchases/*.parquet"
time_zone = "Europe/Berlin"
[columns]
customer = "customer"
item = "item"
time = "time"
amount = "paid"
basket = "receipt"
"""
_TABLES = """
[events]
kind = "files"
path = "events/*.parquet"
[events.columns]
customer = "customer"
time = "time"
kind = "kind"
item = "item"
category = "category"
"""


def sid_of(customer: str) -> str:
    """A customer's pseudonym."""
    return hashlib.sha256(customer.encode()).hexdigest()


def consenting(
    customers: Iterable[str], *, purpose: str = PROFILING, granted: str = PROFILING
) -> EligibleCustomers:
    """Those who consent, by a replay of records that nobody signed."""
    form = ConsentForm(
        type="explicit",
        legal_basis="eu-gdpr:A6-1-a",
        controller="shop.example",
        jurisdiction="DE",
        lang="en",
        method="web-form",
        withdrawal="mailto:privacy@shop.example",
        notice_id="pn-1",
        notice_sha256="0" * 64,
        data=("pd:PurchasesAndSpendingHabit",),
    )
    pseudonyms, replay = {each: sid_of(each) for each in customers}, ConsentReplay()
    for index, sid in enumerate(pseudonyms.values()):
        record = ConsentRecord(
            record_id=new_ulid(),
            sid=sid,
            seq=1,
            prev=None,
            state=GIVEN,
            purposes={granted: True},
            evidence=None,
            event_time="2024-01-01T00:00:00.000Z",
            expires=None,
            form=form,
        )
        replay.apply(index, record, sid)
    return EligibleCustomers.from_replay(replay, purpose, NOW_MS, len(pseudonyms), pseudonyms)


@dataclass
class Shop:
    """A shop's tables in a folder.

    Attributes:
        folder: Where they lie.
        key: What profiles are encrypted under.
        library: The tag library.
        clock_ms: The time.
    """

    folder: Path
    key: StorageKey = field(default_factory=lambda: StorageKey(bytes(32)))
    library: TagLibrary = field(default_factory=load_library)
    now_ms: int = NOW_MS
    _files: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for name in ("purchases", "events"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "source.toml").write_text(_SOURCE)
        (self.folder / "tables.toml").write_text(_TABLES)
        self.write("events", [])
        self.write("purchases", [])

    def write(self, table: str, rows: Sequence[Sequence[object]]) -> Path:
        """Writes one more file of a table."""
        path = self.folder / table / f"{next(self._files):04}.parquet"
        names = PURCHASE_COLUMNS if table == "purchases" else EVENT_COLUMNS
        if rows and len(rows[0]) > len(names):
            names = (*names, "pieces")
        texts = [[None if each in ("", None) else str(each) for each in row] for row in rows]
        columns = [pa.array([row[n] for row in texts], pa.string()) for n in range(len(names))]
        pq.write_table(pa.table(columns, names=list(names)), path)
        return path

    def tables(self) -> RegionTables:
        """The tables as they are read."""
        return RegionTables(
            load_tables(self.folder / "tables.toml"),
            store=load_source_config(self.folder / "source.toml"),
            clock_ms=lambda: self.now_ms,
        )

    def making(self, **changes: Any) -> Making:
        """What profiles are made of and with."""
        parts: dict[str, Any] = {
            "region": "region-1",
            "store": ProfileStore(self.folder / "kept", self.key, lock_wait_s=0.5),
            "tables": self.tables(),
            "catalogue": CATALOGUE,
            "local": LOCAL,
            "library": self.library,
            "settings": ProfileSettings(groups=2),
        }
        return Making(**{**parts, **changes})


def bought(
    customer: str,
    days_ago: float,
    *,
    item: int = 0,
    paid: float = 2.5,
    receipt: str = "r",
    now_ms: int = NOW_MS,
) -> tuple[object, ...]:
    """A row of purchases."""
    at = format_time(round(now_ms - days_ago * DAY_MS))
    return (customer, ITEMS[item], at, paid, f"{receipt}-{days_ago}")


def event(
    customer: str,
    hours_ago: float,
    kind: str,
    *,
    item: str = "",
    category: str = "",
    now_ms: int = NOW_MS,
) -> tuple[object, ...]:
    """A row of events."""
    at = format_time(round(now_ms - hours_ago * 3_600_000))
    return (customer, at, kind, item, category)
