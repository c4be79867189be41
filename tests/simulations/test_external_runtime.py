"""What runs outside of this process are given, and how their end is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from common.engine_channel import SOCKET_DIR_VARIABLE, SOCKET_VARIABLE, resolve_channel
from common.errors import FederationError, InputError, StorageError
from server.config import ServerHome
from server.events import EventWriter
from simulations.external_runtime import OFFLINE, RunOutcome, engine_sockets
from tests.support.fake_federation import fake_plan, open_federation


def test_relays_find_their_engines_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, "/another/engine.sock")
    with open_federation(tmp_path, fake_plan()) as federation:
        with engine_sockets(list(federation.engines.values())) as environment:
            folder = Path(environment[SOCKET_DIR_VARIABLE])
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert OFFLINE.items() <= environment.items()
            # Another region's engine, named outside, must not answer for all of them.
            assert SOCKET_VARIABLE not in environment
            monkeypatch.delenv(SOCKET_VARIABLE)
            monkeypatch.setenv(SOCKET_DIR_VARIABLE, environment[SOCKET_DIR_VARIABLE])
            for index, region in enumerate(federation.engines):
                answer, _ = resolve_channel({"partition-id": index}).call("describe", {}, {})
                assert answer["region"] == region
        assert not folder.exists()
    assert "HOME" not in OFFLINE
    assert os.environ[SOCKET_DIR_VARIABLE] == str(folder)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return ServerHome(tmp_path)


def tell(home: ServerHome, event: str, **fields: str) -> None:
    with EventWriter(home.events, "run-1") as events:
        events.write(event, **fields)


@pytest.mark.parametrize("end", ["run-finished", "run-paused"])
def test_a_run_that_finished_or_paused_is_well(end: str, home: ServerHome, tmp_path: Path) -> None:
    outcome = RunOutcome(home)
    assert not outcome.ended
    tell(home, "round-started")
    assert not outcome.ended
    tell(home, end)
    assert outcome.ended
    outcome.check(what="Ray", log=tmp_path / "log")


def test_a_run_that_failed_fails_here_as_it_did_there(home: ServerHome, tmp_path: Path) -> None:
    outcome = RunOutcome(home)
    tell(home, "run-failed", error="StorageError", reason="The disk is full.", remedy="Free it.")
    with pytest.raises(StorageError, match="The disk is full") as caught:
        outcome.check(what="Ray", log=tmp_path / "log")
    assert caught.value.remedy == "Free it."
    tell(home, "run-failed", error="SystemExit", reason="words")
    with pytest.raises(FederationError):
        outcome.check(what="Ray", log=tmp_path / "log")


def test_a_run_that_was_lost_is_not_taken_for_an_earlier_one_that_finished(
    home: ServerHome, tmp_path: Path
) -> None:
    tell(home, "run-finished")
    outcome = RunOutcome(home)
    with pytest.raises(FederationError, match="Ray ended without finishing"):
        outcome.check(what="Ray", log=tmp_path / "log")
    with home.events.open("ab") as file:
        file.write(b'{"event":"run-fini')
    with pytest.raises(FederationError, match="Ray ended without finishing"):
        outcome.check(what="Ray", log=tmp_path / "log")


def test_a_failed_relay_socket_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with (
        open_federation(tmp_path, fake_plan()) as federation,
        pytest.raises(InputError, match="longer"),
        engine_sockets(list(federation.engines.values())),
    ):
        pass
