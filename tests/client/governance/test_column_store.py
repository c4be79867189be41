"""The column store: what lies on the disk, who reads what, turning keys, erasing, crashes."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from client.engine.home import RegionHome
from client.engine.storage_key import StorageKeyFile
from client.governance.column_manifest import FILE_NAME, ColumnManifest
from client.governance.column_store import ColumnStore
from client.governance.grants import AccessRefusedError, GrantedUse
from common.errors import InputError, PolicyError, StorageError
from tests.support.access_home import GRADES, ROWS, TABLE


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    made = RegionHome(tmp_path / "home", "region-1", "small.example")
    made.root.mkdir()
    made.keys.mkdir()
    ColumnStore(made).keep(TABLE, ROWS, GRADES, subject="customer")
    return made


def on_disk(home: RegionHome) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.columns.iterdir()))


def all_of(home: RegionHome, table: str = TABLE) -> dict[str, Any]:
    """Everything that is kept of a table, as only a use under a grant could read it."""
    store = ColumnStore(home)
    return dict(store._read(table, tuple(store.manifest().tables[table].columns)).to_pydict())


def test_sensitive_columns_are_nowhere_on_the_disk_in_clear(home: RegionHome) -> None:
    # What cannot be compressed is found wherever it lies in clear.
    secret = {name: sha256(name.encode()).hexdigest()[:16] for name in GRADES}
    rows = pa.table({name: [text] for name, text in secret.items()})
    ColumnStore(home).keep("wide", rows, GRADES)
    disk = on_disk(home)
    for name, grade in GRADES.items():
        assert (secret[name].encode() in disk) == (grade == "low"), name


def test_files_are_their_owners_alone(home: RegionHome) -> None:
    files = [*home.columns.iterdir(), home.columns_key]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert home.columns.stat().st_mode & 0o777 == 0o700


def test_people_read_low_columns_and_programs_medium_ones_too(home: RegionHome) -> None:
    store = ColumnStore(home)
    assert store.for_people(TABLE, ["tier"]).to_pydict() == {"tier": ["gold", "silver", "gold"]}
    assert store.for_programs(TABLE, ["customer"]).column(0).to_pylist() == ["anna", "ben", "anna"]
    with pytest.raises(PolicyError, match="customer of members is of medium grade"):
        store.for_people(TABLE, ["tier", "customer"])
    for read in (store.for_people, store.for_programs):
        with pytest.raises(PolicyError, match="email of members is of high grade"):
            read(TABLE, ["tier", "email"])


def test_a_use_that_nobody_logged_cannot_be_made() -> None:
    with pytest.raises(AccessRefusedError, match="not logged"):
        GrantedUse("id", TABLE, ("email",), 7, object())


def test_the_desk_alone_names_what_makes_a_use() -> None:
    source = Path(__file__).parents[3] / "client"
    naming = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "_USE_SEAL" in path.read_text(encoding="utf-8")
    }
    assert naming == {"governance/grants.py", "governance/access_desk.py"}


def manifest_of(home: RegionHome) -> dict[str, Any]:
    return dict(json.loads((home.columns / FILE_NAME).read_bytes()))


def write_manifest(home: RegionHome, manifest: dict[str, Any]) -> None:
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    (home.columns / FILE_NAME).write_text(data)


def test_a_high_column_that_calls_itself_medium_opens_nothing(home: RegionHome) -> None:
    manifest = manifest_of(home)
    manifest["tables"][TABLE]["columns"]["email"]["grade"] = "medium"
    write_manifest(home, manifest)
    with pytest.raises(StorageError, match="email of members was altered"):
        ColumnStore(home).for_programs(TABLE, ["email"])


def test_a_column_that_calls_itself_by_anothers_name_opens_nothing(home: RegionHome) -> None:
    manifest = manifest_of(home)
    columns = manifest["tables"][TABLE]["columns"]
    columns["customer"] = columns["email"] | {"grade": "medium"}
    write_manifest(home, manifest)
    with pytest.raises(StorageError, match="customer of members was altered"):
        ColumnStore(home).for_programs(TABLE, ["customer"])


@pytest.mark.parametrize(
    "change",
    [
        {"v": "fedpref-columns/2"},
        {"key": "short"},
        {"tables": []},
        {"tables": {TABLE: {"rows": -1, "subject": None, "columns": {}}}},
        {"tables": {TABLE: {"rows": 1, "subject": None, "columns": {"a": {"grade": "low"}}}}},
        {
            "tables": {
                TABLE: {
                    "rows": 1,
                    "subject": None,
                    "columns": {
                        "a": {"grade": "low", "file": "../x", "bytes": 1, "key": None},
                    },
                }
            }
        },
        {
            "tables": {
                TABLE: {
                    "rows": 1,
                    "subject": None,
                    "columns": {
                        # High, and says that it lies in clear.
                        "a": {"grade": "high", "file": f"{'0' * 24}.column", "bytes": 1,
                              "key": None},
                    },
                }
            }
        },
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(home: RegionHome, change: dict[str, Any]) -> None:
    write_manifest(home, manifest_of(home) | change)
    with pytest.raises(StorageError, match="damaged"):
        ColumnStore(home).manifest()


def test_what_is_not_kept_is_said(home: RegionHome) -> None:
    store = ColumnStore(home)
    with pytest.raises(InputError, match="No table 'visits'"):
        store.for_people("visits", ["a"])
    with pytest.raises(InputError, match="no column 'age'"):
        store.for_people(TABLE, ["age"])


@pytest.mark.parametrize(
    ("rows", "grades", "subject", "said"),
    [
        (ROWS, {"tier": "low"}, None, "Not every column"),
        (ROWS, GRADES, "name", "no column 'name'"),
        (pa.table({"a": [1.5]}), {"a": "low"}, "a", "not whole"),
        (pa.table({}), {}, None, "no columns"),
        (pa.table([[1], [2]], names=["a", "a"]), {"a": "low"}, None, "two of one name"),
        (pa.table({"a\nb": [1]}), {"a\nb": "low"}, None, "cannot be kept"),
    ],
)
def test_a_table_that_cannot_be_kept_is_said(
    home: RegionHome, rows: pa.Table, grades: Any, subject: str | None, said: str
) -> None:
    before = on_disk(home)
    with pytest.raises(InputError, match=said):
        ColumnStore(home).keep(TABLE, rows, grades, subject=subject)
    assert on_disk(home) == before


def test_keeping_a_table_anew_replaces_it_and_leaves_no_old_file(home: RegionHome) -> None:
    before = {path.name for path in home.columns.glob("*.column")}
    ColumnStore(home).keep(TABLE, ROWS.slice(0, 1), GRADES)
    after = {path.name for path in home.columns.glob("*.column")}
    assert not before & after
    assert len(after) == len(GRADES)
    assert all_of(home)["email"] == ["a@shop.example"]


def test_turning_the_key_changes_no_column_and_closes_older_copies(home: RegionHome) -> None:
    before, old = all_of(home), manifest_of(home)
    old_key = home.columns_key.read_bytes()
    files = {path.name: path.read_bytes() for path in home.columns.glob("*.column")}
    ColumnStore(home).turn_key()
    assert all_of(home) == before
    assert {path.name: path.read_bytes() for path in home.columns.glob("*.column")} == files
    assert home.columns_key.read_bytes() != old_key
    write_manifest(home, old)
    with pytest.raises(StorageError, match="another wrapping key"):
        all_of(home)


def test_without_its_key_nothing_is_read_nor_made_anew(home: RegionHome) -> None:
    home.columns_key.unlink()
    store = ColumnStore(home)
    assert store.for_people(TABLE, ["tier"]).num_rows == 3
    with pytest.raises(InputError, match="cannot be used"):
        store.for_programs(TABLE, ["customer"])
    with pytest.raises(InputError, match="cannot be used"):
        store.keep("visits", ROWS, GRADES)
    assert not home.columns_key.exists()


def test_an_erased_customer_is_in_no_table_and_in_no_older_copy(home: RegionHome) -> None:
    store = ColumnStore(home)
    store.keep("notes", pa.table({"text": ["anna called"]}), {"text": "high"})
    before = {path.name: path.read_bytes() for path in home.columns.iterdir()}
    assert store.erase(["anna"]) == 2
    assert all_of(home)["customer"] == ["ben"]
    assert store.manifest().tables[TABLE].rows == 1
    # Of a table that says of nobody whom it is about, nothing can go.
    assert all_of(home, "notes") == {"text": ["anna called"]}
    for name, data in before.items():
        (home.columns / name).write_bytes(data)
    with pytest.raises(StorageError, match="another wrapping key"):
        all_of(home)


@pytest.mark.parametrize(
    "written",
    [
        pa.array([" 12", "13", None]),
        pa.array([12, 13, None]),
        pa.array([12.0, 13.0, None]),
        pa.array(["12\t", "13", ""]).dictionary_encode(),
    ],
)
def test_whoever_is_erased_goes_however_the_store_writes_its_references(
    home: RegionHome, written: pa.Array
) -> None:
    store = ColumnStore(home)
    rows = pa.table({"card": written, "text": ["a", "b", "c"]})
    store.keep("notes", rows, {"card": "medium", "text": "high"}, subject="card")
    assert store.erase(["12"]) == 1
    assert all_of(home, "notes")["text"] == ["b", "c"]
    assert store.erase(["zoe"], {"notes": ["13"], TABLE: ["nobody"]}) == 1
    assert all_of(home, "notes")["text"] == ["c"]


def test_erasing_nobody_of_the_table_turns_the_key_all_the_same(home: RegionHome) -> None:
    files = {path.name for path in home.columns.glob("*.column")}
    key = home.columns_key.read_bytes()
    assert ColumnStore(home).erase(["zoe"]) == 0
    assert {path.name for path in home.columns.glob("*.column")} == files
    assert home.columns_key.read_bytes() != key


def test_erasing_where_nothing_is_kept_makes_nothing(tmp_path: Path) -> None:
    bare = RegionHome(tmp_path, "region-1", "small.example")
    assert ColumnStore(bare).erase(["anna"]) == 0
    assert not bare.columns.exists()
    assert not bare.keys.exists()


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", ["draw_next", "write", "activate_next"])
def test_killed_while_the_key_is_turned_either_key_opens_all(
    home: RegionHome, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_of(home)
    owner: Any = ColumnManifest if at == "write" else StorageKeyFile
    original = getattr(owner, at)

    def dying(*arguments: Any) -> None:
        if at == "write":
            raise KilledError
        if at == "draw_next":
            original(*arguments)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(owner, at, dying)
        with pytest.raises(KilledError):
            ColumnStore(home).turn_key()
    assert all_of(home) == before
    ColumnStore(home).turn_key()
    assert all_of(home) == before
    assert not home.columns_key.with_name("columns.key.next").exists()


def test_killed_while_a_table_is_kept_the_old_one_stays_and_leftovers_go(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_of(home)

    def dying(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(ColumnManifest, "write", dying)
        with pytest.raises(KilledError):
            ColumnStore(home).keep(TABLE, ROWS.slice(0, 1), GRADES)
    assert all_of(home) == before
    assert len([*home.columns.glob("*.column")]) == 2 * len(GRADES)
    ColumnStore(home).keep("tiers", ROWS.select(["tier"]), {"tier": "low"})
    assert len([*home.columns.glob("*.column")]) == len(GRADES) + 1
    assert all_of(home) == before


def test_a_table_that_is_replaced_while_it_is_read_is_read_anew(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, replaced = ColumnStore._open, []

    def overtaken(self: ColumnStore, *arguments: Any) -> pa.Table:
        if not replaced:
            replaced.append(True)
            monkeypatch.setattr(ColumnStore, "_open", original)
            ColumnStore(home).keep(TABLE, ROWS.slice(0, 1), GRADES)
        return original(self, *arguments)

    monkeypatch.setattr(ColumnStore, "_open", overtaken)
    assert ColumnStore(home).for_programs(TABLE, ["customer"]).num_rows == 1
    assert replaced


def test_a_table_whose_grades_rise_while_it_is_read_is_not_read(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, replaced = ColumnStore._open, []

    def overtaken(self: ColumnStore, *arguments: Any) -> pa.Table:
        if not replaced:
            replaced.append(True)
            monkeypatch.setattr(ColumnStore, "_open", original)
            ColumnStore(home).keep(TABLE, ROWS, dict.fromkeys(GRADES, "high"))
        return original(self, *arguments)

    monkeypatch.setattr(ColumnStore, "_open", overtaken)
    with pytest.raises(PolicyError, match="tier of members is of high grade"):
        ColumnStore(home).for_people(TABLE, ["tier"])


def test_a_lost_file_is_said(home: RegionHome) -> None:
    for path in home.columns.glob("*.column"):
        path.unlink()
    with pytest.raises(StorageError, match="kept columns in"):
        ColumnStore(home).for_people(TABLE, ["tier"])
