"""Whether a run's coordinator is alive: by the very process, not by its number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StorageError
from server.coordinator_process import is_running, note_process, noted_process


def test_a_process_that_notes_itself_runs(tmp_path: Path) -> None:
    note_process(tmp_path / "process.json")
    process = noted_process(tmp_path / "process.json")
    assert process is not None
    assert process[0] == os.getpid()
    assert is_running(process)


def test_a_killed_process_does_not_run_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert is_running((child.pid, started))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running((child.pid, started))
    child.wait()
    assert not is_running((child.pid, started))


def test_another_process_of_the_same_number_is_not_it() -> None:
    assert not is_running((os.getpid(), "1"))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"pid":"1","started":"2"}', b'{"pid":true}'])
def test_a_note_that_is_none_names_no_process(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "process.json"
    assert noted_process(path) is None
    path.write_bytes(data)
    assert noted_process(path) is None


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"process\.json"):
        note_process(tmp_path / "gone" / "process.json")
