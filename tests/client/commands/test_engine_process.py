"""The engine's command: what region.toml says, what options say, and how it is told to end."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.commands import engine_process
from client.commands.engine_process import EngineDoors
from client.consent_service.forms import FILE_NAME
from client.governance.access_socket import AccessClient
from common.engine_socket import SocketChannel
from common.errors import InputError, UsageError
from tests.support.region_folder import RegionFolder, make_region_folder
from tests.support.small_federation import home_of, make_federation

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def region(provisioned: Path, tmp_path: Path) -> RegionFolder:
    authority = tmp_path / "authority.crt"
    authority.write_text("a certificate, not read here")
    home = home_of(engine_run(provisioned))
    return make_region_folder(
        tmp_path / "r", home, address="superlink.example:9092", authority=authority
    )


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("process") / "run"
    make_federation(root, regions=1, quorum=1)
    return root


def engine_run(root: Path) -> Any:
    from simulations.run_folder import RunFolder

    return RunFolder(root)


def doors_of(monkeypatch: pytest.MonkeyPatch, *given: Any, **named: Any) -> EngineDoors:
    """The doors that the command would open."""
    seen: list[EngineDoors] = []

    class StopError(Exception):
        pass

    def stop(_: object, doors: EngineDoors) -> None:
        seen.append(doors)
        raise StopError

    monkeypatch.setattr(engine_process, "_serving", stop)
    with pytest.raises(StopError):
        engine_process.engine(*given, **named)
    (doors,) = seen
    return doors


def test_without_options_the_settings_say_who_may_come(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.write(
        engine={
            "relay_users": ["fedpref-relay", 61003],
            "consent_users": [61004],
            "socket_group": "fedpref-door",
            "metrics": "127.0.0.1:9464",
        }
    )
    for folder in (region.root, region.root / "home"):
        doors = doors_of(monkeypatch, folder)
        assert doors.socket == region.root / "run" / "engine.sock"
        assert doors.consent_socket == region.root / "run" / "consent.sock"
        assert (doors.relay_users, doors.consent_users) == (["fedpref-relay", "61003"], ["61004"])
        assert (doors.group, doors.metrics) == ("fedpref-door", "127.0.0.1:9464")


def test_the_relays_user_is_admitted_if_nobody_else_is_named(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.write(relay={"user": "fedpref-relay"})
    assert doors_of(monkeypatch, region.root).relay_users == ["fedpref-relay"]


def test_options_go_before_the_settings(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    region.write(engine={"relay_users": [61002], "socket_group": "one"})
    doors = doors_of(
        monkeypatch,
        region.root,
        socket=tmp_path / "e",
        consent_socket=tmp_path / "c",
        relay_user=["61009"],
        socket_group="two",
        metrics="127.0.0.1:1",
    )
    assert doors == EngineDoors(tmp_path / "e", tmp_path / "c", ["61009"], [], "two", "127.0.0.1:1")


def test_the_access_desk_is_where_the_settings_say(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doors_of(monkeypatch, region.root).access_socket is None
    region.write(
        engine={
            "access_socket": "desk/access.sock",
            "access_users": ["analyst", 61005],
            "access_group": "fedpref-access",
        }
    )
    doors = doors_of(monkeypatch, region.root)
    assert doors.access_socket == region.root / "desk" / "access.sock"
    assert (doors.access_users, doors.access_group) == (("analyst", "61005"), "fedpref-access")


def test_without_consent_settings_there_is_no_desk(
    region: RegionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (region.root / "home" / FILE_NAME).unlink()
    assert doors_of(monkeypatch, region.root).consent_socket is None


def test_a_home_by_itself_needs_a_socket(
    provisioned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = home_of(engine_run(provisioned)).root
    with pytest.raises(UsageError, match=r"region\.toml"):
        engine_process.engine(home)
    doors = doors_of(monkeypatch, home, socket=tmp_path / "e")
    assert doors == EngineDoors(tmp_path / "e", None, (), (), None, None)


def test_a_settings_file_that_is_wrong_opens_nothing(region: RegionFolder) -> None:
    region.write(engine={"relay_user": ["fedpref-relay"]})
    with pytest.raises(InputError, match="relay_user"):
        engine_process.engine(region.root)


def test_the_process_serves_and_ends_well_when_it_is_told_to(region: RegionFolder) -> None:
    (region.root / "run").mkdir()
    region.write(engine={"access_socket": "run/access.sock"})
    # No round is trained: what trains was imported so that the first one need not wait for it.
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('client.engine.round_release' in sys.modules))\n"
        "from client.cli import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "engine", region.root],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        path = region.root / "run" / "engine.sock"
        assert f"engine ready on {path}" in ready
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        described, _ = SocketChannel(path, timeout_s=60).call("describe", {}, {})
        assert described["region"] == "region-1"
        desk = region.root / "run" / "access.sock"
        assert f"access desk on {desk}" in ready
        assert AccessClient(desk).grants() == []
        process.send_signal(signal.SIGTERM)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert shown.splitlines()[-1] == "True"
    assert not path.exists()
    assert "Traceback" not in errors
