"""Data standards: the default explains itself, whatever is wrong with a file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.data.standards import DEFAULT_FILE, Standards, load_standards, standards_of
from client.data.tables.schema import TABLES
from common.errors import InputError
from tests.support.governed_home import make_governed_home

Edit = Callable[[dict[str, Any]], object]


def least() -> dict[str, Any]:
    """Standards with one table, nothing wrong with them."""
    return {
        "version": "fedpref-standards/1",
        "codes": {"channel": {"meaning": "Where.", "values": ["web", "store"]}},
        "tables": {
            "events": {
                "meaning": "What was done.",
                "key": ["customer", "time"],
                "columns": {
                    "customer": {"type": "reference", "meaning": "Who.", "grade": "medium"},
                    "time": {"type": "time", "meaning": "When.", "grade": "medium"},
                    "value": {"type": "number", "meaning": "How much.", "grade": "low"},
                    "channel": {
                        "type": "code",
                        "meaning": "Where.",
                        "grade": "low",
                        "codes": "channel",
                    },
                },
            }
        },
    }


def load(tmp_path: Path, values: dict[str, Any]) -> Standards:
    path = tmp_path / "standards.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return load_standards(path)


def test_the_default_says_everything_of_every_declared_column() -> None:
    standards = load_standards()
    for name, schema in TABLES.items():
        table = standards.tables[name]
        for column, each in schema.columns.items():
            said = table.columns[column]
            assert said.meaning.endswith(".")
            # What the schema asks of a row, the standard asks at least.
            assert said.needed or not each.required, f"{name}.{column}"
            if each.codes:
                assert set(said.codes or ()) == set(each.codes)
    assert standards.threshold == 0.98
    assert {name for name, each in standards.definitions.items() if each.table == "purchases"}


def test_what_names_or_quotes_a_person_is_graded_high() -> None:
    tables = load_standards().tables
    high = {
        f"{name}.{column}"
        for name, table in tables.items()
        for column, each in table.columns.items()
        if each.grade == "high"
    }
    assert high == {
        "events.query",
        "feedback.text",
        "members.birth_date",
        "members.email",
        "members.name",
        "members.phone",
        "members.postcode",
    }


def test_a_list_of_codes_is_put_in_the_place_of_its_name(tmp_path: Path) -> None:
    standards = load(tmp_path, least())
    assert standards.tables["events"].columns["channel"].codes == ("web", "store")


def test_a_regions_own_file_is_taken_else_the_default(tmp_path: Path) -> None:
    home = make_governed_home(tmp_path / "home")
    assert standards_of(home) == load_standards()
    text = DEFAULT_FILE.read_text(encoding="utf-8").replace("threshold = 0.98", "threshold = 0.9")
    home.source.with_name("standards.toml").write_text(text, encoding="utf-8")
    assert standards_of(home).threshold == 0.9


def test_another_standard_has_another_digest(tmp_path: Path) -> None:
    values = least()
    first = load(tmp_path, values).digest
    assert load(tmp_path, values).digest == first
    values["tables"]["events"]["columns"]["value"]["range"] = [0, 9]
    assert load(tmp_path, values).digest != first


def columns(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["tables"]["events"]["columns"]
    return found


def table(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["tables"]["events"]
    return found


WRONG: list[tuple[Edit, str]] = [
    (lambda v: v.pop("version"), "version: Field required"),
    (lambda v: v.update(threshold=98), "threshold"),
    (lambda v: v.update(treshold=0.9), "treshold: Extra inputs"),
    (lambda v: columns(v)["value"].pop("grade"), "value.grade: Field required"),
    (lambda v: columns(v)["value"].update(grade="secret"), "value.grade"),
    (lambda v: columns(v)["value"].update(type="money"), "value.type"),
    (lambda v: columns(v)["value"].update(range=[2, 1]), "ends before it begins"),
    (lambda v: columns(v)["value"].update(range=[float("nan"), 1]), "not a number"),
    (lambda v: columns(v)["value"].update(range=[0, "now"]), "not of the column's type"),
    (lambda v: columns(v)["time"].update(range=["now", "now"]), "cannot begin now"),
    (lambda v: columns(v)["customer"].update(range=[0, 1]), "for numbers and times"),
    (lambda v: columns(v)["value"].update(codes=["a"]), "needs its list of codes"),
    (lambda v: columns(v)["channel"].pop("codes"), "needs its list of codes"),
    (lambda v: columns(v)["channel"].update(codes="chanel"), "no list of codes 'chanel'"),
    (lambda v: columns(v)["channel"].update(codes=["a", "a"]), "a code is listed twice"),
    (lambda v: columns(v)["customer"].update(pattern="("), "no regular expression"),
    (lambda v: columns(v)["value"].update(pattern="x"), "for references and text"),
    (lambda v: columns(v)["value"].update(complete={}), "exactly one of value and lookup"),
    (lambda v: columns(v)["value"].update(complete={"value": "x"}), "no value of the column"),
    (lambda v: columns(v)["channel"].update(complete={"value": "bus"}), "no value of the column"),
    (
        lambda v: columns(v)["value"].update(complete={"lookup": "catalogue.price"}),
        "looked up is a reference",
    ),
    (lambda v: columns(v)["value"].update(outliers={}), "say below, above or both"),
    (lambda v: columns(v)["value"].update(outliers={"below": 2, "above": 1}), "below is above"),
    (lambda v: columns(v)["time"].update(outliers={"above": 1}), "outliers are of numbers"),
    (lambda v: table(v).update(key=["time"]), "has the column customer"),
    (lambda v: table(v).update(key=["customer", "moment"]), "no column 'moment'"),
    (lambda v: table(v).update(rules=[{"name": "r"}]), "say column with filled or range"),
    (
        lambda v: table(v).update(rules=[{"name": "r", "ascending": ["time"]}]),
        "two columns at least",
    ),
    (
        lambda v: v.update(
            definitions={"d": {"meaning": "D.", "table": "event", "at_least": 1, "within_days": 1}}
        ),
        "names no table",
    ),
    (
        lambda v: v.update(
            definitions={
                "d": {
                    "meaning": "D.",
                    "table": "events",
                    "where": {"kind": ["view"]},
                    "at_least": 1,
                    "within_days": 1,
                }
            }
        ),
        "needs a column 'kind'",
    ),
]


@pytest.mark.parametrize(("edit", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, edit: Edit, said: str) -> None:
    values = least()
    load(tmp_path, values)
    edit(values)
    with pytest.raises(InputError) as caught:
        load(tmp_path, values)
    assert said in caught.value.message
    assert str(tmp_path / "standards.toml") in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    for data, said in (
        (b"= 1", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"#" * (1 << 20 | 1), "longer"),
    ):
        path = tmp_path / "standards.toml"
        path.write_bytes(data)
        with pytest.raises(InputError, match=said):
            load_standards(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_standards(tmp_path / "none.toml")


def test_a_table_without_a_standard_lists_those_that_have_one() -> None:
    with pytest.raises(InputError, match="no data standard for a table 'sales'; there is one for"):
        load_standards().table("sales")
