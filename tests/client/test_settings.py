"""region.toml: every field has its place and its form, and every wrong one is told of at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.source_config import FileSourceConfig, SqlSourceConfig
from client.engine.policy import RegionPolicy
from client.settings import RegionSettings, SettingsError, declared_source, settings_file
from client.settings_tables import _MODELS, Tables, split_address
from common.errors import InputError
from tests.support.least_settings import TABLES
from tests.support.region_folder import toml_text

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "region.toml"
SOURCE = """\
kind = "files"
path = "sales.csv"
[columns]
customer = "card"
item = "article"
time = "sold_at"
"""


def tables(**changes: Any) -> dict[str, Any]:
    """The least that settings must state, with some tables replaced or left out (None)."""
    return {name: table for name, table in {**TABLES, **changes}.items() if table is not None}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "region.toml"
    path.write_text(toml_text(tables(**changes)), encoding="utf-8")
    return path


def read(folder: Path, **changes: Any) -> RegionSettings:
    write(folder, **changes)
    return RegionSettings.read(folder)


def problems(folder: Path, **changes: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as refused:
        read(folder, **changes)
    return {each.field: each.message for each in refused.value.problems}


def test_the_least_that_must_be_stated_and_what_follows_from_it(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.folder == tmp_path
    assert (found.home.root, found.home.origin) == (tmp_path / "home", "shop.example/eu-west")
    assert (found.coordinator.host, found.coordinator.port) == ("federation.example", 9092)
    assert found.coordinator.certified_name == "federation.example"
    assert found.coordinator.ca == tmp_path / "node" / "ca.crt"
    assert found.engine.socket == tmp_path / "run" / "engine.sock"
    assert found.engine.consent_socket == tmp_path / "run" / "consent.sock"
    assert found.node.key == tmp_path / "node" / "node_key"
    assert found.node.public_key == tmp_path / "node" / "node_key.pub"
    assert found.node.runtime_port == 9094
    assert (found.engine.user, found.relay_users, found.engine.metrics) == (None, (), None)
    assert (found.consents, found.notice, found.witnesses.addresses) == (None, None, [])
    assert found.policy.region == "eu-west"
    assert found.run_folder == tmp_path / "run"
    assert found.logs_folder == tmp_path / "logs"
    assert found.stubs_folder == tmp_path / "bin"


def test_the_example_has_every_field_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = RegionSettings.read(EXAMPLE)
    stated = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert set(stated) == set(Tables.model_fields)
    for name, model in _MODELS.items():
        fields = set(model.model_fields) - ({"region"} if model is RegionPolicy else set())
        assert set(stated[name]) == fields, name
    monkeypatch.setenv("STORE_URL", "postgresql://reader@db.internal/retail")
    source = found.source()
    assert isinstance(source, SqlSourceConfig)
    assert source.server == "postgresql://db.internal/retail"
    assert found.relay_users == ("fedpref-relay",)


def test_paths_begin_at_the_folder_and_may_be_absolute(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        engine={"socket": "s/e.sock", "consent_socket": "/run/fedpref/consent.sock"},
        coordinator={"address": "[2001:db8::1]:9092", "ca": "../ca.crt", "server_name": "a.b"},
        notice={"file": "notice.toml"},
        consents={"file": "given.parquet", "map": {"customer": "card"}},
    )
    assert found.engine.socket == tmp_path / "s" / "e.sock"
    assert found.engine.consent_socket == Path("/run/fedpref/consent.sock")
    assert (found.coordinator.host, found.coordinator.port) == ("2001:db8::1", 9092)
    assert found.coordinator.certified_name == "a.b"
    assert found.coordinator.ca == tmp_path / ".." / "ca.crt"
    assert found.notice is not None
    assert found.notice.file == tmp_path / "notice.toml"
    assert found.consents is not None
    assert found.consents.file == tmp_path / "given.parquet"


def test_profiles_are_followed_if_there_is_a_table_that_says_so(tmp_path: Path) -> None:
    assert read(tmp_path).profiles is None
    found = read(tmp_path, profiles={}).profiles
    assert found is not None
    assert (found.follow_every_s, found.metrics) == (5.0, None)


def test_a_recommender_listens_on_a_socket_or_on_an_address(tmp_path: Path) -> None:
    assert read(tmp_path).recommender is None
    for stated, listen, socket in (
        ({}, f"{tmp_path}/run/recommender.sock", tmp_path / "run" / "recommender.sock"),
        ({"listen": "/run/shop/r.sock"}, "/run/shop/r.sock", Path("/run/shop/r.sock")),
        ({"listen": "[::1]:8430"}, "[::1]:8430", None),
    ):
        found = read(tmp_path, recommender=stated).recommender
        assert found is not None
        assert (found.listen, found.socket) == (listen, socket)


def test_the_folder_its_home_and_the_file_itself_name_the_same_settings(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "home").mkdir()
    for named in (path, tmp_path, tmp_path / "home"):
        assert settings_file(named) == path
        assert RegionSettings.read(named).path == path


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"regoin": {"name": "x"}}, "[regoin]", "not known; did you mean region?"),
    ({"region": None}, "[region]", "missing"),
    ({"policy": None}, "[policy]", "missing"),
    ({"source": None}, "[source]", "missing"),
    ({"coordinator": {}}, "[coordinator] address", "missing"),
    ({"coordinator": {"address": "a"}}, "[coordinator] address", "host:port"),
    ({"coordinator": {"address": "a:0"}}, "[coordinator] address", "1 to 65535"),
    ({"coordinator": {"address": "a:65536"}}, "[coordinator] address", "1 to 65535"),
    ({"coordinator": {"address": "a b:1"}}, "[coordinator] address", "neither a name nor"),
    ({"coordinator": {"address": "1.2.3:1"}}, "[coordinator] address", "neither a name nor"),
    ({"coordinator": {"address": "[::g]:1"}}, "[coordinator] address", "::g"),
    ({"coordinator": {"address": "a:1", "adress": "b"}}, "[coordinator] adress", "mean address?"),
    ({"coordinator": {"address": "a:1", "ca": ""}}, "[coordinator] ca", "path"),
    ({"coordinator": {"address": "a:1", "ca": 5}}, "[coordinator] ca", "path"),
    ({"engine": {"sokcet": "x"}}, "[engine] sokcet", "did you mean socket?"),
    ({"engine": {"socket": "x" * 200}}, "[engine] socket", "longer than 107 bytes"),
    ({"engine": {"user": "No Name"}}, "[engine] user", "not a user's name"),
    ({"engine": {"user": -1}}, "[engine] user", "not a user id"),
    ({"engine": {"relay_users": "relay"}}, "[engine] relay_users", "list"),
    ({"engine": {"metrics": "9464"}}, "[engine] metrics", "host:port"),
    ({"engine": {"metrics": "0.0.0.0:9464"}}, "[engine] metrics", "not a loopback address"),
    ({"recommender": {"listen": "0.0.0.0:8430"}}, "[recommender] listen", "not a loopback address"),
    ({"profiles": {"follow_every_s": 0}}, "[profiles] follow_every_s", "greater than or equal"),
    ({"profiles": {"metrics": "0.0.0.0:9467"}}, "[profiles] metrics", "not a loopback address"),
    ({"profiles": {"follow": 5}}, "[profiles] follow", "did you mean follow_every_s"),
    ({"recommender": {"listen": "shop.sock"}}, "[recommender] listen", "host:port"),
    ({"recommender": {"listen": "x/" * 100}}, "[recommender] listen", "longer than 107 bytes"),
    ({"recommender": {"listen": 8430}}, "[recommender] listen", "path"),
    ({"recommender": {"listen": "[::1]:1", "group": "a"}}, "[recommender]", "no group"),
    ({"node": {"runtime_port": "9094"}}, "[node] runtime_port", "integer"),
    ({"node": {"runtime_port": 70_000}}, "[node] runtime_port", "65535"),
    ({"witnesses": {"addresses": ["ftp://w"]}}, "[witnesses] addresses.0", "witness"),
    ({"consents": {}}, "[consents] file", "missing"),
    (
        {"region": {"name": "EU West", "federation": "f", "jurisdiction": "DE"}},
        "[region] name",
        "party's name",
    ),
    (
        {"region": {"name": "eu", "federation": "f", "jurisdiction": "Germany"}},
        "[region] jurisdiction",
        "pattern",
    ),
    (
        {"relay": {"user": "relay"}, "engine": {"relay_users": ["other"]}},
        "(whole file)",
        "relay_users does not have the relay's user relay",
    ),
    ({"engine": {"socket": "a", "consent_socket": "a"}}, "(whole file)", "the same file"),
    ({"engine": {"socket": "a", "access_socket": "a"}}, "(whole file)", "the same file"),
    ({"engine": {"access_socket": "x" * 200}}, "[engine] access_socket", "longer than 107 bytes"),
)


@pytest.mark.parametrize(("changes", "field", "message"), WRONG)
def test_a_wrong_field_is_named_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], field: str, message: str
) -> None:
    found = problems(tmp_path, **changes)
    assert field in found
    assert message in found[field]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"epsilon_cap_per_year": 8}, "[policy] epsilon_cap_per_year", "string"),
        ({"region": "eu-west"}, "[policy] region", "that of [region]"),
        ({"epsilon_cap_per_yaer": "8"}, "[policy] epsilon_cap_per_yaer", "epsilon_cap_per_year?"),
        ({"app_bundles": ["ab"]}, "[policy] app_bundles.0", "pattern"),
        (
            {"arrays": [{"name": "a", "dtype": "f4", "shape_max": [1]}]},
            "[policy] arrays.0.dtype",
            "",
        ),
        ({"retention_days": {}}, "[policy] retention_days", "leave the table out"),
    ],
)
def test_a_wrong_field_of_the_policy_is_named(
    tmp_path: Path, changes: dict[str, Any], field: str, message: str
) -> None:
    found = problems(tmp_path, policy=tables()["policy"] | changes)
    assert field in found
    assert message in found[field]


def test_every_wrong_field_is_told_of_at_once_and_the_message_counts_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        coordinator={"address": "nowhere"},
        node={"runtime_port": 0},
        policy=tables()["policy"] | {"rounds_max": 0, "unknown": 1},
    )
    with pytest.raises(SettingsError) as refused:
        RegionSettings.read(tmp_path)
    assert [each.field for each in refused.value.problems] == [
        "[coordinator] address",
        "[node] runtime_port",
        "[policy] rounds_max",
        "[policy] unknown",
    ]
    assert str(tmp_path / "region.toml") in refused.value.message
    assert "3 more fields are wrong" in refused.value.message


def test_a_file_that_is_missing_no_toml_or_endless_is_named(tmp_path: Path) -> None:
    path = tmp_path / "region.toml"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        RegionSettings.read(tmp_path)
    path.write_bytes(b"[region\n")
    with pytest.raises(InputError, match="not valid TOML"):
        RegionSettings.read(tmp_path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(InputError, match="not valid TOML"):
        RegionSettings.read(tmp_path)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InputError, match="longer than 1,048,576 bytes"):
        RegionSettings.read(tmp_path)
    path.write_bytes(b"a = " + b"[" * 100_000)
    with pytest.raises(InputError, match="not valid TOML"):
        RegionSettings.read(tmp_path)


def test_the_store_is_declared_in_the_settings_or_in_a_file_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "source.toml").write_text(SOURCE, encoding="utf-8")
    named = read(tmp_path).source()
    assert isinstance(named, FileSourceConfig)
    assert named.base == tmp_path / "home" / "data"
    inline = read(tmp_path, source=tomllib.loads(SOURCE)).source()
    assert isinstance(inline, FileSourceConfig)
    # Relative paths begin at the settings' folder then.
    assert inline.base == tmp_path
    assert inline.columns == named.columns


def test_a_wrong_declaration_of_the_store_is_named_by_table_and_field(tmp_path: Path) -> None:
    source = tomllib.loads(SOURCE) | {"pth": "x"}
    with pytest.raises(InputError, match=r"region\.toml: \[source\]: pth"):
        read(tmp_path, source=source).source()
    with pytest.raises(InputError, match="base"):
        read(tmp_path, source=tomllib.loads(SOURCE) | {"base": "/"}).source()


def test_a_home_without_settings_has_its_own_declaration(tmp_path: Path) -> None:
    path = write(tmp_path, source=tomllib.loads(SOURCE))
    settings = RegionSettings.read(path)
    (settings.home.root / "data").mkdir(parents=True)
    settings.home.source.write_text(SOURCE.replace("card", "kunde"), encoding="utf-8")
    assert declared_source(settings.home).columns.customer == "card"
    path.unlink()
    assert declared_source(settings.home).columns.customer == "kunde"


def test_settings_that_are_wrong_are_no_settings_to_read_a_store_by(tmp_path: Path) -> None:
    """A typing error must not make the engine read another store than before."""
    path = write(tmp_path, unknown={"x": 1})
    home = RegionSettings.read(write(tmp_path)).home
    (home.root / "data").mkdir(parents=True)
    home.source.write_text(SOURCE, encoding="utf-8")
    path.write_text(toml_text(tables(unknown={"x": 1})), encoding="utf-8")
    with pytest.raises(SettingsError):
        declared_source(home)


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    source = {"kind": "sql", "url": "postgresql://u:hush@h/d", "columns": {}}
    with pytest.raises(InputError) as refused:
        read(tmp_path, source=source).source()
    assert "hush" not in str(refused.value)


@given(st.text(max_size=30))
def test_an_address_is_split_or_refused_and_nothing_else(text: str) -> None:
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert 1 <= port <= 65_535
    assert text in (f"{host}:{port}", f"[{host}]:{port}")
