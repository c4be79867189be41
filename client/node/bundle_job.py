"""What a relay tells its warm parent about one message, and what it hears back: plain JSON.

Both ends are the installed code; a bundle has no part in it. A message's content does not travel
here but over a socket pair of the child's own, and so does what a bundle asks the engine. An end of
each comes with the job, the message's first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.node.confinement import Limits

#: How a child ended: by itself, with an error, by a signal, at its deadline, or told to.
Ending = Literal["ended", "failed", "killed", "timed-out", "stopped"]

MAX_JOB_BYTES = 64 << 10
STOP = b"stop"


@dataclass(frozen=True)
class BundleJob:
    """One message to run a bundle for.

    Attributes:
        folder: The unpacked bundle.
        app: Its ClientApp, as ``module:object``.
        message_type: Flower's message type, such as ``train`` or ``query.describe``.
        run_id: Flower's number of the run.
        node_id: Flower's number of this node.
        limits: What the bundle may use.
    """

    folder: Path
    app: str
    message_type: str
    run_id: int
    node_id: int
    limits: Limits

    def encode(self) -> bytes:
        """The job as JSON."""
        record = {
            "folder": str(self.folder),
            "app": self.app,
            "message_type": self.message_type,
            "run_id": self.run_id,
            "node_id": self.node_id,
            "memory_bytes": self.limits.memory_bytes,
            "processor_s": self.limits.processor_s,
            "wall_s": self.limits.wall_s,
        }
        return json.dumps(record).encode()

    @classmethod
    def decode(cls, data: bytes) -> BundleJob:
        """The job that `encode` wrote."""
        record = json.loads(data)
        return cls(
            folder=Path(record["folder"]),
            app=record["app"],
            message_type=record["message_type"],
            run_id=record["run_id"],
            node_id=record["node_id"],
            limits=Limits(record["memory_bytes"], record["processor_s"], record["wall_s"]),
        )
