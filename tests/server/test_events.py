"""Events: whole lines, each there at once, whatever a kill left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import StorageError
from server.events import EventWriter


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_event_can_be_read_while_the_run_is_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, "run-1") as events:
        events.write("round-started", round=1, mechanism="popularity")
        (event,) = lines(path)
        assert {key: event[key] for key in ("event", "run", "round", "mechanism")} == {
            "event": "round-started",
            "run": "run-1",
            "round": 1,
            "mechanism": "popularity",
        }
        assert str(event["time"]).endswith("Z")


def test_a_resumed_run_appends_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, "run-1") as events:
        events.write("round-started", round=1)
    with path.open("ab") as file:
        file.write(b'{"event":"region-rep')
    with EventWriter(path, "run-1") as events:
        events.write("round-started", round=2)
    assert [event["round"] for event in lines(path)] == [1, 2]


def test_a_file_that_is_all_torn_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event"')
    with EventWriter(path, "run-1") as events:
        events.write("run-finished")
    assert [event["event"] for event in lines(path)] == ["run-finished"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        EventWriter(tmp_path / "nowhere" / "events.jsonl", "run-1")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    link = tmp_path / "events.jsonl"
    with EventWriter(link, "run-1") as events:
        events._file.close()
        events._file = full.open("wb")
        with pytest.raises(StorageError, match="No space left"):
            events.write("round-started", round=1)
        events._file = link.open("ab")
