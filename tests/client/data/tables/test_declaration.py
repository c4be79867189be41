"""Declarations of further tables: what they may say, and how what is wrong is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.data.tables.declaration import labels_of, load_tables, tables_from
from client.data.tables.schema import TABLES, schema_of
from common.errors import InputError
from tests.support.further_tables import declared, required


def of(**tables: Any) -> Any:
    return tables_from(tables, Path("/srv"), "tables.toml")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_declared_with_what_it_needs_alone(name: str) -> None:
    (config,) = of(**{name: declared(name, required(name))})[name]
    assert set(config.columns) == set(required(name))
    assert config.base == Path("/srv")


def test_a_file_is_read_with_its_paths_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "tables.toml"
    path.write_text(
        """
        [[events]]
        kind = "files"
        path = "web/*.csv"
        [events.columns]
        customer = "c"
        time = "t"
        kind = "k"
        [events.codes.kind]
        pv = "view"

        [[events]]
        kind = "sql"
        url_env = "STORE"
        table = "app_events"
        refresh_by = "id"
        [events.columns]
        customer = "c"
        time = "t"
        kind = "k"
        [events.codes.kind]
        tap = "click"
        """
    )
    web, app = load_tables(path)["events"]
    assert web.base == tmp_path
    assert (web.kind, app.kind) == ("files", "sql")
    assert labels_of((web, app), "kind") == ("click", "view")
    assert labels_of((web, app), "channel") == ()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("unknown table", {"event": declared("events", required("events"))}, "Did you mean 'events'"),
    (
        "unknown column",
        {"events": declared("events", [*required("events"), "valeu"])},
        "Did you mean 'value'",
    ),
    ("missing column", {"events": declared("events", ["customer", "time"])}, "events.columns.kind"),
    (
        "column twice",
        {"events": declared("events", []) | {"columns": dict.fromkeys(required("events"), "x")}},
        "'x' is mapped twice",
    ),
    (
        "unknown code",
        {"events": declared("events", required("events"), codes={"kind": {"a": "look"}})},
        "'look' is not one of view",
    ),
    (
        "codes of words",
        {"events": declared("events", [*required("events"), "item"], codes={"item": {"a": "b"}})},
        "no mapped column of codes",
    ),
    (
        "no keys",
        {"events": declared("events", required("events"), channel="web")},
        "there is no table keys",
    ),
    (
        "channel of products",
        {"promotions": declared("promotions", ["promotion"], channel="web")},
        "not of a channel's customers",
    ),
    (
        "unknown field",
        {"events": declared("events", required("events"), colour="red")},
        "events.colour",
    ),
    ("no place", {"events": []}, "declared nowhere"),
    ("no table", {"events": "events.csv"}, "no table of a declaration"),
    (
        "wrong zone",
        {"events": declared("events", required("events"), time_zone="Mars")},
        "not a time zone",
    ),
]


@pytest.mark.parametrize(
    ("tables", "message"), [each[1:] for each in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_is_wrong_is_named(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        of(**tables)
    assert message in str(caught.value)


def test_columns_that_only_the_standards_have_may_be_mapped() -> None:
    tables = {"members": declared("members", ["customer", "email"])}
    with pytest.raises(InputError, match="no such column"):
        tables_from(tables, Path(), "tables.toml")
    (config,) = tables_from(tables, Path(), "tables.toml", more={"members": ["email"]})["members"]
    assert config.columns["email"] == "email"


def test_an_unknown_table_is_told_with_those_there_are() -> None:
    with pytest.raises(InputError, match="there are purchases, events"):
        schema_of("weather")
