"""Going on with a run whose coordinator ended: what it goes on from, and who carries it on.

The checkpoint is read and held to the coordinator's log before anything is started. What carries
the run on depends on where its regions are: those of a simulated run's folder are opened by the
simulation's own command, those of a deployment are reached over a SuperLink.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.errors import FederationError, InputError, UsageError
from common.parameters import arrays_digest
from server.audit_trail import open_audit_trail
from server.checkpoint import CheckpointStore
from server.config import ServerHome

_SIMULATED = "run.json"
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Resumption:
    """What a run goes on from.

    Attributes:
        run_id: The run.
        total_rounds: How many rounds its plan has.
        next_round: The first round that is not closed; one more than the last if all are.
        roster: The regions in the newest closed round.
        model: Digest of the model after it, or None before the first.
        log_size: The coordinator's log's size.
        published: Whether the run's model, or its answers, are published.
        asks: Whether it is a run of questions.
    """

    run_id: str
    total_rounds: int
    next_round: int
    roster: tuple[str, ...]
    model: str | None
    log_size: int
    published: bool
    asks: bool


def home_in(run: Path) -> ServerHome:
    """The coordinator's home in a folder: the folder itself, or ``server`` in a run's folder.

    Raises:
        InputError: It is neither.
    """
    for root in (run, run / "server"):
        home = ServerHome.at(root)
        if home.plan.is_file():
            return home
    raise InputError(
        f"{run} is neither a coordinator's home nor a run's folder: there is no plan.json in it.",
        remedy="Name the folder that holds plan.json, or the run's folder above it.",
    )


def read_resumption(home: ServerHome) -> Resumption:
    """Reads the checkpoint and believes it as far as the log bears it out; completes a torn one.

    Raises:
        InputError: The run has not begun: there is no log.
        StorageError: Another coordinator works in the home, or the checkpoint is damaged.
        VerificationError: The checkpoint does not match the log or the plan; names what differs.
    """
    plan = home.read_plan()
    if not home.log.is_file():
        raise InputError(
            f"The run {plan.run_id} has not begun: {home.log} is not there.",
            remedy="Start it; there is nothing to go on from.",
        )
    with open_audit_trail(home, plan, home.read_registry()) as trail:
        checkpoint = CheckpointStore(home.checkpoint).load(trail, plan)
        return Resumption(
            run_id=plan.run_id,
            total_rounds=plan.total_rounds,
            next_round=checkpoint.server_round + 1 if checkpoint else 1,
            roster=checkpoint.roster if checkpoint else (),
            model=arrays_digest(checkpoint.model) if checkpoint else None,
            log_size=trail.log.size,
            published=trail.model is not None,
            asks=plan.asks,
        )


def simulated_run(run: Path) -> Path | None:
    """The folder of a simulated run, whose regions are on this machine; None if it is none.

    Args:
        run: It, or the coordinator's home in it.
    """
    return next(
        (root for root in (run, run.resolve().parent) if (root / _SIMULATED).is_file()), None
    )


def carry_on_simulated(run: Path) -> NoReturn:
    """Becomes the simulation's command, which opens the regions and goes on.

    Raises:
        InputError: The simulation is not installed here.
    """
    program = _program("fedpref-sim", extra="simulation")
    sys.stdout.flush()
    os.execv(program, [program, "resume", str(run)])  # noqa: S606 - our own program, no shell


def carry_on_over(superlink: str, app: Path, home: ServerHome) -> str:
    """Starts the run's coordinator on a SuperLink, and gives Flower's id of what it started.

    Args:
        superlink: The connection's name in Flower's configuration.
        app: The app bundle's folder, or its file.
        home: The coordinator's home, as the SuperLink's machine sees it.

    Raises:
        FederationError: Flower did not start it.
        InputError: Flower is not installed here.
        UsageError: There is no such app.
    """
    if not app.exists():
        raise UsageError(f"There is no app bundle at {app}.")
    program = _program("flwr", extra="server")
    config = f"server-home={json.dumps(str(home.root.resolve()))}"
    if home.run is not None:
        config += f" run={json.dumps(home.run)}"
    try:
        ended = subprocess.run(  # noqa: S603 - Flower's own program, no shell
            [program, "run", str(app), superlink, "--run-config", config, "--format", "json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FederationError(
            f"flwr run did not answer within {_START_TIMEOUT_S:g} s.",
            remedy="See whether the SuperLink runs; the same command tries again.",
        ) from error
    answer = ended.stdout.decode(errors="replace")
    try:
        started = json.loads(answer[answer.index("{") :])
        # Its exit code is not to be trusted.
        if started["success"] is True:
            return str(started["run-id"])
    except (KeyError, TypeError, ValueError):
        started = answer
    raise FederationError(
        f"flwr run did not start the run: {str(started)[-500:]} "
        f"{ended.stderr.decode(errors='replace')[-500:]}".strip(),
        remedy="Mend what it names; the same command tries again.",
    )


def _program(name: str, *, extra: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise InputError(f"{path} is missing.", remedy=f"Install fedpref with the extra [{extra}].")
    return str(path)
