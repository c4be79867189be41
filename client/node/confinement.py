"""Confines a process before it runs a bundle's code: limits, then files, then system calls.

| wall | what it keeps out | where it is |
|---|---|---|
| resource limits | more memory, processor time, files than a relay needs | everywhere |
| Landlock | reading the host's files, writing any, TCP, signals | Linux from 5.13 on |
| seccomp filter | making or connecting sockets, programs, processes, tracing | every Linux in use |

It works without root, and nothing of it can be taken off again by the process itself.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from client.node.landlock import landlock_version, restrict_files
from client.node.syscall_filter import install_filter
from common.process_control import renounce_privileges

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")
_OPEN_FILES = 64


@dataclass(frozen=True)
class Limits:
    """What a bundle may use for one message.

    Attributes:
        memory_bytes: Of address space, beyond what the process has before the bundle is loaded.
        processor_s: Of processor time, in seconds.
        wall_s: Of time, in seconds; whoever started the process ends it then.
    """

    memory_bytes: int = 2 << 30
    processor_s: int = 300
    wall_s: float = 3900.0


def confine(bundle: Path, limits: Limits) -> None:
    """Confines this process for good.

    Args:
        bundle: The folder of the bundle it is going to run.
        limits: What it may use.

    Raises:
        InputError: The system call filter cannot be installed.
        OSError: The kernel refuses what it says it has.
    """
    _limit(resource.RLIMIT_AS, _address_space_bytes() + limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, _processor_s() + limits.processor_s)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    # Pipes and sockets are no files in this sense.
    _limit(resource.RLIMIT_FSIZE, 0)
    renounce_privileges()
    if landlock_version():
        restrict_files(readable_paths(bundle), [Path("/dev/null")])
    install_filter()


def readable_paths(bundle: Path) -> list[Path]:
    """What a Python process reads while it runs: its own libraries, the system's, the bundle."""
    ours = {sys.prefix, sys.base_prefix, *(entry for entry in sys.path if entry)}
    paths = [Path(entry).resolve() for entry in ours]
    return [bundle, *paths, *map(Path, _SYSTEM_LIBRARIES), *map(Path, _SYSTEM_FILES)]


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _processor_s() -> int:
    # A child of a fork starts at zero; a test in process does not.
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime)
