"""Reads a TOML file whole or not at all, with one message that says what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from common.errors import InputError


def read_toml(path: Path, what: str, *, max_bytes: int, remedy: str) -> dict[str, Any]:
    """Reads a file's tables.

    Args:
        path: The file.
        what: What it is, as a sentence begins with it: ``The data standards``.
        max_bytes: A longer file is refused, never cut.
        remedy: What to do about a file that is not there or cannot be read.

    Raises:
        InputError: It cannot be read, is too long, or is no TOML in UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be read: {error.strerror}.", remedy=remedy
        ) from error
    return parse_toml(data, path, what, max_bytes=max_bytes)


def parse_toml(data: bytes, path: Path | None, what: str, *, max_bytes: int) -> dict[str, Any]:
    """Reads the tables of what was read already, or is about to be written.

    Args:
        data: The bytes.
        path: Their file, for messages; None for none.
        what: What it is, as a sentence begins with it.
        max_bytes: Longer ones are refused.

    Raises:
        InputError: They are too long, or no TOML in UTF-8.
    """
    called = what if path is None else f"{what} {path}"
    if len(data) > max_bytes:
        raise InputError(
            f"{called} cannot be read: longer than {max_bytes:,} bytes.",
            remedy="Name another file, or shorten it.",
        )
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{called} cannot be read: not valid TOML: {error}.",
            remedy="Correct the line it names.",
        ) from error
