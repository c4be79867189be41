"""What Flower says is kept once, as plain lines; that it looked again is not said at all."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import logging
from common.structured_log import log_as_json
from client.node.flower_logging import tame_logging
log_as_json("node")
tame_logging()
logging.getLogger("flwr").info("SuperNode ID: 7")
logging.getLogger("flwr").debug("Runtime.AcquireTask")
logging.getLogger("httpx").info("HTTP Request: POST …")
"""


def test_flower_speaks_once_and_its_client_not_at_each_look() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("INFO ")
    assert lines[0].endswith("SuperNode ID: 7")
