"""A PostgreSQL server of one's own: started here, on a socket of its own, without any network."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        folder: The folder of its socket.
    """

    folder: Path

    def url(self, user: str = "reader") -> str:
        """The URL for a user of it."""
        return f"postgresql://{user}@/postgres?host={self.folder}"

    def dsn(self, user: str = "owner") -> str:
        """The same as libpq writes it."""
        return f"host={self.folder} user={user} dbname=postgres"


def _programs() -> Path:
    """Where the server's programs are; on Debian they are not on the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        raise RuntimeError(
            "A PostgreSQL server is needed, and there is no initdb: install the package postgresql "
            "(apt-get install postgresql)."
        )
    return installed[-1].parent


def _unprivileged_user() -> str:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return getpass.getuser()
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Machine:
    """A server's folder and programs: it can be started and stopped several times."""

    def __init__(self) -> None:
        self._programs, self._user = _programs(), _unprivileged_user()
        # Socket paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, self._user)
        self._data = str(self.folder / "data")
        self._run("initdb", "-D", self._data, "-U", "owner", "-A", "trust", "-N", "-E", "UTF8")

    def start(self) -> Server:
        """Starts it, in a time zone that is nobody's."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c timezone=Asia/Tokyo"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")
        return Server(self.folder)

    def stop(self) -> None:
        """Stops it at once."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user if os.geteuid() == 0 else None,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr + done.stdout)


@contextmanager
def running_server() -> Iterator[Server]:
    """A server for as long as it is needed."""
    machine = Machine()
    try:
        yield machine.start()
    finally:
        machine.stop()
        machine.remove()
