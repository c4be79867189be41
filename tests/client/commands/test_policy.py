"""`fedpref-region policy` shows what stands, tells what would change, and signs it once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.policy_standing import read_standing
from common import canonical_json
from common.audit.log import AuditLog
from common.errors import EXIT_OK, InputError, PolicyError, StorageError
from tests.support.command_line import Command, command_line
from tests.support.region_folder import toml_text
from tests.support.region_home import FEDERATION, REGION, make_region_home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = make_region_home(tmp_path / "eu" / "home")
    write_settings(tmp_path / "eu", read_policy(home.policy).to_record())
    return tmp_path / "eu"


def write_settings(folder: Path, policy: dict[str, Any], name: str = REGION) -> Path:
    path = folder / "region.toml"
    path.write_text(
        toml_text(
            {
                "region": {"name": name, "federation": FEDERATION, "jurisdiction": "DE"},
                "coordinator": {"address": "localhost:9092"},
                "source": {"file": "home/data/source.toml"},
                "policy": {field: value for field, value in policy.items() if field != "region"},
            }
        ),
        encoding="utf-8",
    )
    return path


def declare(folder: Path, **changes: Any) -> None:
    """Changes the policy in the settings."""
    policy = read_policy(folder / "home" / "policy.json").to_record()
    write_settings(folder, {**policy, **changes})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(
        cli.main, "fedpref-region", "policy", patch=monkeypatch, capture=capsys, flat=True
    )


def test_what_is_in_force_is_shown_with_its_place_in_the_log(
    folder: Path, command: Command
) -> None:
    digest = read_policy(folder / "home" / "policy.json").digest
    for named in (folder, folder / "home"):
        code, output, _ = command("show", named)
        assert code == EXIT_OK
        assert f"policy {digest[:16]}…, entry 2 of its log, is in force since" in output
        assert "epsilon_cap_per_year 8" in output
        assert "region.toml says the same." in output


def test_differences_from_the_settings_are_shown_and_end_the_check_with_7(
    folder: Path, command: Command
) -> None:
    declare(folder, rounds_max=99, noise_multiplier_min="1", app_bundles=["a" * 64])
    _, output, _ = command("show", folder)
    assert "region.toml differs:" in output
    assert "rounds_max 64 99 allows more" in output
    assert "noise_multiplier_min 0.1 1 allows less" in output
    assert "app_bundles not stated" in output
    code, _, _ = command("check", folder)
    assert code == PolicyError.exit_code
    record = json.loads(command("show", folder, "--json")[1])
    assert record["in_force"] is True
    assert [change["field"] for change in record["changes"]] == [
        "app_bundles",
        "noise_multiplier_min",
        "rounds_max",
    ]


def test_signing_puts_the_settings_policy_in_force_once(folder: Path, command: Command) -> None:
    declare(folder, rounds_max=99)
    code, output, _ = command("sign", folder, "--yes")
    assert code == EXIT_OK
    assert "is in force, entry 3 of its log." in output
    assert read_policy(folder / "home" / "policy.json").rounds_max == 99
    assert command("check", folder)[0] == EXIT_OK
    assert "in force already" in command("sign", folder, "--yes")[1]
    with AuditLog.open_read_only(folder / "home" / "log.sqlite") as log:
        assert log.size == 4


def test_signing_asks_first(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(folder, rounds_max=99)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    code, output, _ = command("sign", folder)
    assert code == 130
    assert "rounds_max 64 99 allows more" in output
    assert read_policy(folder / "home" / "policy.json").rounds_max == 64


def test_a_running_engine_keeps_the_log_and_nothing_is_signed(
    folder: Path, command: Command
) -> None:
    declare(folder, rounds_max=99)
    home = RegionHome.read(folder)
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        code, _, errors = command("sign", folder, "--yes")
        assert code == StorageError.exit_code
        assert "stop it first" in errors
        assert log.size == 3
    assert read_policy(home.policy).rounds_max == 64


def test_a_file_that_was_changed_by_itself_is_told_and_signing_mends_it(
    folder: Path, command: Command
) -> None:
    home = RegionHome.read(folder)
    altered = {**read_policy(home.policy).to_record(), "epsilon_cap_per_year": "80"}
    declared = read_policy(home.policy)
    home.policy.write_bytes(canonical_json.encode(altered))
    code, output, _ = command("show", folder)
    assert code == EXIT_OK
    assert "policy.json is not that policy, and the engine does not start." in output
    assert command("check", folder)[0] == PolicyError.exit_code
    assert command("sign", folder, "--yes")[0] == EXIT_OK
    assert read_standing(home, declared).is_as_declared


def test_another_region_s_settings_are_refused(folder: Path, command: Command) -> None:
    policy = read_policy(folder / "home" / "policy.json").to_record()
    write_settings(folder, policy, name="region-2")
    for action in ("check", "sign"):
        code, _, errors = command(action, folder)
        assert code == PolicyError.exit_code
        assert "[region] name is region-2" in errors


def test_settings_may_be_elsewhere_and_a_bare_home_has_none(
    folder: Path, command: Command, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "new.toml"
    declare(folder, rounds_max=99)
    (folder / "region.toml").rename(elsewhere)
    code, output, _ = command("show", folder)
    assert code == EXIT_OK
    assert "region.toml" not in output
    code, _, errors = command("check", folder)
    assert code == InputError.exit_code
    assert "region.toml cannot be read" in errors
    assert command("sign", folder, "--yes", "--settings", elsewhere)[0] == EXIT_OK
    assert read_policy(folder / "home" / "policy.json").rounds_max == 99


def test_a_wrong_field_of_the_policy_is_named_and_nothing_is_signed(
    folder: Path, command: Command
) -> None:
    declare(folder, epsilon_cap_per_yaer="9")
    code, _, errors = command("sign", folder, "--yes")
    assert code == InputError.exit_code
    assert "[policy] epsilon_cap_per_yaer: it is not known" in errors
    with AuditLog.open_read_only(folder / "home" / "log.sqlite") as log:
        assert log.size == 3


def test_a_home_that_never_had_a_policy(folder: Path, command: Command) -> None:
    home = RegionHome.read(folder)
    for path in home.root.glob("log.sqlite*"):
        path.unlink()
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log"), create=True):
        pass
    assert "no policy was ever logged" in command("show", folder)[1]
    assert command("sign", folder, "--yes")[0] == EXIT_OK
    assert command("check", folder)[0] == EXIT_OK
