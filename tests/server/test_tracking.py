"""Tracked runs: TensorBoard's files say what the coordinator's log says, however often written."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from common.errors import InputError, StorageError
from server import tracking
from server.config import ServerHome
from server.run_figures import epsilon_after, update_bytes
from server.tracking import RunTracker, plan_text, run_settings
from tests.support.fake_federation import fake_plan, open_federation


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """The home of a finished run; read only."""
    with open_federation(tmp_path_factory.mktemp("finished"), fake_plan()) as opened:
        opened.run()
        return opened.home


def events(folder: Path) -> list[Event]:
    """What TensorBoard would read in one folder (records: length, its CRC, bytes, their CRC)."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Value and wall time of each scalar, by name and step; each once."""
    found = [
        ((value.tag, event.step), (value.simple_value, event.wall_time))
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_each_round_of_the_log_is_a_step(finished: ServerHome, tmp_path: Path) -> None:
    with RunTracker(finished, tmp_path) as tracker:
        assert tracker.read_on() == 3
        assert tracker.read_on() == 0
    plan = finished.read_plan()
    found = scalars(tmp_path / "run-1")
    for number in (1, 2, 3):
        mechanism = plan.mechanism_of(number)
        expected = {
            "privacy/epsilon_spent": epsilon_after(plan, number),
            "privacy/noise_multiplier": float(mechanism.noise_multiplier),
            "privacy/clipping_norm": float(mechanism.clipping_norm),
            "federation/regions_used": 3,
            "federation/regions_refused": 0,
            "cost/update_bytes": 3 * update_bytes(plan, mechanism.name),
        }
        for name, value in expected.items():
            assert found[name, number][0] == pytest.approx(value, rel=1e-6)
        assert found["cost/round_seconds", number][0] >= 0
    walls = [found["privacy/epsilon_spent", number][1] for number in (1, 2, 3)]
    assert walls == sorted(walls)


def test_tracked_again_the_run_looks_the_same(finished: ServerHome, tmp_path: Path) -> None:
    for _ in range(2):
        with RunTracker(finished, tmp_path) as tracker:
            tracker.read_on()
            tracker.conclude({"recall_at_10": 0.25})
        found = scalars(tmp_path / "run-1")
        assert found["quality/recall_at_10", 3][0] == 0.25
        assert len([name for name, _ in found if name == "privacy/epsilon_spent"]) == 3
        settings = scalars(tmp_path / "run-1" / "settings")
        assert settings["result/recall_at_10", 3][0] == 0.25
        assert settings["result/rounds_done", 3][0] == 3


def test_settings_are_those_of_the_plan(finished: ServerHome, tmp_path: Path) -> None:
    plan = finished.read_plan()
    assert run_settings(plan)["epsilon"] == float(plan.epsilon)
    assert run_settings(plan)["strategy"] == "factors"
    for mechanism in plan.mechanisms:
        assert f"| {mechanism.name} |" in plan_text(plan)
    with RunTracker(finished, tmp_path) as tracker:
        tracker.conclude({})
    texts = [
        value.tensor.string_val[0].decode()
        for event in events(tmp_path / "run-1")
        for value in event.summary.value
        if value.WhichOneof("value") == "tensor"
    ]
    assert texts == [plan_text(plan)]


def test_other_files_of_the_folder_stay(finished: ServerHome, tmp_path: Path) -> None:
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "notes.txt").write_text("mine")
    (tmp_path / "run-1" / "events.out.tfevents.1.old").write_text("an earlier tracker's")
    with RunTracker(finished, tmp_path):
        pass
    assert (tmp_path / "run-1" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run-1" / "events.out.tfevents.1.old").exists()


def test_a_run_is_followed_to_its_last_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FOLLOW_INTERVAL_S", 0.02)
    with open_federation(tmp_path / "run", fake_plan()) as federation:
        with RunTracker(federation.home, tmp_path / "board") as tracker:
            with tracker.following():
                federation.run()
    assert ("privacy/epsilon_spent", 3) in scalars(tmp_path / "board" / "run-1")


def test_a_run_that_fails_keeps_its_own_error(
    finished: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FOLLOW_INTERVAL_S", 60.0)
    with RunTracker(finished, tmp_path) as tracker:
        with pytest.raises(ZeroDivisionError), tracker.following():
            raise ZeroDivisionError
    with RunTracker(finished, tmp_path) as tracker:
        tracker.read_on()


def test_a_damaged_log_is_said_at_the_end(
    finished: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FOLLOW_INTERVAL_S", 0.01)
    shutil.copytree(finished.root, tmp_path / "server")
    home = ServerHome(tmp_path / "server")
    with RunTracker(home, tmp_path / "board") as tracker:
        with pytest.raises(StorageError), tracker.following():
            home.log.write_bytes(b"no database" * 100)


def test_a_folder_that_cannot_be_written_is_named(finished: ServerHome, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file")
    with pytest.raises(StorageError, match="cannot be tracked in") as refused:
        RunTracker(finished, tmp_path / "board")
    assert "--tensorboard" in refused.value.remedy


def test_without_tensorboardx_the_remedy_is_said(
    finished: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="not installed") as refused:
        RunTracker(finished, tmp_path)
    assert refused.value.remedy == "pip install 'fedpref[tracking]'"
