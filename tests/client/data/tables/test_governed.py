"""Tables are read under the region's standards: whole, and as they are followed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from client.data.standards import Standards, load_standards
from client.data.tables.declaration import tables_from
from client.data.tables.following import TableFollower
from client.data.tables.reading import RegionTables
from client.governance.quality_changes import Decision, Treatment, Undone
from client.governance.quality_home import Governance
from client.governance.quality_rows import Surroundings
from common.errors import InputError
from tests.support.further_tables import NOW_MS, declared, write_csv

EVENT = ("customer", "time", "kind", "item", "value")
STANDARDS = load_standards()
ROWS: list[tuple[object, ...]] = [
    ("a", "2024-03-01 10:00", "view", "milk", ""),
    ("a", "2024-03-01 10:00", "view", "milk", ""),
    ("a", "2024-03-01 10:05", "dwell", "milk", 7200),
    ("a", "2024-03-01 10:06", "dwell", "milk", ""),
    ("b", "2024-03-01 11:00", "view", "glue", ""),
    ("b", "2024-03-01 11:05", "view", "bread", "N/A"),
]


class Folder:
    """A folder of tables that are read under standards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.declared: dict[str, object] = {}
        self.standards: Standards = STANDARDS
        self.undone = Undone()
        self.kinds: dict[str, dict[str, str]] = {}

    def put(self, name: str, columns: tuple[str, ...], rows: object, **more: object) -> None:
        write_csv(self.folder / f"{name}.csv", columns, rows)  # type: ignore[arg-type] # rows
        self.declared[name] = declared(name, columns, **more)

    def undo(self, table: str, treatment: Treatment, column: str = "") -> None:
        made = Decision(
            table=table, treatment=treatment, column=column, at="2024-06-01T00:00:00.000Z"
        )
        self.undone = self.undone.with_decision(made)

    def tables(self) -> RegionTables:
        around = Surroundings(
            lambda: NOW_MS,
            self.standards.missing,
            {"catalogue.item": frozenset({"milk", "bread"})},
            {"catalogue.category": {"milk": "dairy"}},
            self.undone,
        )
        governance = Governance("region-1", self.standards, around, self.kinds)
        return RegionTables(
            tables_from(self.declared, self.folder, "tables"),
            governance=governance,
            clock_ms=lambda: NOW_MS,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.put("events", EVENT, ROWS)
    return made


def column(rows: pa.Table, name: str) -> list[object]:
    return sorted(rows.column(name).to_pylist(), key=str)


def test_a_table_is_read_under_its_standard(folder: Folder) -> None:
    found = folder.tables().read("events")
    assert found.counts.reasons == {
        "dwell-without-seconds": 1,
        "item-not-found": 1,
        "row-repeated": 1,
    }
    assert (found.counts.read, found.counts.accepted) == (6, 3)
    assert column(found.rows, "value") == [1800.0, None, None]
    assert column(found.rows, "item") == ["bread", "milk", "milk"]


def test_without_governance_a_table_is_held_to_its_schema_alone(folder: Folder) -> None:
    tables = RegionTables(tables_from(folder.declared, folder.folder, "t"), clock_ms=lambda: NOW_MS)
    found = tables.read("events")
    assert max(each for each in column(found.rows, "value") if each is not None) == 7200.0


def test_what_is_followed_is_treated_too(folder: Folder) -> None:
    follower = TableFollower(folder.tables(), "events")
    first = follower.poll()
    assert column(first.rows, "value") == [1800.0, None, None]
    assert first.counts.reasons["item-not-found"] == 1
    more = ("c", "2024-03-01 12:00", "dwell", "milk", 2000)
    folder.put("events", EVENT, [*ROWS, more])
    again = follower.poll()
    assert again.rows.column("customer").to_pylist() == ["c"]
    assert again.rows.column("value").to_pylist() == [1800.0]
    assert again.withdrawn == 0


def test_what_was_undone_is_read_as_it_is_stored(folder: Folder) -> None:
    folder.undo("events", "clipped", "value")
    folder.undo("events", "repeated")
    found = folder.tables().read("events")
    assert column(found.rows, "value") == [7200.0, None, None, None]
    assert found.counts.accepted == found.rows.num_rows == 4
    assert "row-repeated" not in found.counts.reasons
    assert column(TableFollower(folder.tables(), "events").poll().rows, "value")[0] == 7200.0


def test_categories_that_the_catalogue_knows_are_filled_in(folder: Folder) -> None:
    folder.put("events", (*EVENT, "category"), [(*row, "") for row in ROWS])
    found = folder.tables().read("events")
    assert column(found.rows, "category") == [None, "dairy", "dairy"]


def test_codes_are_judged_as_the_declaration_translates_them(folder: Folder) -> None:
    rows = [("a", "2024-03-01", "pv", "milk", ""), ("a", "2024-03-02", "click", "milk", "")]
    folder.put("events", EVENT, rows, codes={"kind": {"pv": "view", "view": "click"}})
    found = folder.tables().read("events")
    assert column(found.rows, "kind") == ["click", "view"]
    assert found.counts.reasons == {}


def test_customers_are_unified_after_they_were_judged(folder: Folder) -> None:
    keys = [("web", "w1", "a"), ("web", "w2", "a")]
    folder.put("keys", ("channel", "key", "customer"), keys)
    rows = [
        ("w1", "2024-03-01", "view", "milk", ""),
        ("w2", "2024-03-02", "view", "milk", ""),
        ("w3", "2024-03-02", "view", "milk", ""),
        ("", "2024-03-02", "view", "milk", ""),
    ]
    folder.put("events", EVENT, rows, channel="web")
    found = folder.tables().read("events")
    assert column(found.rows, "customer") == ["a", "a"]
    assert (found.counts.unmatched, found.counts.accepted) == (1, 2)
    assert found.counts.reasons == {"customer-missing": 1}


def test_one_busy_machine_closes_no_table(folder: Folder) -> None:
    tables = dict(STANDARDS.tables)
    tables["events"] = tables["events"].model_copy(update={"most_per_customer": 2})
    folder.standards = STANDARDS.model_copy(update={"tables": tables})
    rows = [("bot", f"2024-03-01 10:{n:02d}", "view", "milk", "") for n in range(50)]
    folder.put("events", EVENT, rows)
    found = folder.tables().read("events")
    assert (found.rows.num_rows, found.counts.score) == (2, 1.0)
    newest = found.rows.column("time").to_pylist()
    assert sorted(each.minute for each in newest) == [48, 49]


def test_a_member_has_one_entry(folder: Folder) -> None:
    rows = [("a", "2020-01-01", "silver"), ("a", "2023-01-01", "gold"), ("b", "2021-01-01", "")]
    folder.put("members", ("customer", "joined", "level"), rows)
    found = folder.tables().read("members")
    by_customer = {each["customer"]: each["level"] for each in found.rows.to_pylist()}
    assert by_customer == {"a": "gold", "b": None}
    # Both entries, if that is undone: what they contradict each other in is nothing.
    folder.undo("members", "replaced")
    found = folder.tables().read("members")
    assert column(found.rows, "level") == [None, None]


def test_a_column_that_holds_something_else_is_refused(folder: Folder) -> None:
    folder.kinds = {"events": {"customer": "numbers"}}
    with pytest.raises(InputError, match="the column customer held numbers and holds text"):
        folder.tables().read("events")


def test_no_rows_are_no_fault(folder: Folder) -> None:
    folder.put("events", EVENT, [])
    found = folder.tables().read("events")
    assert (found.rows.num_rows, found.counts.score, found.problems) == (0, 1.0, ())


def test_what_the_standards_let_nobody_use_says_why(folder: Folder) -> None:
    rows = [("a", f"2024-03-01 10:{n:02d}", "dwell", "milk", 3600) for n in range(20)]
    folder.put("events", EVENT, rows)
    found = folder.tables().read("events")
    assert found.counts.score == 1.0
    assert found.problems == ("treatment guessed in 100.0000% of its rows, and may in 5.00%",)
