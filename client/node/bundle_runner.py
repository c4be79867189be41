"""The relay's side of its warm parent: has a bundle run for one message, and gets its reply."""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from client.node.bundle_job import MAX_JOB_BYTES, STOP, BundleJob
from client.node.bundle_output import BundleOutput
from client.node.warm_parent import READY
from common.canonical_json import JsonValue
from common.engine_frames import receive_frame, send_frame
from common.errors import FedprefError, InputError

_log = logging.getLogger("fedpref.relay")

_START_TIMEOUT_S = 120.0
#: How much later than a child's deadline the warm parent's word of its end may come, in seconds.
_GRACE_S = 10.0
_JOIN_S = 1.0


class BundleFailedError(FedprefError):
    """A bundle gave no reply: it failed, used too much, or was stopped.

    Args:
        ending: How it ended; see `client.node.bundle_job.Ending`.
    """

    def __init__(self, ending: str) -> None:
        super().__init__(f"The app bundle gave no reply: {ending}.")
        self.ending = ending


class BundleRunner:
    """Runs bundles, one message at a time, each in a child of a warm parent.

    Args:
        environment: The whole environment of the parent and its children.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._output: BundleOutput | None = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Starts the warm parent, if there is none, and waits until it is ready.

        To be called by the relay's main thread: the kernel ends the parent with the thread that
        started it.

        Raises:
            InputError: It does not start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        # What a bundle prints is not the relay's own word, and must not look like it.
        self._output = BundleOutput(reading)
        with theirs, os.fdopen(writing, "wb") as output:
            module = ["-I", "-m", "client.node.warm_parent"]
            self._process = subprocess.Popen(  # noqa: S603  # our own program, no shell
                [sys.executable, *module, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with self._lock:
            self._control = control
        if self._receive(time.monotonic() + _START_TIMEOUT_S) != READY:
            self.close()
            raise InputError(
                "The process that runs bundles does not start.",
                remedy="Look at the relay's log.",
            )

    def run(
        self,
        job: BundleJob,
        header: dict[str, JsonValue],
        arrays: Mapping[str, np.ndarray],
        engine: socket.socket,
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Runs a bundle for one message.

        Args:
            job: What to run.
            header: The request's header.
            arrays: Its arrays.
            engine: A connected socket by which the bundle asks the engine; it gets a copy.

        Returns:
            The header and the arrays of what the bundle replied; not judged in any way.

        Raises:
            BundleFailedError: There is no reply, or none that could be read.
            InputError: The warm parent does not start.
        """
        self.start()
        if self._output is not None:
            self._output.begin_message()
        deadline = time.monotonic() + job.limits.wall_s + _GRACE_S
        reply = None
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send(job.encode(), [theirs.fileno(), engine.fileno()])
            # A child that ended early has closed its end; how it ended is told by its parent.
            with suppress(OSError, FedprefError):
                send_frame(ours, header, arrays, deadline)
                reply = receive_frame(ours, deadline)
        ending = self._receive(deadline + _GRACE_S).decode()
        if not ending:
            self.close()
            raise BundleFailedError("its parent is gone")
        if ending != "ended" or reply is None:
            raise BundleFailedError(ending)
        return reply

    def stop_child(self) -> None:
        """Ends the child that runs now, if one does; may be called by any thread."""
        with self._lock, suppress(OSError):
            if self._control is not None:
                self._control.send(STOP)

    def close(self) -> None:
        """Ends the warm parent, and with it its child."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.join(_JOIN_S)
            self._output = None

    def _send(self, data: bytes, descriptors: list[int]) -> None:
        with self._lock:
            if self._control is None:
                raise BundleFailedError("its parent is gone")
            try:
                socket.send_fds(self._control, [data], descriptors)
            except OSError as error:
                raise BundleFailedError("its parent is gone") from error

    def _receive(self, deadline: float) -> bytes:
        """A word of the parent's; empty if it is gone, or does not come in time."""
        control = self._control
        if control is None:
            return b""
        ready, _, _ = select.select([control], [], [], max(0.0, deadline - time.monotonic()))
        try:
            return control.recv(MAX_JOB_BYTES) if ready else b""
        except OSError as error:
            _log.warning("the process that runs bundles is gone", exc_info=error)
            return b""
