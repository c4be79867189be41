"""TOML files are read whole or refused in words: never cut, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from common.toml_file import parse_toml, read_toml


def read(path: Path, max_bytes: int = 64) -> object:
    return read_toml(path, "The settings", max_bytes=max_bytes, remedy="Write them.")


def test_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("a = 1\n[b]\nc = 'ü'\n", encoding="utf-8")
    assert read(path) == {"a": 1, "b": {"c": "ü"}}


def test_a_file_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    # Cut after so many bytes it would be valid, and say less than it says.
    path = tmp_path / "a.toml"
    path.write_text("a = 1\n" * 1 + "#" * 57 + "\nb = 2\n", encoding="utf-8")
    assert path.stat().st_size > 64
    with pytest.raises(InputError, match=r"The settings .*a\.toml cannot be read: longer than 64"):
        read(path)
    assert read(path, 1 << 10) == {"a": 1, "b": 2}


@pytest.mark.parametrize("content", [b"= 1", b"\xff", b"a = " + b"[" * 5000])
def test_what_is_no_toml_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not valid TOML"):
        read(path, 1 << 16)


def test_bytes_are_read_as_a_file_is_and_need_none() -> None:
    assert parse_toml(b"a = 1", None, "The answer", max_bytes=64) == {"a": 1}
    for data, said in ((b"= 1", "not valid TOML"), (b"#" * 65, "longer than 64")):
        with pytest.raises(InputError, match=f"The answer cannot be read: {said}"):
            parse_toml(data, None, "The answer", max_bytes=64)
        with pytest.raises(InputError, match=rf"The answer a\.toml cannot be read: {said}"):
            parse_toml(data, Path("a.toml"), "The answer", max_bytes=64)


def test_what_is_not_there_has_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as refused:
        read(tmp_path / "none.toml")
    assert refused.value.remedy == "Write them."
