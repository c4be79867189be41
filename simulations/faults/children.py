"""Processes forked for one life each, which tell what happens to them in JSON lines.

The forking process must have no threads: a fork copies their locks as they happen to be. Everything
is imported before the first fork, so that a life costs as little as opening what it opens.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from common.errors import FederationError

Told = dict[str, Any]
_PR_SET_PDEATHSIG = 1
_PIECE_BYTES = 1 << 16


class Teller:
    """A child's way to say what happens, and to wait for leave to go on."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._leave = threading.Semaphore(0)
        self._end = threading.Event()

    def tell(self, **what: Any) -> None:
        """Says something; returns when it is on its way."""
        with self._lock:
            self._connection.sendall(json.dumps(what).encode() + b"\n")

    def ask(self, **what: Any) -> None:
        """Says something, and returns when the parent has looked at it."""
        self.tell(**what)
        self._leave.acquire()

    def serve(self) -> None:
        """Takes the parent's words till it says that the life is over, or is gone."""
        while word := self._connection.recv(1):
            if word == b"e":
                return
            self._leave.release()


class Child:
    """A forked process, seen from its parent.

    Args:
        name: Who it is.
        body: What it does; it ends the process.
    """

    def __init__(self, name: str, body: Callable[[Teller], None]) -> None:
        self.name = name
        #: How it ended, as `os.waitpid` gives it; None while it lives.
        self.status: int | None = None
        #: Its SIGKILL's place, if a trap sprang.
        self.killed_at: str | None = None
        self._lines = b""
        ours, theirs = socket.socketpair()
        # What is not flushed now would be put out by both.
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _live(body, theirs)
        theirs.close()
        self.connection = ours

    def hear(self) -> list[Told]:
        """What it has said since; at its end its status is set."""
        piece = self.connection.recv(_PIECE_BYTES)
        if not piece:
            self._reap()
            return []
        *whole, self._lines = (self._lines + piece).split(b"\n")
        return [json.loads(line) for line in whole]

    def let_go_on(self) -> None:
        """Gives leave to whoever asked."""
        self._send(b"g")

    def end(self, *, within_s: float) -> None:
        """Lets it end in good order; kills it if it does not.

        Args:
            within_s: For how long to wait for it, in seconds.
        """
        if self.status is None:
            self._send(b"e")
            deadline = time.monotonic() + within_s
            while self.status is None and (left_s := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left_s)
                with suppress(TimeoutError):
                    self.hear()
            self.kill()

    def kill(self) -> None:
        """Ends it now, if it lives."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it lives."""
        if self.status is None:
            os.kill(self.pid, number)

    def _send(self, word: bytes) -> None:
        # It may have ended meanwhile.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.sendall(word)

    def _reap(self) -> None:
        self.status = os.waitpid(self.pid, 0)[1]
        self.connection.close()


def hear_all(children: Sequence[Child], *, within_s: float) -> Iterator[tuple[Child, Told]]:
    """What living children say, as it comes; an empty word when one has ended.

    Args:
        children: They may be fewer by the end.
        within_s: The longest to wait for a word, in seconds.

    Raises:
        FederationError: Nobody said anything for so long.
    """
    with selectors.DefaultSelector() as selector:
        for child in children:
            if child.status is None:
                selector.register(child.connection, selectors.EVENT_READ, child)
        ready = selector.select(within_s)
    if not ready:
        raise FederationError(f"No process of the trial did anything for {within_s:g} s.")
    for key, _ in ready:
        heard: Child = key.data
        for told in heard.hear():
            yield heard, told
        if heard.status is not None:
            yield heard, {}


def end_with_parent() -> None:
    """Has this process killed when the one that forked it is gone: nobody's child outlives it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _live(body: Callable[[Teller], None], connection: socket.socket) -> None:
    """The child's whole life; never returns."""
    end_with_parent()
    # What goes wrong here does so on purpose, and is told; a defect's own words are not.
    logging.disable(logging.WARNING)
    teller = Teller(connection)
    try:
        body(teller)
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        with suppress(OSError):
            teller.tell(defect=traceback.format_exc()[-2000:])
    finally:
        connection.close()
        # Nothing of the parent's is unwound, or put out, here.
        os._exit(0)
