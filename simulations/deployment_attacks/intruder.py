"""An attacker's process: one request on standard input, what was found on standard output.

Start it under the attacker's user, with nothing of anyone else's in its environment:
``python -m simulations.deployment_attacks.intruder``.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import IO

from simulations.deployment_attacks.outcome import Found
from simulations.deployment_attacks.wire import read_json


def main() -> int:
    """Does what the request says; 0 if it could be tried, whatever came of it."""
    # What libraries print would be among the findings.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as findings:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            found = _act(read_json(sys.stdin.read()))
        # An attacker's program that breaks is no attack that failed: its caller must know.
        except BaseException:  # noqa: BLE001 - Flower's clients end the process where they fail
            found = {"broke": traceback.format_exc()}
        _write(found, findings)
    return 1 if "broke" in found else 0


def _act(request: Found) -> Found:
    from simulations.deployment_attacks.actions import ACTIONS

    action = str(request.pop("action"))
    return ACTIONS[action](request) | {"user": os.geteuid()}


def _write(found: Found, findings: IO[str]) -> None:
    json.dump(found, findings)
    findings.flush()


if __name__ == "__main__":
    sys.exit(main())
