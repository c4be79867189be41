"""Room on a disk, for whoever writes durably."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Below this a round's charge, seal or model, with their log entries, may not fit, in bytes.
FREE_DISK_MIN_BYTES = 256 << 20


def disk_check(folder: Path) -> str | None:
    """None if the folder's disk has room for what must be written durably, else ``full``."""
    return None if shutil.disk_usage(folder).free >= FREE_DISK_MIN_BYTES else "full"
