"""What a bundle prints: kept in the relay's log, marked as the bundle's, and so much and no more.

A bundle may print what it likes, also what looks like a line of the relay's own, or what steers the
terminal of whoever reads the log, or without end.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import TextIO

MARK = "bundle: "
MAX_LINE_CHARACTERS = 4096
#: How much of one message's output is kept.
MAX_BYTES = 64 << 10

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_PIECE_BYTES = 1 << 16


class BundleOutput:
    """Copies what comes out of a pipe, line by line, until its other end is closed.

    Args:
        descriptor: The pipe's reading end; closed at the end.
        sink: Where the lines go; standard error by default.
    """

    def __init__(self, descriptor: int, sink: TextIO | None = None) -> None:
        self._descriptor = descriptor
        self._sink = sink
        self._left = MAX_BYTES
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._copy, name="bundle-output", daemon=True)
        self._thread.start()

    def begin_message(self) -> None:
        """Lets the next message's output have its full measure."""
        with self._lock:
            self._left = MAX_BYTES

    def join(self, timeout_s: float) -> None:
        """Waits till all is copied, after the other end is closed.

        Args:
            timeout_s: For how long at most, in seconds.
        """
        self._thread.join(timeout_s)

    def _copy(self) -> None:
        rest = b""
        with os.fdopen(self._descriptor, "rb", buffering=0) as pipe:
            # It is read whether or not it is kept: a full pipe would hold the bundle up.
            while piece := pipe.read(_PIECE_BYTES):
                *lines, rest = (rest + self._within(piece)).split(b"\n")
                for line in lines:
                    self._tell(line)
                if len(rest) > MAX_LINE_CHARACTERS:
                    self._tell(rest)
                    rest = b""
        if rest:
            self._tell(rest)

    def _within(self, piece: bytes) -> bytes:
        """As much of a piece as is kept; what goes beyond is said once."""
        with self._lock:
            had, self._left = self._left, max(0, self._left - len(piece))
        if len(piece) <= had:
            return piece
        return piece[:had] + b"\n(and more, which was not kept)\n" if had else b""

    def _tell(self, line: bytes) -> None:
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", line.decode(errors="replace"))
        for start in range(0, max(len(text), 1), MAX_LINE_CHARACTERS):
            sink = sys.stderr if self._sink is None else self._sink
            sink.write(f"{MARK}{text[start : start + MAX_LINE_CHARACTERS]}\n")
            sink.flush()
