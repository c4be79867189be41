"""Runs a deployment's processes without systemd: under a supervisord of its own, in one folder.

supervisord (PyPI ``supervisor``) starts the programs, each as its user, starts them again when they
end, and turns their logs over. It is asked over its XML-RPC interface on a Unix socket that only
its own user can open. What a program is, `common.systemd` can say to systemd as well.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xmlrpc.client
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from common.errors import InputError, StorageError
from common.supervisor_config import Program, render_config, require_name

__all__ = ["Program", "ProgramState", "Supervised"]

_RUNNING = "RUNNING"
#: States in which a program neither runs nor is on its way there by itself.
_ENDED = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})
_SETTLED = _ENDED | {_RUNNING, "BACKOFF"}
_SPAWN_TIMEOUT_S = 30.0
_GRACE_S = 10.0
_POLL_S = 0.1
_MAX_LOG_TAIL_BYTES = 4 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# A Unix socket's address has 108 bytes; supervisord first binds a name some bytes longer.
_MAX_SOCKET_BYTES = 90


@dataclass(frozen=True)
class ProgramState:
    """How one program is.

    Attributes:
        name: The program's name.
        state: supervisord's word: ``RUNNING``, ``STARTING``, ``BACKOFF`` (ended at once, and is
            started again), ``STOPPED``, ``EXITED``, ``FATAL``.
        pid: Its process id, or None.
        up_s: For how long it runs, in seconds; 0 if it does not.
        detail: supervisord's sentence about it.
    """

    name: str
    state: str
    pid: int | None
    up_s: int
    detail: str

    @property
    def running(self) -> bool:
        """Whether it has run for as long as it takes to count as started."""
        return self.state == _RUNNING


class Supervised:
    """The processes of one deployment.

    Args:
        folder: Where supervisord's configuration, its socket (``run/supervisor.sock``) and its own
            log lie; made when needed, open to its owner alone.
        logs: Where the programs' logs lie, ``NAME.log`` each; by default ``folder/logs``.
    """

    def __init__(self, folder: Path, *, logs: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._logs = (logs if logs is not None else folder / "logs").absolute()

    @property
    def socket(self) -> Path:
        """The supervisor's socket."""
        return self._folder / "run" / "supervisor.sock"

    def running(self) -> bool:
        """Whether the supervisor itself answers."""
        return self._ask("getState", required=False) is not None

    def start(self, programs: Sequence[Program]) -> list[ProgramState]:
        """Runs exactly these programs, and waits until each has started or failed to.

        Programs that run already as they are declared are left alone; others of this folder are
        stopped.

        Args:
            programs: What to run, in the order of starting.

        Returns:
            How each is, in the same order.

        Raises:
            InputError: A program cannot be declared to supervisord, or it refuses to start.
            StorageError: The folder cannot be written.
        """
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_BYTES:
            raise InputError(
                f"The socket path {self.socket} is longer than {_MAX_SOCKET_BYTES} bytes.",
                remedy="Choose a folder with a shorter path.",
            )
        self._write_config(programs)
        if self.running():
            self._apply_config()
        else:
            self._spawn()
        for state in self.status():
            if state.state in _ENDED:
                self._ask("startProcess", state.name, False)
        return self._settled([program.name for program in programs], programs)

    def status(self) -> list[ProgramState]:
        """How the programs are; empty if the supervisor does not run."""
        answer = self._ask("getAllProcessInfo", required=False)
        return [_state_of(info) for info in answer] if answer is not None else []

    def stop(self) -> bool:
        """Stops all programs, in the reverse of the order they were started in, and the supervisor.

        Returns:
            Whether it ran.

        Raises:
            StorageError: It does not end.
        """
        pid = self._ask("getPID", required=False)
        if pid is None:
            return False
        # Asked before: a supervisor that is shutting down answers nothing.
        longest_s = self._longest_stop_s()
        self._ask("shutdown", required=False)
        deadline = time.monotonic() + longest_s + _GRACE_S
        while _alive(pid):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"The supervisor in {self._folder} (process {pid}) does not stop.",
                    remedy=f"Look at {self._folder / 'supervisord.log'}.",
                )
            time.sleep(_POLL_S)
        return True

    def logs(self, name: str, lines: int) -> list[str]:
        """The last lines a program put out.

        Args:
            name: The program.
            lines: How many at most.

        Raises:
            InputError: There is no such log.
        """
        path = self.log_path(name)
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_LOG_TAIL_BYTES))
                tail = deque(file, maxlen=lines)
        except OSError as error:
            raise InputError(
                f"The log {path} cannot be read: {error.strerror}.",
                remedy="Name a program that was started here.",
            ) from error
        # What others sent may be among it: it must not be able to steer a terminal.
        return [_CONTROL.sub("\N{REPLACEMENT CHARACTER}", _decoded(line)) for line in tail]

    def log_path(self, name: str) -> Path:
        """Where a program's log lies."""
        return self._logs / f"{require_name(name)}.log"

    def _write_config(self, programs: Sequence[Program]) -> None:
        config = render_config(programs, folder=self._folder, logs=self._logs, socket=self.socket)
        path = self._folder / "supervisord.conf"
        try:
            for folder in (self._folder, self.socket.parent, self._logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It may hold a path of a secret, never a secret; all the same it is nobody else's.
            path.touch(mode=0o600)
            path.write_text(config, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror}.",
                remedy="Mend the folder's owner and mode, or make room.",
            ) from error

    def _spawn(self) -> None:
        # supervisord goes into the background by itself once it has bound its socket.
        config = self._folder / "supervisord.conf"
        command = [sys.executable, "-I", "-m", "supervisor.supervisord", "-c", str(config)]
        try:
            ended = subprocess.run(  # noqa: S603  # our own program, no shell
                command,
                cwd=self._folder,
                env={"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SPAWN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._unanswered() from error
        if ended.returncode != 0:
            words = (ended.stderr + ended.stdout).decode(errors="replace").strip()
            raise InputError(
                f"supervisord refuses to start: {words[-500:]}",
                remedy=f"Correct what it names; its configuration is {config}.",
            )
        deadline = time.monotonic() + _SPAWN_TIMEOUT_S
        while not self.running():
            if time.monotonic() > deadline:
                raise self._unanswered()
            time.sleep(_POLL_S)

    def _unanswered(self) -> StorageError:
        return StorageError(
            f"supervisord does not answer on {self.socket}.",
            remedy=f"Look at {self._folder / 'supervisord.log'}, and at what is in that place.",
        )

    def _apply_config(self) -> None:
        """Makes a running supervisord follow its rewritten configuration."""
        ((added, changed, removed),) = self._ask("reloadConfig")
        for name in (*removed, *changed):
            self._ask("stopProcessGroup", name)
            self._ask("removeProcessGroup", name)
        for name in (*changed, *added):
            self._ask("addProcessGroup", name)

    def _settled(self, names: Sequence[str], programs: Sequence[Program]) -> list[ProgramState]:
        longest_s = max((program.start_seconds for program in programs), default=0.0)
        deadline = time.monotonic() + longest_s + _GRACE_S
        while True:
            states = {state.name: state for state in self.status()}
            if all(states[name].state in _SETTLED for name in names if name in states):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        return [states[name] for name in names if name in states]

    def _longest_stop_s(self) -> float:
        infos = self._ask("getAllConfigInfo", required=False)
        return float(sum(info["stopwaitsecs"] for info in infos)) if infos is not None else 0.0

    def _ask(self, method: str, *arguments: object, required: bool = True) -> Any:
        """Asks supervisord one thing; None if it does not answer and need not.

        Raises:
            StorageError: It does not answer, or refuses.
        """
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            if not required:
                return None
            raise StorageError(
                f"The supervisor in {self._folder} does not do {method}: {error}.",
                remedy=f"Look at {self._folder / 'supervisord.log'}.",
            ) from error
        finally:
            transport.close()


def _state_of(info: dict[str, Any]) -> ProgramState:
    running = info["statename"] == _RUNNING
    return ProgramState(
        name=str(info["name"]),
        state=str(info["statename"]),
        pid=int(info["pid"]) or None,
        up_s=max(0, int(info["now"]) - int(info["start"])) if running else 0,
        detail=str(info["description"]),
    )


def _decoded(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\n")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
