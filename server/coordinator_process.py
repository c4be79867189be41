"""Which process coordinates a run: noted by itself, so that its death is seen at once.

Flower notices that a ServerApp is gone a minute after its last sign of life. The dispatcher looks
at the process, and starts the run again within seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import canonical_json
from common.errors import FormatError, StorageError

_ZOMBIE = "Z"


def note_process(path: Path) -> None:
    """Writes down that this process coordinates the run.

    Raises:
        StorageError: The disk is full or refuses.
    """
    record = canonical_json.encode({"pid": os.getpid(), "started": _started(os.getpid())[0]})
    try:
        # No more durable than the process: after a power cut neither is there.
        path.write_bytes(record)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def noted_process(path: Path) -> tuple[int, str] | None:
    """The process that was noted, by id and the moment it started; None if none was."""
    try:
        record = canonical_json.decode(path.read_bytes())
    except (OSError, FormatError):
        return None
    if not isinstance(record, dict):
        return None
    pid, started = record.get("pid"), record.get("started")
    return (pid, started) if type(pid) is int and type(started) is str else None


def is_running(process: tuple[int, str]) -> bool:
    """Whether it is still that process that runs under this id, and not a later one."""
    started, state = _started(process[0])
    return started == process[1] and state != _ZOMBIE


def _started(pid: int) -> tuple[str, str]:
    """When a process started, in the machine's ticks, and its state; both empty if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "", ""
    # The second field is the program's name in parentheses, which may have spaces in it.
    state, *rest = fields.rpartition(")")[2].split()
    return rest[18], state
