"""Runs a command so that nothing it starts outlives it, or us.

Flower and Ray start processes that start processes, some in sessions of their own. This small
process stands above them as their reaper (Linux ``PR_SET_CHILD_SUBREAPER``): whoever loses a parent
becomes its child, and when the command ends, or our own parent does, it ends them all, by id.

It runs as a script, from any folder; use `supervised` from Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 5.0
_POLL_S = 0.05


@contextmanager
def supervised(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command while the body runs; afterwards it and all it started are gone.

    Args:
        command: The program and its arguments.
        environment: All its environment variables.
        folder: Its working directory.
        log: The file that its output is appended to.

    Yields:
        The supervising process; it ends with the command's exit code when the command ends.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # our own programs, no shell
            [sys.executable, "-P", __file__, *command],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A Ctrl-C is ours to handle: the body unwinds, then the command is ended.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=4 * _GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(command: Sequence[str]) -> int:
    """Runs the command, ends what it leaves, and gives its exit code."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, _leave)
    code = 1
    try:
        code = subprocess.Popen(command).wait()  # noqa: S603  # our own programs, no shell
    except SystemExit as leaving:
        code = int(str(leaving.code))
    finally:
        _end_descendants()
    return code if code >= 0 else 128 - code


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    # Only the first one interrupts: what follows is the clearing up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_descendants() -> None:
    """Asks every descendant to end, and after a grace ends those that did not."""
    deadline = time.monotonic() + _GRACE_S
    asked: set[int] = set()
    while descendants := _descendants(os.getpid()):
        overdue = time.monotonic() > deadline
        for process_id in descendants:
            if overdue or process_id not in asked:
                asked.add(process_id)
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL if overdue else signal.SIGTERM)
        _reap()
        time.sleep(_POLL_S)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(ancestor: int) -> list[int]:
    """Ids of all living processes below one, zombies too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # The name in parentheses may hold spaces; the parent's id is second after it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [ancestor]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
