"""The queue of runs: files that outlive every process, in the order of submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError, UsageError
from server import queue
from server.deployment import Deployment
from server.queue import Queued


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    found = Deployment(tmp_path)
    found.queue.mkdir(parents=True)
    for run in ("first", "second", "third"):
        found.home(run).folder.mkdir(parents=True)
        found.home(run).plan.write_bytes(b"{}")
    return found


def test_runs_are_queued_in_the_order_of_submission(deployment: Deployment) -> None:
    made = [queue.submit(deployment, run) for run in ("second", "first")]
    assert [each.number for each in made] == [1, 2]
    assert queue.read_queue(deployment) == made
    assert queue.queued(deployment) == 2
    assert queue.find(deployment, 2).run == "first"


def test_a_run_is_in_it_once_and_may_come_again(deployment: Deployment) -> None:
    entry = queue.submit(deployment, "first")
    with pytest.raises(InputError, match="in the queue already"):
        queue.submit(deployment, "first")
    queue.update(deployment, entry, state="failed", reason="The disk is full.")
    assert queue.submit(deployment, "first").number == 2


def test_what_was_not_planned_is_not_queued(deployment: Deployment) -> None:
    with pytest.raises(InputError, match="has no plan") as caught:
        queue.submit(deployment, "fourth")
    assert "first, second, third" in caught.value.remedy
    for name in ("", "../first", "First", "a" * 49, "-"):
        with pytest.raises(UsageError):
            queue.require_run_name(name) and deployment.home(name)


def test_an_entry_is_read_as_it_was_written(deployment: Deployment) -> None:
    entry = queue.submit(deployment, "first")
    changed = queue.update(
        deployment,
        entry,
        state="running",
        started_at="2026-01-01T00:00:00.000Z",
        attempt_at="2026-01-01T00:00:00.000Z",
        attempts=3,
        flower_run=2**63 + 11,
        reason="It was killed.",
    )
    assert queue.read_queue(deployment) == [changed]
    assert changed.active


def test_a_stop_is_asked_for_and_forgotten_with_the_end(deployment: Deployment) -> None:
    entry = queue.submit(deployment, "first")
    assert not queue.stop_requested(deployment, entry)
    queue.request_stop(deployment, "first")
    assert queue.stop_requested(deployment, entry)
    queue.update(deployment, entry, state="stopped")
    assert not queue.stop_requested(deployment, entry)
    with pytest.raises(InputError, match="not in the queue"):
        queue.request_stop(deployment, "first")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"v":"fedpref-queued/1"}', b"\xff" * 9, b'{"v":1}']
)
def test_a_file_that_is_no_submission_is_named(deployment: Deployment, data: bytes) -> None:
    (deployment.queue / "000001-first.json").write_bytes(data)
    with pytest.raises(InputError, match=r"000001-first\.json is malformed"):
        queue.read_queue(deployment)


def test_two_who_submit_at_once_get_two_numbers(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = queue.read_queue
    raced = iter([True])

    def late(where: Deployment) -> list[Queued]:
        found = plain(where)
        if next(raced, False):
            # Another process puts its run in after we have looked.
            other = Queued(1, "second", "waiting", "2026-01-01T00:00:00.000Z")
            queue.update(where, other)
        return found

    monkeypatch.setattr(queue, "read_queue", late)
    assert queue.submit(deployment, "first").number == 2
    assert [(each.number, each.run) for each in plain(deployment)] == [(1, "second"), (2, "first")]
