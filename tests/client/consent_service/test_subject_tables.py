"""A person's rows in the export: all of theirs in every table, and nobody else's."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app
from client.consent_service import subject_tables as module
from client.consent_service.region_records import open_records
from client.consent_service.registrar import Choice
from client.consent_service.subject_export import export_subject
from client.consent_service.subject_tables import SubjectTables, subject_tables
from client.engine.home import RegionHome
from client.governance.column_store import ColumnStore
from client.governance.kept_references import channel_keys_of
from client.recommend.experiment import Assignment, experiment_key
from client.recommend.exposure import FILE_NAME, Exposure, ExposureLog
from client.recommend.settings import RecommendSettings, recommend_folder
from common.consent import FEDERATED_TRAINING
from common.errors import InputError
from tests.support.further_tables import declared, write_csv
from tests.support.region_home import make_region_home, open_home

ANNA, BEN = "anna", "ben"
#: In every row of Ben's, and in none of Anna's.
OTHERS = "of-ben"
PURCHASES = ("customer", "item", "time", "basket")
EVENTS = ("customer", "time", "kind", "item")
EXPERIMENT = """
[experiment]
name = "autumn"
arms = [{ name = "plain", share = 0.5 }, { name = "new", share = 0.5 }]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    """A home whose customers are in its store, in tables of every kind, and in kept ones."""
    home = make_region_home(tmp_path_factory.mktemp("tables") / "home")
    with open_home(home) as region:
        for who in (ANNA, BEN):
            region.registrar.record([Choice.give(who, {FEDERATED_TRAINING: True})])
        pseudonyms = region.subjects.pseudonyms()
    data = home.source.parent
    data.mkdir()
    columns = {name: name for name in PURCHASES}
    home.source.write_text(
        tomli_w.dumps({"kind": "files", "path": "purchases-*.csv", "columns": columns})
    )
    # In two files, so that one unit after the other is read.
    for number in (1, 2):
        rows = [
            (who, f"{what}-{number}", f"2024-03-0{number} 10:00:00", f"{what}-receipt")
            for who, what in ((ANNA, "tea"), (BEN, OTHERS))
        ]
        write_csv(data / f"purchases-{number}.csv", PURCHASES, rows)
    cards = [
        ("card", "card-1", ANNA),
        ("card", "card-2", BEN),
        # Nobody's: what was done under it may be Ben's.
        ("card", "card-3", ANNA),
        ("card", "card-3", BEN),
    ]
    write_csv(data / "keys.csv", ("channel", "key", "customer"), cards)
    events = [
        ("card-1", "2024-03-05 09:00:00", "view", "tea-9"),
        ("card-2", "2024-03-05 09:00:00", "view", f"{OTHERS}-view"),
        ("card-3", "2024-03-05 09:00:00", "view", f"{OTHERS}-perhaps"),
        ("card-9", "2024-03-05 09:00:00", "view", f"{OTHERS}-unknown"),
    ]
    write_csv(data / "events.csv", EVENTS, events)
    write_csv(
        data / "members.csv",
        ("customer", "joined", "level", "city"),
        [(ANNA, "2020-01-01 00:00:00", "gold", "Bonn"), (BEN, "2021-01-01 00:00:00", OTHERS, "")],
    )
    write_csv(data / "catalogue.csv", ("item",), [(f"{OTHERS}-item",)])
    (data / "tables.toml").write_text(
        tomli_w.dumps(
            {
                "keys": declared("keys", ("channel", "key", "customer")),
                "events": declared("events", EVENTS, channel="card"),
                "members": declared("members", ("customer", "joined", "level", "city")),
                "catalogue": declared("catalogue", ("item",)),
            }
        )
    )
    _keep(ColumnStore(home))
    _show(home, pseudonyms)
    return home


def _keep(store: ColumnStore) -> None:
    kept = pa.table(
        {
            "customer": [ANNA, BEN, ANNA],
            "score": [1.5, 2.5, float("nan")],
            "note": ["tea", OTHERS, None],
            "email": ["anna@shop.example", f"{OTHERS}@shop.example", "a@shop.example"],
        }
    )
    grades: Any = {"customer": "medium", "score": "low", "note": "medium", "email": "high"}
    store.keep("letters", kept, grades, subject="customer")
    secret: Any = {"customer": "high", "note": "low"}
    store.keep("complaints", kept.select(["customer", "note"]), secret, subject="customer")
    store.keep("prices", pa.table({"item": [OTHERS]}), {"item": "low"})


def _show(home: RegionHome, pseudonyms: Any) -> None:
    """The recommender showed both of them something in its experiment."""
    folder = recommend_folder(home)
    folder.mkdir()
    (folder / "settings.toml").write_text(EXPERIMENT)
    experiment = RecommendSettings.read(home).experiment
    assert experiment is not None
    assignment = Assignment(experiment, experiment_key(home))
    log = ExposureLog(folder / FILE_NAME)
    for who, item in ((ANNA, "tea-3"), (BEN, f"{OTHERS}-shown")):
        name = assignment.pseudonym(pseudonyms[who])
        log.add(Exposure("autumn", name, "new", 1_709_600_000_000, (item,)))
    log.close()


def exported(home: RegionHome, who: str = ANNA, **how: Any) -> dict[str, bytes]:
    with open_records(home) as records:
        return dict(export_subject(records, who, **how).files)


def read(files: dict[str, bytes], name: str) -> Any:
    return json.loads(files[name])


def test_all_rows_of_a_person_are_in_it_table_by_table(home: RegionHome) -> None:
    files = exported(home)
    assert read(files, "tables/purchases.json") == [
        {
            "customer": ANNA,
            "item": f"tea-{number}",
            "quantity": 1.0,
            "receipt": "tea-receipt",
            "time": f"2024-03-0{number}T10:00:00.000Z",
        }
        for number in (1, 2)
    ]
    # Under the card that is hers alone, by the region's own reference.
    (event,) = read(files, "tables/events.json")
    assert (event["customer"], event["item"]) == (ANNA, "tea-9")
    (member,) = read(files, "tables/members.json")
    assert (member["level"], member["city"]) == ("gold", "Bonn")
    (shown,) = read(files, "tables/exposures.json")
    assert (shown["item"], shown["arm"], shown["experiment"]) == ("tea-3", "treated", "autumn")
    # What is of no customer is no one's.
    assert not {name for name in files if "catalogue" in name or "prices" in name}


def test_of_kept_tables_there_is_what_takes_no_grant_and_the_rest_is_named(
    home: RegionHome,
) -> None:
    files = exported(home)
    assert read(files, "kept-tables/letters.json") == [
        {"customer": ANNA, "note": "tea", "score": 1.5},
        {"customer": ANNA, "score": "nan"},
    ]
    assert b"shop.example" not in files["kept-tables/letters.json"]
    # Where not even whose a row is can be read without a grant, none is.
    assert read(files, "kept-tables/complaints.json") == []
    summary = read(files, "summary.json")
    assert summary["kept_tables"] == {
        "letters": {"rows": 2, "withheld": ["email"]},
        "complaints": {"rows": 0, "withheld": ["customer", "note"]},
    }
    assert summary["tables"] == {"purchases": 2, "events": 1, "members": 1, "exposures": 1}


def test_nothing_of_anybody_else_is_in_any_file(home: RegionHome) -> None:
    everything = b"\0".join(exported(home).values())
    for trace in (OTHERS, BEN, "card-2", "card-3"):
        assert trace.encode() not in everything
    assert OTHERS.encode() in b"\0".join(exported(home, BEN).values())


def test_that_test_sees_rows_that_are_not_filtered(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everybody(column: pa.ChunkedArray, _: str) -> pa.Array:
        return pa.array(np.ones(len(column), dtype=bool))

    monkeypatch.setattr(module.pc, "equal", everybody)
    assert OTHERS.encode() in exported(home)["tables/purchases.json"]


def test_what_is_said_twice_or_otherwise_of_a_person_is_in_it_as_it_is_said(
    tmp_path: Path,
) -> None:
    """For learning rows of one member are merged, and contradictions given up: not for herself."""
    home = make_region_home(tmp_path / "home")
    folder = home.source.parent
    folder.mkdir(exist_ok=True)
    said = [(ANNA, "gold", "Bonn"), (ANNA, "gold", "Ulm"), (ANNA, "gold", "Ulm"), (BEN, "x", "y")]
    write_csv(folder / "members.csv", ("customer", "level", "city"), said)
    values = {"members": declared("members", ("customer", "level", "city"))}
    (folder / "tables.toml").write_text(tomli_w.dumps(values))
    rows = subject_tables(home, ANNA, "0" * 64).tables["members"]
    assert [row["city"] for row in rows] == ["Bonn", "Ulm", "Ulm"]


def test_a_kept_tables_name_leads_out_of_no_folder() -> None:
    rows: list[Any] = [{"a": 1}]
    names = ("../../home/anna/.profile", "a\\b", "a/b", "a%2Fb", "信件")
    files = SubjectTables({}, dict.fromkeys(names, rows), dict.fromkeys(names, ())).files()
    assert len(files) == len(names)
    assert "kept-tables/信件.json" in files
    for name in files:
        folder, _, file = name.partition("/")
        assert folder == "kept-tables"
        assert not {*file} & {"/", "\\", ":"}


def test_who_is_in_no_table_gets_tables_without_rows(home: RegionHome) -> None:
    found = subject_tables(home, "nobody", "0" * 64)
    assert found.rows == 0
    assert set(found.tables) == {"purchases", "events", "members"}


@pytest.mark.parametrize(
    ("channel", "customer", "rows"),
    [
        ("web", "account", ["of-anna"]),
        (None, "account", ["of-ben"]),
        # Whom rows are about says another column, by the region's own references.
        ("web", "other", ["of-ben"]),
    ],
)
def test_a_channels_key_that_is_spelt_as_somebodys_reference_is_not_hers(
    tmp_path: Path, channel: str | None, customer: str, rows: list[str]
) -> None:
    home = make_region_home(tmp_path / "home")
    folder = home.source.parent
    folder.mkdir(exist_ok=True)
    keys = [("web", "w1", ANNA), ("web", ANNA, BEN)]
    write_csv(folder / "keys.csv", ("channel", "key", "customer"), keys)
    kept: dict[str, Any] = {"kind": "kept", "table": "accounts"}
    kept["columns"] = {"customer": customer, "level": "note"}
    stated = {} if channel is None else {"channel": channel}
    declared_keys = declared("keys", ("channel", "key", "customer"))
    values = {"keys": declared_keys, "members": {**kept, **stated}}
    (folder / "tables.toml").write_text(tomli_w.dumps(values))
    table = pa.table({"account": ["w1", ANNA], "note": ["of-anna", "of-ben"], "other": ["x", "y"]})
    store = ColumnStore(home)
    store.keep("accounts", table, dict.fromkeys(table.column_names, "low"), subject="account")
    found = store.about({ANNA}, channel_keys_of(home, ANNA))["accounts"]
    assert found.rows.column("note").to_pylist() == rows


def test_a_region_without_a_store_has_no_tables(tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home")
    with open_home(home) as region:
        region.registrar.record([Choice.give(ANNA, {FEDERATED_TRAINING: True})])
    files = exported(home)
    assert not {name for name in files if "tables/" in name}
    assert read(files, "summary.json")["tables"] == {}


def test_a_store_that_is_down_is_said_and_what_it_has_can_be_left_out(
    home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object, **__: object) -> None:
        raise InputError("The store cannot be read.")

    monkeypatch.setattr(module, "RegionTables", down)
    out = tmp_path / "anna.zip"
    words = ["export-subject", str(home.root), ANNA, "--out", str(out)]
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, InputError)
    assert not out.exists(), "half an export would pass for a whole one"
    done = CliRunner().invoke(app, [*words, "--without-tables"])
    assert done.exit_code == 0, done.exception
    assert "no row(s) of tables" in done.output.replace("\n", " ")
    with zipfile.ZipFile(out) as opened:
        names = opened.namelist()
        summary = json.loads(opened.read("summary.json"))
    assert not [name for name in names if "tables/" in name]
    assert "tables" not in summary
