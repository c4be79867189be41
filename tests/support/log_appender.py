"""Appends to a log until it is killed, and says on its standard output what was acknowledged.

Run as ``python -m tests.support.log_appender LOG ORIGIN``; each line is a size and its root.
"""

from __future__ import annotations

import sys
from itertools import count

from common.audit.log import AuditLog
from tests.support.memory_signer import MemorySigner


def batch_at(start: int) -> list[bytes]:
    """The batch that follows ``start`` entries: sizes that cross the tiles' borders."""
    width = [1, 2, 3, 61][start % 4]
    return [entry_at(index) for index in range(start, start + width)]


def entry_at(index: int) -> bytes:
    return b"entry %d " % index + b"." * (index % 700)


def main(path: str, origin: str) -> None:
    with AuditLog.open(path, origin=origin, signer=MemorySigner("log"), create=True) as log:
        for _ in count():
            log.append(batch_at(log.size))
            sys.stdout.write(f"{log.size} {log.root.hex()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
