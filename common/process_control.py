"""prctl(2) as our processes need it: what one says to the kernel about itself."""

from __future__ import annotations

import ctypes
import os
import signal

# Set by supervisord for what it starts.
_SUPERVISED_VARIABLE = "SUPERVISOR_ENABLED"
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def process_control(option: int, *arguments: int) -> None:
    """Calls prctl.

    Args:
        option: Which control.
        arguments: Up to four; the others are 0.

    Raises:
        OSError: As the kernel says.
    """
    library = ctypes.CDLL(None, use_errno=True)
    # Variadic: what is narrower than a register would leave garbage in its upper half.
    words = [ctypes.c_ulong(word) for word in (*arguments, *[0] * (4 - len(arguments)))]
    if library.prctl(ctypes.c_int(option), *words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    Args:
        parent: The process that should be our parent; if it is gone already, this one ends.
    """
    process_control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def end_with_supervisor() -> None:
    """Has the kernel kill this process when the supervisord that started it ends, killed or not.

    Otherwise a supervisor that was killed would leave processes that nobody knows of, with their
    ports and locks. Started by anything else, this does nothing.
    """
    if _SUPERVISED_VARIABLE in os.environ:
        end_with_parent(os.getppid())


def hide_memory() -> None:
    """Keeps other processes of the same user from reading or tracing this one."""
    process_control(_PR_SET_DUMPABLE, 0)


def renounce_privileges() -> None:
    """Nothing this process starts gains rights it does not have; cannot be taken back."""
    process_control(_PR_SET_NO_NEW_PRIVS, 1)
