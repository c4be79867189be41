"""A region's processes: what each is given, as whom, and what it cannot reach."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.engine.home import KEY_ROLES
from client.node import programs
from client.node.programs import prepare_folders, region_programs, secret_file
from client.node.units import region_units
from common.errors import InputError
from common.system_users import SystemUser
from tests.support.least_settings import settings_of

USERS = {
    "fedpref-engine": SystemUser("fedpref-engine", 901, 911),
    "fedpref-node": SystemUser("fedpref-node", 902, 912),
    "fedpref-relay": SystemUser("fedpref-relay", 903, 913),
}


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "process_user", lambda *_: None)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "process_user", lambda stated, usual: USERS[stated or usual])


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_three_processes_and_what_each_is_given(tmp_path: Path, as_root: None) -> None:
    engine, node, relay = region_programs(settings_of(tmp_path))
    assert [each.name for each in (engine, node, relay)] == ["engine", "node", "relay"]
    assert [each.user for each in (engine, node, relay)] == list(USERS)
    # Only the engine is told where the region's data are; only the node where its key is.
    assert str(tmp_path) in engine.command
    assert option(engine.command, "--relay-user") == "903"
    assert option(engine.command, "--socket-group") == "913"
    assert option(node.command, "--superlink") == "federation.example:9092"
    assert option(node.command, "--key") == str(tmp_path / "node" / "node_key")
    assert option(relay.command, "--engine-socket") == str(tmp_path / "run" / "engine.sock")
    assert option(relay.command, "--engine-user") == "901"
    secrets = {option(each.command, "--secret") for each in (node, relay)}
    assert secrets == {str(secret_file(tmp_path, name)) for name in ("node", "relay")}
    for each in (engine, node, relay):
        assert each.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert each.restart == "always"
    for each in (node, relay):
        assert each.environment["PATH"].startswith(f"{tmp_path}/bin:")
        assert each.environment["HOME"] == str(tmp_path / each.name)


def test_an_ordinary_user_runs_all_of_them(tmp_path: Path, as_user: None) -> None:
    engine, node, relay = region_programs(settings_of(tmp_path))
    assert {each.user for each in (engine, node, relay)} == {None}
    assert "--relay-user" not in engine.command
    assert "--engine-user" not in relay.command


@pytest.mark.parametrize("shared", ["fedpref-engine", "fedpref-node"])
def test_two_processes_of_one_user_are_refused_for_root(
    tmp_path: Path, as_root: None, shared: str
) -> None:
    settings = settings_of(tmp_path, relay={"user": shared})
    with pytest.raises(InputError, match="three different users"):
        region_programs(settings)


def test_no_process_runs_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = {**USERS, "fedpref-engine": SystemUser("root", 0, 0)}
    monkeypatch.setattr(programs, "process_user", lambda stated, usual: users[stated or usual])
    with pytest.raises(InputError, match="none of them root"):
        region_programs(settings_of(tmp_path))


def test_the_engine_alone_gets_the_engines_variables(tmp_path: Path, as_user: None) -> None:
    path = tmp_path / "engine.env"
    path.write_text("STORE_URL=postgresql://db/shop\nOMP_NUM_THREADS=4\n")
    path.chmod(0o600)
    engine, node, relay = region_programs(settings_of(tmp_path))
    assert engine.environment["STORE_URL"] == "postgresql://db/shop"
    assert engine.environment["OMP_NUM_THREADS"] == "4"
    assert not {"STORE_URL"} & (set(node.environment) | set(relay.environment))


def test_the_engine_may_use_the_whole_machine(tmp_path: Path, as_user: None) -> None:
    engine, node, _ = region_programs(settings_of(tmp_path))
    assert "OMP_NUM_THREADS" not in engine.environment
    assert node.environment["OMP_NUM_THREADS"] == "1"


def test_the_recommender_is_one_of_them_if_the_settings_say_so(
    tmp_path: Path, as_root: None
) -> None:
    for file, name in (("engine.env", "PIN"), ("recommender.env", "STORE_URL")):
        (tmp_path / file).write_text(f"{name}=1234\n")
        (tmp_path / file).chmod(0o600)
    table = {"group": "shop", "metrics": "127.0.0.1:9466"}
    *others, recommender = region_programs(settings_of(tmp_path, recommender=table))
    assert [each.name for each in others] == ["engine", "node", "relay"]
    assert (recommender.name, recommender.user) == ("recommender", "fedpref-engine")
    command = recommender.command
    assert command[1:4] == ("recommend", "serve", str(tmp_path / "home"))
    assert option(command, "--socket") == str(tmp_path / "run" / "recommender.sock")
    assert option(command, "--group") == "shop"
    assert option(command, "--metrics") == "127.0.0.1:9466"
    # What opens the region's signing keys is none of its business.
    assert "PIN" not in recommender.environment
    assert recommender.environment["STORE_URL"] == "1234"
    assert "STORE_URL" not in others[0].environment
    settings = settings_of(tmp_path, recommender={"listen": "127.0.0.1:8430"})
    command = region_programs(settings)[-1].command
    assert option(command, "--address") == "127.0.0.1:8430"
    assert not {"--socket", "--group", "--metrics"} & set(command)


def test_the_recommenders_unit_sees_neither_keys_nor_ledger(tmp_path: Path, as_root: None) -> None:
    units = region_units(settings_of(tmp_path, recommender={}))
    text = units["fedpref-eu-west-recommender.service"]
    assert lines_of(text, "User") == ["fedpref-engine"]
    assert lines_of(text, "EnvironmentFile") == [f"-{tmp_path}/recommender.env"]
    (hidden,) = lines_of(text, "InaccessiblePaths")
    home = tmp_path / "home"
    for role in KEY_ROLES:
        assert f'"-{home}/keys/{role}.pem"' in hidden
    for name in ("keys/passphrase", "ledger.sqlite"):
        assert f'"-{home}/{name}"' in hidden
    # It opens the customers' pseudonyms.
    assert "storage.key" not in hidden
    (engine,) = lines_of(units["fedpref-eu-west-engine.service"], "InaccessiblePaths")
    assert "keys" not in engine


def test_profiles_are_kept_current_by_one_of_them_if_the_settings_say_so(
    tmp_path: Path, as_root: None
) -> None:
    for file, name in (("engine.env", "PIN"), ("profiles.env", "STORE_URL")):
        (tmp_path / file).write_text(f"{name}=1234\n")
        (tmp_path / file).chmod(0o600)
    table = {"follow_every_s": 2.5, "metrics": "127.0.0.1:9467"}
    *others, profiles = region_programs(settings_of(tmp_path, profiles=table, recommender={}))
    assert [each.name for each in others] == ["engine", "node", "relay", "recommender"]
    assert (profiles.name, profiles.user) == ("profiles", "fedpref-engine")
    command = profiles.command
    assert command[1:4] == ("profile", "refresh", str(tmp_path / "home"))
    assert option(command, "--follow") == "2.5"
    assert option(command, "--metrics") == "127.0.0.1:9467"
    # Its log would tell of each look how many customers there are.
    assert "--quiet" in command
    assert "PIN" not in profiles.environment
    assert profiles.environment["STORE_URL"] == "1234"
    assert "STORE_URL" not in others[-1].environment
    (*_, profiles) = region_programs(settings_of(tmp_path, profiles={}))
    assert option(profiles.command, "--follow") == "5"
    assert "--metrics" not in profiles.command


def test_the_unit_of_profiles_sees_neither_keys_nor_ledger(tmp_path: Path, as_root: None) -> None:
    units = region_units(settings_of(tmp_path, profiles={}))
    text = units["fedpref-eu-west-profiles.service"]
    assert lines_of(text, "User") == ["fedpref-engine"]
    assert lines_of(text, "EnvironmentFile") == [f"-{tmp_path}/profiles.env"]
    (hidden,) = lines_of(text, "InaccessiblePaths")
    home = tmp_path / "home"
    for name in (*(f"keys/{role}.pem" for role in KEY_ROLES), "keys/passphrase", "ledger.sqlite"):
        assert f'"-{home}/{name}"' in hidden
    # It opens the customers' pseudonyms, and what is kept of profiles.
    assert "storage.key" not in hidden
    assert f'"{home}"' in lines_of(text, "ReadWritePaths")[0]


def test_folders_are_prepared_and_the_secret_is_new_each_time(
    tmp_path: Path, as_user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned: list[Path] = []
    monkeypatch.setattr(programs, "own_region", lambda folder, _: owned.append(folder))
    settings = settings_of(tmp_path)
    prepare_folders(settings, new_secret=True)
    assert owned == [tmp_path]
    first = secret_file(tmp_path, "node").read_bytes()
    assert len(first) == 32
    assert secret_file(tmp_path, "relay").read_bytes() == first
    assert stat.S_IMODE(secret_file(tmp_path, "relay").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o711
    assert (tmp_path / "bin" / "flwr-clientapp").exists()
    prepare_folders(settings, new_secret=False)
    assert secret_file(tmp_path, "node").read_bytes() == first
    prepare_folders(settings, new_secret=True)
    assert secret_file(tmp_path, "node").read_bytes() != first


def lines_of(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_units_say_the_same_and_hide_what_is_anothers(tmp_path: Path, as_root: None) -> None:
    path = tmp_path / "engine.env"
    path.write_text("PIN=1234-secret\n")
    path.chmod(0o600)
    units = region_units(settings_of(tmp_path))
    assert list(units) == [
        f"fedpref-eu-west-{name}.service" for name in ("engine", "node", "relay")
    ]
    engine, node, relay = units.values()
    assert lines_of(engine, "User") == ["fedpref-engine"]
    assert lines_of(relay, "User") == ["fedpref-relay"]
    # A unit is for all to read: what is secret stays in its file.
    assert "1234-secret" not in engine
    assert lines_of(engine, "EnvironmentFile") == [f"-{path}"]
    assert lines_of(node, "EnvironmentFile") == []
    for text, own in ((engine, "home"), (node, "node"), (relay, "relay")):
        (hidden,) = lines_of(text, "InaccessiblePaths")
        for name in {"home", "node", "relay"} - {own}:
            assert f'"-{tmp_path}/{name}"' in hidden
        assert f'"{tmp_path}/{own}"' in lines_of(text, "ReadWritePaths")[0]
    assert lines_of(relay, "IPAddressDeny") == ["any"]
    assert lines_of(node, "IPAddressDeny") == []
    assert "landlock_restrict_self" in lines_of(relay, "SystemCallFilter")[0]
    assert "fedpref-eu-west-engine.service" in lines_of(relay, "After")[0]


def test_an_engine_whose_store_is_in_files_talks_to_this_machine_alone(
    tmp_path: Path, as_root: None
) -> None:
    engine = next(iter(region_units(settings_of(tmp_path)).values()))
    assert lines_of(engine, "IPAddressDeny") == []
    source = {
        "kind": "files",
        "path": "sales.csv",
        "columns": {"customer": "c", "item": "i", "time": "t"},
    }
    engine = next(iter(region_units(settings_of(tmp_path, source=source)).values()))
    assert lines_of(engine, "IPAddressDeny") == ["any"]
    # Not even if its purchases are in files, once a further table is in a database.
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    place = 'kind = "sql"\nurl_env = "STORE"\ntable = "members"\ncolumns = { customer = "id" }\n'
    (data / "tables.toml").write_text(f"[members]\n{place}")
    engine = next(iter(region_units(settings_of(tmp_path, source=source)).values()))
    assert lines_of(engine, "IPAddressDeny") == []
