"""How much a process's memory grows while something is going on (Linux ``/proc``)."""

from __future__ import annotations

import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
#: Resets the peak, see proc(5).
_RESET_PEAK = "5"


class PeakMemory:
    """The growth of this process's resident memory to its peak."""

    def __init__(self) -> None:
        self._before: int | None = None

    def begin(self) -> None:
        """Forgets the peak till now; growth is measured from here."""
        gc.collect()
        _CLEAR.write_text(_RESET_PEAK)
        self._before = _resident_bytes("VmRSS")

    def grown_bytes(self) -> int | None:
        """By how many bytes the peak is above the beginning; None if it never began."""
        return None if self._before is None else _resident_bytes("VmHWM") - self._before


def _resident_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
