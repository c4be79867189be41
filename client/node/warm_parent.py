"""The warm parent: a process that has Flower loaded and forks a child for each message.

Loading Flower takes seconds, a fork takes milliseconds. It never holds a secret: it is started
afresh, not forked, from the relay, and so its children cannot find in their memory what the relay
knows. It runs no bundle itself. One message at a time, as the SuperNode hands them out.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time

from client.node.bundle_child import run_child
from client.node.bundle_job import MAX_JOB_BYTES, STOP, BundleJob, Ending
from common.process_control import end_with_parent, hide_memory

READY = b"ready"


def main() -> None:
    """Serves the relay that started it, on the socket whose number is the first argument."""
    parent = int(sys.argv[2])
    end_with_parent(parent)
    hide_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    # Nothing loaded up to here is ever collected, so that the children's pages stay shared.
    gc.collect()
    gc.freeze()
    control.send(READY)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MAX_JOB_BYTES, 2)
        if not data:
            return
        # A word to stop that came after its child had ended by itself.
        if data == STOP:
            continue
        message, engine = descriptors
        control.send(_run(control, BundleJob.decode(data), message, engine).encode())


def _run(control: socket.socket, job: BundleJob, message: int, engine: int) -> Ending:
    own = os.getpid()
    child = os.fork()
    if child == 0:
        run_child(job, message, engine, own)
    os.close(message)
    os.close(engine)
    return _await(control, child, job.limits.wall_s)


def _await(control: socket.socket, child: int, wall_s: float) -> Ending:
    """Waits for a child's end, and brings it about at its deadline or when the relay says so."""
    descriptor = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(control, select.POLLIN)
        deadline = time.monotonic() + wall_s
        early: Ending | None = None
        while early is None:
            ready = {
                number for number, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            }
            if descriptor in ready:
                break
            if control.fileno() in ready:
                # The relay is gone, or tells to stop: the same for the child.
                control.recv(MAX_JOB_BYTES)
                early = "stopped"
            elif time.monotonic() >= deadline:
                early = "timed-out"
        if early is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(descriptor)
    if early is not None:
        return early
    if os.WIFSIGNALED(status):
        return "killed"
    return "ended" if os.waitstatus_to_exitcode(status) == 0 else "failed"


if __name__ == "__main__":
    main()
