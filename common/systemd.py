"""Says to systemd what `common.supervision` says to supervisord: a unit file for each program.

A unit confines its process beyond what a user of its own does: it sees the whole file system
read-only but for the folders that it is given, gets no privilege it does not have, no device, no
kernel interface, and only the system calls of an ordinary service. It is started again for ever:
what it waits for, a lease of Flower's, a coordinator, room on a disk, comes back by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.durable_file import write_durably
from common.errors import InputError, StorageError
from common.supervision import Program

_UNIT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}\.service")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESTART = {"always": "always", "on-failure": "on-failure", "never": "no"}
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


@dataclass(frozen=True)
class Hardening:
    """What of the machine a process may use; all else is closed.

    Attributes:
        writable: Folders that it may write to.
        hidden: Folders and files that it does not even see.
        loopback_only: Whether it may talk to this machine alone, over IP.
        memory_max_bytes: The most memory it may use with all its children; None for no bound.
        extra_calls: System calls that it may use beyond an ordinary service's.
    """

    writable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    loopback_only: bool = False
    memory_max_bytes: int | None = None
    extra_calls: tuple[str, ...] = ()


def render_unit(
    program: Program,
    *,
    description: str,
    hardening: Hardening,
    after: Sequence[str] = (),
    environment_file: Path | None = None,
) -> str:
    """A unit file for a program.

    Args:
        program: What runs; it must have a user.
        description: One line.
        hardening: What of the machine it may use.
        after: Units that are to be started before it; it starts without them too.
        environment_file: More variables, if the file is there when the unit starts.

    Raises:
        InputError: The program has no user, or something cannot be written in systemd's syntax.
    """
    if program.user is None:
        raise InputError(
            f"The program {program.name} has no user to run as.",
            remedy="Name one in the settings; run this as root.",
        )
    template = Environment(
        loader=PackageLoader("common"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - no markup: each value is quoted for systemd
    ).get_template("unit.service.j2")
    return template.render(
        program=program,
        user=_line(program.user),
        description=_line(description).replace("%", "%%"),
        command=" ".join(_word(word, command=True) for word in program.command),
        environment=[_word(f"{name}={value}") for name, value in program.environment.items()],
        environment_file=None if environment_file is None else _path(environment_file),
        directory=_path(program.directory.absolute()),
        restart=_RESTART[program.restart],
        after=[_unit_name(name) for name in after],
        hardening=hardening,
        writable=[_word(str(path.absolute())) for path in hardening.writable],
        hidden=[_word(f"-{path.absolute()}") for path in hardening.hidden],
        protect_home="read-only" if _under_home(program) else "yes",
    )


def write_units(folder: Path, units: Mapping[str, str]) -> list[str]:
    """Writes unit files, and gives their names.

    Args:
        folder: Where, such as ``/etc/systemd/system``.
        units: The files by name.

    Raises:
        InputError: A name is none.
        StorageError: The folder cannot be written.
    """
    for name, text in units.items():
        try:
            write_durably(folder / _unit_name(name), text.encode(), mode=0o644)
        except OSError as error:
            raise StorageError(
                f"The unit {folder / name} cannot be written: {error.strerror}.",
                remedy="Run it as root, or name another folder with --into.",
            ) from error
    return list(units)


def _under_home(program: Program) -> bool:
    """Whether the program or its folder lies where systemd can hide all of it."""
    places = (Path(program.command[0]), program.directory.absolute())
    return any(place.is_relative_to(home) for place in places for home in _HOMES)


def _unit_name(name: str) -> str:
    if _UNIT_NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} is no name of a unit file of ours.")
    return name


def _line(text: str) -> str:
    if _CONTROL.search(text) is not None:
        raise InputError(f"{text!r} cannot be written in a unit file.")
    return text


def _path(path: Path) -> str:
    """A path where systemd takes the rest of the line; only its own expansions are escaped."""
    return _line(str(path)).replace("%", "%%")


def _word(text: str, *, command: bool = False) -> str:
    """A word in systemd's quotes; in a command ``$`` would be expanded too."""
    escaped = _line(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if command else escaped}"'
