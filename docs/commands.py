"""Writes ``docs/commands.md``: the ``--help`` text of every console command and sub-command.

Run it with ``make docs``. The width is fixed and colours are off, so that the page depends on the
commands alone; a test compares it with what the commands say.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# Read by rich and typer when they are imported.
os.environ.update(COLUMNS="100", LINES="50", TERM="dumb", NO_COLOR="1")
for _name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH"):
    os.environ.pop(_name, None)

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "commands.md"
_HEAD = """\
# Commands

What each command says about itself with `--help`. This page is written by `make docs`.
"""


def commands_page() -> str:
    """The page's whole text."""
    # Imported here, after the environment is set.
    from typer.main import get_command

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [_HEAD]
    for program, entry_point in sorted(project["scripts"].items()):
        module = importlib.import_module(entry_point.partition(":")[0])
        for path in _paths(get_command(module.app), (program,)):
            parts.append(f"## {' '.join(path)}\n\n```text\n{_help(module.app, path)}\n```\n")
    return "\n".join(parts)


def _paths(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The command itself, then all below it, each group before its commands."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _paths(below, (*path, name))


def _help(app: object, path: tuple[str, ...]) -> str:
    from typer.testing import CliRunner

    program, *sub_commands = path
    ended = CliRunner().invoke(app, [*sub_commands, "--help"], prog_name=program)  # type: ignore[arg-type]  # a typer app
    if ended.exit_code != 0:
        raise SystemExit(f"{' '.join(path)} --help ended with {ended.exit_code}: {ended.output}")
    return "\n".join(_trimmed(ended.output.splitlines()))


def _trimmed(lines: list[str]) -> Iterator[str]:
    """Lines without padding, and without blank ones around."""
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    yield from re.sub(r"\n{3,}", "\n\n", text).splitlines()


if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))
    if sys.argv[1:] == ["--stdout"]:
        sys.stdout.write(commands_page())
    else:
        _PAGE.write_text(commands_page(), encoding="utf-8")
