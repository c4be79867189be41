"""What a round costs in a deployment beyond the same round in one process, and where it goes.

The deployment is that of the documented commands: three regions with TLS, node keys, an engine, a
node and a relay each under a user of its own, and secure sums. In process the same apps and engines
run on data of the same size, without any of these. Only root can start such a deployment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import Bar, Figure
from common.timestamps import parse_time
from simulations.deployment_attacks.our_federation import OurFederation, our_federation, wait_until
from tests.support.shared_python import shared_scripts

ROUND = Bar("a round of a deployment of three regions, beyond the same in process", "s", 10)
BARS = (ROUND,)

_RUN = "first"
_ENDS_WITHIN_S = 600.0


class _Round(NamedTuple):
    """What a round took, in seconds: in all, till logs were cosigned, then till all replied."""

    whole: float
    cosigned: float
    replied: float


def measure() -> dict[str, Figure]:
    """Measures it, if this is root's: takes three minutes."""
    if os.geteuid() != 0:
        return {}
    with tempfile.TemporaryDirectory(prefix="fp-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with our_federation(folder / "f", scripts=shared_scripts(folder)) as ours:
            deployed = _deployed(ours)
        in_process = _in_process(folder / "run")
    beside = {
        "consents and logs cosigned": deployed.cosigned - in_process.cosigned,
        "training asked for and answered": deployed.replied - in_process.replied,
    }
    rest = deployed.whole - in_process.whole - sum(beside.values())
    told = ", ".join(f"{what} {s:.2f} s" for what, s in {**beside, "secure sum": rest}.items())
    value = deployed.whole - in_process.whole
    note = f"{deployed.whole:.2f} s, in process {in_process.whole:.2f} s; of the difference: {told}"
    return {ROUND.name: Figure(value, note)}


def _deployed(ours: OurFederation) -> _Round:
    ours.command("fedpref-server", "submit", "deployment", _RUN)
    events = ours.deployment.home(_RUN).events
    wait_until(
        lambda: events.exists() and '"run-finished"' in events.read_text(encoding="utf-8"),
        within_s=_ENDS_WITHIN_S,
        what="the end of the run",
    )
    return _rounds(events)


def _in_process(out: Path) -> _Round:
    command = [
        *(str(Path(sys.executable).parent / "fedpref-sim"), "run", "--scenario", "synthetic-3"),
        *("--aggregation", "secure-sum", "--quality-seeds", "1", "--out", str(out)),
    ]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # our own program
    (events,) = (out / "server").rglob("events.jsonl")
    return _rounds(events)


def _rounds(path: Path) -> _Round:
    """The median of the rounds after the first, in which connections are made."""
    found: dict[int, dict[str, int]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event: Mapping[str, object] = json.loads(line)
        if "round" in event:
            # Of several replies the last one counts.
            at = found.setdefault(int(str(event["round"])), {})
            at[str(event["event"])] = parse_time(str(event["time"]))
    rounds = [
        _Round(
            *(
                (at[event] - at[since]) / 1000
                for since, event in (
                    ("round-started", "round-closed"),
                    ("round-started", "log-witnessed"),
                    ("log-witnessed", "region-replied"),
                )
            )
        )
        for number, at in sorted(found.items())
        if number > 1
    ]
    return _Round(*(statistics.median(each) for each in zip(*rounds, strict=True)))
