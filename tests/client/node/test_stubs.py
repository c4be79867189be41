"""Whatever Flower could start for a task refuses, and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from client.node.stubs import PROGRAMS, write_stubs
from common.errors import StorageError


def test_every_program_that_flower_starts_has_a_stub() -> None:
    assert set(TASK_TYPE_TO_COMMAND.values()) <= set(PROGRAMS)


def test_a_stub_refuses_with_the_code_for_what_is_not_permitted(tmp_path: Path) -> None:
    write_stubs(tmp_path / "bin")
    for name in PROGRAMS:
        ended = subprocess.run([tmp_path / "bin" / name, "--token", "x"], capture_output=True)
        assert ended.returncode == 7
        assert f"no {name} here" in ended.stderr.decode()
        assert (tmp_path / "bin" / name).stat().st_mode & 0o777 == 0o755


def test_what_lies_there_by_a_stubs_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "flwr-clientapp").write_text("#!/bin/sh\nexit 0\n")
    write_stubs(tmp_path)
    assert subprocess.run([tmp_path / "flwr-clientapp"], capture_output=True).returncode == 7


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="stubs"):
        write_stubs(tmp_path / "file" / "bin")
