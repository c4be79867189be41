"""``federation.toml``: every wrong field is named, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.errors import BudgetError, InputError
from server.provisioning.federation_config import FederationConfig, read_federation
from server.provisioning.plans import make_plan
from tests.support.asked_federation import CATALOGUE
from tests.support.small_deployment import declaration, run_table


def read(tmp_path: Path, tables: dict[str, Any]) -> FederationConfig:
    path = tmp_path / "federation.toml"
    path.write_text(tomli_w.dumps(tables))
    return read_federation(path)


def test_a_declaration_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, declaration())
    assert config.server.address == "127.0.0.1:9443"
    assert [region.name for region in config.regions] == ["region-1", "region-2", "region-3"]
    assert config.run["first"].aggregation == "secure-sum"
    assert config.waits.nodes_wait_s == 120.0


def test_an_address_of_ip_version_6_is_written_in_brackets(tmp_path: Path) -> None:
    assert read(tmp_path, declaration(server={"hosts": ["::1"]})).server.address == "[::1]:9443"


def changed(path: str, value: object) -> dict[str, Any]:
    tables: dict[str, Any] = declaration()
    *tables_above, field = path.split(".")
    place: Any = tables
    for name in tables_above:
        place = place[int(name)] if name.isdigit() else place.setdefault(name, {})
    place[field] = value
    return tables


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("federation.name", "Shops Ltd"),
        ("federation.quorum", 0),
        ("federation.quorum", 4),
        ("federation.threshold", 1),
        ("federation.officers", 5),
        ("federation.epsilon_per_year", "nan"),
        ("federation.epsilon_per_year", 3),
        ("federation.colour", "red"),
        ("server.hosts", []),
        ("server.hosts", ["not a host"]),
        ("server.port", 0),
        ("server.admin_port", 9443),
        ("server.superlink_user", "root; rm"),
        ("server.metrics", "0.0.0.0:9000"),
        ("server.request_bytes_max", 5),
        ("regions.0.name", "server"),
        ("regions.0.name", "../x"),
        ("regions.0.name", "region-2"),
        ("regions.0.jurisdiction", "Germany"),
        ("regions.0.location", "Berlin"),
        ("run.first.epsilon", "-1"),
        ("run.first.epsilon", "inf"),
        ("run.first.rounds", 1),
        ("run.first.train_from", "last year"),
        ("run.first.strategy", "magic"),
        ("run.first.steps", 3),
        ("run.Second", run_table()),
        ("waits.nodes_wait_s", 0),
        ("surplus", {}),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, path: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, changed(path, value))
    assert "federation.toml" in caught.value.message
    assert "unknown fields are refused" in caught.value.remedy
    last = path.rpartition(".")[2]
    # What concerns two fields together is told of the table that has both.
    assert (
        last in caught.value.message
        or path.split(".")[0] in caught.value.message
        or ("declared twice" in caught.value.message)
    )


def test_what_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text("[federation\n")
    with pytest.raises(InputError, match=r"not valid TOML.*line 1"):
        read_federation(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_federation(tmp_path / "other.toml")


def test_a_region_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no region 'region-9'") as caught:
        read(tmp_path, declaration()).region("region-9")
    assert "region-1, region-2, region-3" in caught.value.remedy


ASKED = {
    "epsilon": "8",
    "train_from": "2024-01-01T00:00:00.000Z",
    "train_until": "2024-03-01T00:00:00.000Z",
    "planned_customers": 300_000,
    "question": [{"name": "category-customers", "share": 2, "scope": "regions"}, {"name": "kano"}],
    "names": {"features": ["gift wrap"]},
}


def test_a_run_of_questions_is_declared_beside_its_budget_and_window(tmp_path: Path) -> None:
    config = read(tmp_path, changed("run.asked", ASKED))
    questions = config.run["asked"].questions()
    assert [each.name for each in questions.question] == ["category-customers", "kano"]
    assert questions.names.named().features == ("gift wrap",)
    regions = ["region-1", "region-2", "region-3"]
    plan = make_plan(config, "asked", config.run["asked"], CATALOGUE, regions)
    assert plan.asks
    assert plan.run_id.startswith("asked-")
    assert [each.scope for each in plan.questions] == ["regions", "global"]
    assert (
        make_plan(
            config, "first", config.run["first"], CATALOGUE, ["region-1", "region-2", "region-3"]
        ).strategy
        == "factors"
    )


def test_a_run_of_clusters_says_how_customers_are_compared(tmp_path: Path) -> None:
    asked = {
        **{name: value for name, value in ASKED.items() if name != "names"},
        "question": [{"name": "purchase-clusters"}, {"name": "repeat-purchases"}],
        "clusters": {"steps": 2, "start": [[3], [30]], "coordinate": [{"measure": "frequency"}]},
    }
    config = read(tmp_path, changed("run.asked", asked))
    regions = ["region-1", "region-2", "region-3"]
    plan = make_plan(config, "asked", config.run["asked"], CATALOGUE, regions)
    assert [each.rounds for each in plan.mechanisms] == [(1, 2), (3,)]
    by_region = [{"name": "purchase-clusters", "scope": "regions"}]
    config = read(tmp_path, changed("run.asked", {**asked, "question": by_region}))
    with pytest.raises(InputError, match="has the scope global"):
        make_plan(config, "asked", config.run["asked"], CATALOGUE, regions)


def test_a_plan_whose_answers_noise_would_swamp_is_not_made(tmp_path: Path) -> None:
    small = {**ASKED, "planned_customers": 3}
    config = read(tmp_path, changed("run.asked", small))
    regions = ["region-1", "region-2", "region-3"]
    with pytest.raises(BudgetError, match="Nothing was spent"):
        make_plan(config, "asked", config.run["asked"], CATALOGUE, regions)
    config = read(tmp_path, changed("run.asked", {**small, "anyway": True}))
    assert make_plan(config, "asked", config.run["asked"], CATALOGUE, regions).asks


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 3}, "rank"),
        ({"strategy": "gram"}, "has no strategy"),
        ({"seed": 1}, "has no seed"),
        ({"aggregation": "secure-sum"}, "scope regions"),
        ({"question": [{"name": "nps"}, {"name": "nps"}]}, "twice"),
        ({"question": [{"name": "nps", "share": 0}]}, "share"),
        ({"question": [], "names": {"features": ["x"]}}, "a model has no names"),
        ({"question": [], "clusters": {"steps": 2}}, "a model has no clusters"),
        ({"clusters": {"steps": 0}}, "clusters"),
    ],
    ids=str,
)
def test_a_run_that_is_neither_of_a_model_nor_of_questions_is_refused(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named):
        read(tmp_path, changed("run.asked", {**ASKED, **change}))
