"""What a fuzz target is: a parser of foreign bytes, and what must be true of its every answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import FedprefError

#: More processor time than any one input may take, in seconds.
MAX_CPU_S = 5.0


@dataclass(frozen=True)
class Target:
    """One parser under test.

    Attributes:
        name: Its name on the command line.
        check: Reads the bytes; may raise `FedprefError`, as the parser does. Any other exception is
            a finding, an `AssertionError` among them: of two answers that contradict each other.
        seeds: Gives inputs that our own writers made; `check` accepts each of them.
        head_bytes: How many first bytes choose something, before the format itself begins.
        max_bytes: The longest input that is tried.
        runs: How many inputs the quick test tries: about half a second's worth.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    head_bytes: int = 0
    max_bytes: int = 1 << 16
    runs: int = 1000


def attempt(target: Target, data: bytes) -> bool:
    """Gives one input to a target.

    Returns:
        Whether it was accepted; False if it was refused as it should be.

    Raises:
        Exception: The finding, whatever it is.
    """
    started_s = time.process_time()
    try:
        target.check(data)
    except FedprefError as refusal:
        if not refusal.message:
            raise AssertionError("a refusal says nothing") from refusal
        return False
    finally:
        spent_s = time.process_time() - started_s
        if spent_s > MAX_CPU_S:
            raise AssertionError(f"{len(data)} bytes took {spent_s:.1f} s")
    return True


def same(written: object, read: object) -> None:
    """What a canonical format promises: the value gives back the bytes it was read from."""
    if written != read:
        raise AssertionError(f"accepted, but written back as {written!r:.500}, not {read!r:.500}")


def memory_folder() -> Path | None:
    """Where files cost least, if there is such a place and nothing else was asked for."""
    memory = Path("/dev/shm")
    usable = "TMPDIR" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK)
    return memory if usable else None
