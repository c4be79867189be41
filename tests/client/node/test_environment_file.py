"""The engine's own variables: NAME=value, its owner's alone, and no message that repeats one."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node.environment_file import read_environment
from common.errors import InputError


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_lines_are_variables_and_comments_are_not(tmp_path: Path) -> None:
    path = written(
        tmp_path / "engine.env",
        "# of the store\n\nSTORE_URL=postgresql://u:p%40ss@db/shop?a=b\n  PIN=12 34  \nEMPTY=\n",
    )
    assert read_environment(path) == {
        "STORE_URL": "postgresql://u:p%40ss@db/shop?a=b",
        "PIN": "12 34",
        "EMPTY": "",
    }


def test_without_the_file_there_are_none(tmp_path: Path) -> None:
    assert read_environment(tmp_path / "engine.env") == {}


@pytest.mark.parametrize("line", ["secret", "lower=secret", 'A="secret"', "A=se\\cret", "=secret"])
def test_a_line_that_is_none_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "engine.env", f"A=1\n{line}\n")
    with pytest.raises(InputError, match="line 2") as caught:
        read_environment(path)
    assert "secret" not in str(caught.value)


def test_variables_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "engine.env", "A=1\n", 0o640)
    with pytest.raises(InputError, match="chmod 0600"):
        read_environment(path)


def test_a_file_that_is_too_long_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than"):
        read_environment(written(tmp_path / "long", "A=" + "x" * 70_000))
    with pytest.raises(InputError, match="cannot be read"):
        read_environment(tmp_path)
