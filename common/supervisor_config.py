"""What a supervised program is, and how supervisord's configuration says it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError

Restart = Literal["always", "on-failure", "never"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,47}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_AUTORESTART = {"always": "true", "on-failure": "unexpected", "never": "false"}
# What supervisord's own reading of the file gives a meaning.
_UNSAFE = re.compile(r"[\x00-\x1f\"\\]")
# After each failed start supervisord waits a second longer; it never gives up, since what a
# program waits for (a lease of Flower's, a coordinator, a full disk) comes back by itself.
_START_RETRIES = 1_000_000
_LOG_BYTES = 10 << 20
_LOG_BACKUPS = 5


@dataclass(frozen=True)
class Program:
    """One process of a deployment.

    Attributes:
        name: Lower-case letters, digits and hyphens.
        command: The program and its arguments; the program by its absolute path.
        environment: All of its environment.
        user: Who it runs as, if its supervisor is root; None for the supervisor's own user.
        directory: Its working directory.
        restart: Whether it is started again when it ends: always, unless it ended with code 0, or
            never.
        start_seconds: For how long it must run to count as started, in seconds.
        stop_seconds: For how long it may take to end when asked, in seconds; then it is killed,
            with all processes of its group.
        stop_group: Whether its whole process group is asked to end, not only itself.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    user: str | None
    directory: Path
    restart: Restart
    start_seconds: float
    stop_seconds: int
    stop_group: bool = False


def require_name(name: str) -> str:
    """A program's name, which also names files.

    Raises:
        InputError: It is not lower-case letters, digits and hyphens.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} is no name of a program.",
            remedy="Use lower-case letters, digits and hyphens, beginning with a letter.",
        )
    return name


def render_config(programs: Sequence[Program], *, folder: Path, logs: Path, socket: Path) -> str:
    """The whole of supervisord's configuration.

    Args:
        programs: What it runs, in the order of starting.
        folder: Where its own files lie.
        logs: Where the programs' logs lie.
        socket: The Unix socket it is asked on.

    Raises:
        InputError: Two programs have one name, or something cannot be written in its syntax.
    """
    names = [require_name(program.name) for program in programs]
    if len(set(names)) < len(names):
        raise InputError("Two programs have the same name.", remedy="Name each differently.")
    as_root = os.geteuid() == 0
    sections = [_supervisor_section(folder, socket, as_root)]
    for place, program in enumerate(programs):
        sections.append(_program_section(program, place, logs, as_root))
    return "\n".join(sections)


def _supervisor_section(folder: Path, socket: Path, as_root: bool) -> str:
    lines = [
        "[unix_http_server]",
        f"file = {_text(str(socket))}",
        "chmod = 0700",
        "",
        "[supervisord]",
        f"logfile = {_text(str(folder / 'supervisord.log'))}",
        f"logfile_maxbytes = {_LOG_BYTES}",
        "logfile_backups = 1",
        f"pidfile = {_text(str(folder / 'run' / 'supervisord.pid'))}",
        f"childlogdir = {_text(str(folder))}",
        f"directory = {_text(str(folder))}",
        "umask = 077",
        # Without this it warns at each start that it might drop root and does not.
        *(["user = root"] if as_root else []),
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
    ]
    return "\n".join(lines)


def _program_section(program: Program, place: int, logs: Path, as_root: bool) -> str:
    environment = ",".join(
        f'{_variable(name)}="{_text(value)}"' for name, value in program.environment.items()
    )
    lines = [
        f"[program:{program.name}]",
        f"command = {_command(program.command)}",
        f"directory = {_text(str(program.directory.absolute()))}",
        f"environment = {environment}",
        f"priority = {place + 1}",
        f"autorestart = {_AUTORESTART[program.restart]}",
        "exitcodes = 0",
        f"startsecs = {max(1, round(program.start_seconds))}",
        f"startretries = {_START_RETRIES if program.restart != 'never' else 0}",
        f"stopwaitsecs = {program.stop_seconds}",
        f"stopasgroup = {'true' if program.stop_group else 'false'}",
        "killasgroup = true",
        f"stdout_logfile = {_text(str(logs / f'{program.name}.log'))}",
        f"stdout_logfile_maxbytes = {_LOG_BYTES}",
        f"stdout_logfile_backups = {_LOG_BACKUPS}",
        "redirect_stderr = true",
    ]
    if as_root and program.user is not None:
        lines.append(f"user = {_text(program.user)}")
    return "\n".join(lines) + "\n"


def _command(command: Sequence[str]) -> str:
    if not command or not Path(command[0]).is_absolute():
        raise InputError("A supervised program is named by its absolute path.")
    return " ".join(shlex.quote(_text(word)) for word in command)


def _variable(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise InputError(f"{name!r} is no name of an environment variable that we set.")
    return name


def _text(value: str) -> str:
    """A value as the file has it: it must not be able to begin a line, a quote or an expansion."""
    if _UNSAFE.search(value) is not None:
        raise InputError(
            f"{value!r} cannot be written in supervisord's configuration.",
            remedy="Use a path without quotes, backslashes and control characters.",
        )
    # A semicolon after a space begins a comment.
    if " ;" in value:
        raise InputError(f"{value!r} cannot be written in supervisord's configuration.")
    return value.replace("%", "%%")
