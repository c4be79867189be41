"""A command line, given as a user gives it, in the process of the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from client.engine.home import RegionHome

#: Exit code, output and error output.
Ran = tuple[int, str, str]
Command = Callable[..., Ran]


def command_line(
    main: Callable[[], object],
    *words: str,
    patch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    flat: bool = False,
) -> Command:
    """Gives what runs a command with further words; a region's home stands for its folder.

    Args:
        main: The program's entry point.
        words: The program, and the first words of the command.
        patch: The test's.
        capture: The test's.
        flat: Whether what is put out comes as one line, however a table or paragraph was broken.
    """
    patch.setenv("COLUMNS", "200")
    patch.setenv("NO_COLOR", "1")

    def run(*more: object) -> Ran:
        patch.setattr(sys, "argv", [*words, *map(_word, more)])
        # What fixtures and earlier commands have written is no part of it.
        capture.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code or 0
        output, errors = capture.readouterr()
        if flat:
            output, errors = (" ".join(each.split()) for each in (output, errors))
        return int(str(code)), output, errors

    return run


def _word(each: object) -> str:
    return str(each.root) if isinstance(each, RegionHome) else str(each)
