"""Targets: data standards, and what a home keeps of its tables' quality."""

from __future__ import annotations

from collections.abc import Iterator

from client.data.standards import load_standards
from client.engine.home import RegionHome
from client.governance.quality_changes import Decision, Undone
from client.governance.quality_files import HISTORY, QualityFiles, QualityReport
from client.governance.quality_score import ColumnQuality, TableQuality
from common import canonical_json
from tests.fuzz.record_targets import scratch
from tests.fuzz.target import Target, same

_AT = "2026-01-02T00:00:00.000Z"
_STANDARDS = b"""\
version = "fedpref-standards/1"
threshold = 0.9
missing = ["NULL"]
[codes.kind]
meaning = "K."
values = ["view", "cart"]
[tables.events]
meaning = "E."
key = ["customer", "time"]
most_per_customer = 10
rules = [{ name = "r", when = { kind = ["view"] }, column = "value", range = [0, inf] }]
[tables.events.columns]
customer = { type = "reference", meaning = "C.", grade = "medium", pattern = "[a-z]+" }
time = { type = "time", meaning = "T.", grade = "low", range = [1990-01-01T00:00:00Z, "now"] }
kind = { type = "code", meaning = "K.", grade = "low", codes = "kind" }
value = { type = "number", meaning = "V.", grade = "high", outliers = { above = 9 } }
item = { type = "flag", meaning = "I.", grade = "low", complete = { value = true } }
[definitions.active]
meaning = "A."
table = "events"
where = { kind = ["view"] }
at_least = 3
within_days = 30
"""


def _standards(data: bytes) -> None:
    path = scratch() / "standards.toml"
    path.write_bytes(data)
    found = load_standards(path)
    for table in found.tables.values():
        # What noise hides is one customer's own row: no file may say otherwise.
        assert "customer" not in table.columns or "customer" in table.key


def _standards_seeds() -> Iterator[bytes]:
    yield _STANDARDS


def _undone(data: bytes) -> None:
    same(Undone.decode(data).encode(), data)


def _undone_seeds() -> Iterator[bytes]:
    decisions = (
        Decision(table="events", treatment="clipped", column="value", at=_AT),
        Decision(table="events", treatment="repeated", row="0123456789abcdef", at=_AT),
    )
    yield Undone(decisions).encode()


def _history(data: bytes) -> None:
    files = QualityFiles(RegionHome(scratch(), "region-1", "small.example"))
    folder = scratch() / "quality"
    folder.mkdir(exist_ok=True)
    (folder / HISTORY).write_bytes(data)
    for report in files.history():
        assert report.passed or any(each.problems for each in report.tables)


def _history_seeds() -> Iterator[bytes]:
    table = TableQuality.unread("members", 0.98, "It is gone.")
    column = ColumnQuality("text", 5, 1)
    good = TableQuality(
        "events", "the table", 9, 1, 1, 1, 1, 6, 1, {"row-repeated": 1}, {"clipped value": 1},
        {"value": column}, 3, _AT, 0.98, 0.05,
    )  # fmt: skip
    report = QualityReport("region-1", _AT, "0" * 64, (good, table), {"active": 2}, ("a note",))
    yield canonical_json.encode({"v": "fedpref-quality/1", "reports": [report.to_record()]})


TARGETS = (
    Target("data-standards", _standards, _standards_seeds, runs=150),
    Target("quality-undone", _undone, _undone_seeds, runs=500),
    Target("quality-history", _history, _history_seeds, runs=300),
)
