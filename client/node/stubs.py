"""Stubs for every program that Flower starts for a task: each refuses, and says so.

Nothing in a region starts them. Should anything come to, a newer Flower or a hand at the keyboard,
it finds these first on the PATH.
"""

from __future__ import annotations

from pathlib import Path

from common.durable_file import write_durably
from common.errors import StorageError

#: What Flower 1.41 starts for its kinds of tasks, and what starts them.
PROGRAMS = (
    "flower-superexec",
    "flwr-agentapp",
    "flwr-clientapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
_EXIT_CODE = 7  # Not permitted by policy, as everywhere in this project.
_STUB = """#!/bin/sh
echo "fedpref: no $(basename "$0") here; only \\`fedpref-region relay\\` takes tasks." >&2
exit {code}
"""


def write_stubs(folder: Path) -> None:
    """Writes the stubs, whatever was there by their names.

    Args:
        folder: Where; made if it is not there.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in PROGRAMS:
            write_durably(folder / name, _STUB.format(code=_EXIT_CODE).encode(), mode=0o755)
            # The mode at creation is subject to the umask.
            (folder / name).chmod(0o755)
    except OSError as error:
        raise StorageError(
            f"The stubs in {folder} cannot be written: {error.strerror}.",
            remedy="Mend the folder's owner and mode, or make room.",
        ) from error
