"""What every process of a deployment has in its environment, and nothing else of its caller's.

Flower's telemetry, its look for newer versions and its installing of what a bundle asks for would
each talk to somebody outside; here they are off, in this one place.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Flower's and Ray's calls home, and Flower's ``pip install`` of a bundle's dependencies, are off.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")


def quiet_environment() -> dict[str, str]:
    """The variables that keep Flower from talking to anyone but its peers."""
    return dict(QUIET)


def be_quiet() -> None:
    """Sets them in this process; before flwr is imported, which reads them then."""
    os.environ.update(QUIET)


def process_environment(home: Path, *, first_on_path: Path | None = None) -> dict[str, str]:
    """A whole environment for one of our processes: short, and the same however it is started.

    Args:
        home: Where programs keep files of their own; Flower's lie in ``.flwr`` in it.
        first_on_path: A folder whose programs win over those installed.
    """
    folders = [str(first_on_path)] if first_on_path is not None else []
    folders += [str(Path(sys.executable).parent), *_SYSTEM_PATH]
    return {
        **QUIET,
        "FLWR_HOME": str(home / ".flwr"),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": ":".join(folders),
        "PYTHONUNBUFFERED": "1",
        # Arithmetic threads of a process that has none to do would only contend with the engine's.
        "OMP_NUM_THREADS": "1",
    }
