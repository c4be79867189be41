"""The coordinator's ServerApp: runs the rounds of one plan and publishes the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import canonical_json
from common.durable_file import write_durably
from common.errors import FedprefError, StorageError
from common.failpoints import CoordinatorPoint, reach
from common.messages import decode_arrays
from common.parameters import array_file_parts, arrays_digest
from server.answers import answer_arrays, answers_file, require_publishable
from server.audit_trail import AuditTrail, open_audit_trail
from server.checkpoint import CheckpointStore
from server.config import ServerConfig, ServerHome
from server.coordinator_process import note_process
from server.events import EventWriter
from server.grid_exchange import bounded_superlink
from server.model_card import card_of
from server.rounds import require_exact_sums
from server.strategy import Bounds, RegionSumStrategy
from server.witness_phase import open_witness_phase

app = ServerApp()
Arrays = Mapping[str, npt.NDArray[np.generic]]


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry point."""
    run_server(grid, ServerConfig.read(context.run_config))


def run_server(grid: Grid, config: ServerConfig) -> None:
    """Runs what is left of the home's run, from its next round to the published model.

    With a ``last_round`` before the plan's it pauses after that one: every log is cosigned to its
    last entry, nothing is published, and without it the run goes on from there.

    Args:
        grid: Flower's connection to the nodes.
        config: The coordinator's configuration.

    Raises:
        FederationError: Too few regions; nothing is published, and the run can go on later.
        InputError: The home folder lacks something.
        StorageError: Another process works in the home, or the disk refuses.
        VerificationError: The home's log, checkpoint and plan do not agree.
    """
    home = ServerHome(config.server_home, config.run or None)
    plan = home.read_plan()
    with EventWriter(home.events, plan.run_id) as events:
        try:
            note_process(home.process)
            finished = _run_rounds(grid, config, home, events)
            if finished and not plan.asks:
                card_of(home).write(home.folder)
        except FedprefError as error:
            events.write(
                "run-failed",
                error=type(error).__name__,
                reason=error.message,
                remedy=error.remedy,
            )
            raise
        events.write("run-finished" if finished else "run-paused")


def _publish(
    home: ServerHome, trail: AuditTrail, model: Arrays, kept: Arrays, events: EventWriter
) -> None:
    """Writes what the run came to, and then logs it: the model, or the answers to its questions."""
    arrays, path, kind = model, home.model, "model"
    try:
        if trail.plan.asks:
            arrays, path, kind = answer_arrays(model, kept), home.answers, "answers"
            rounds = {number: each for number, (_, each) in trail.aggregates.items()}
            facts = answers_file(trail.plan, rounds, arrays, kept)
            write_durably(home.answers_facts, facts, mode=0o644)
        write_durably(path, array_file_parts(arrays), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"The {kind} cannot be written to {path}: {error.strerror}.",
            remedy="Free disk space; the same command then goes on from here.",
        ) from error
    reach(CoordinatorPoint.MODEL_WRITTEN)
    digest = arrays_digest(arrays)
    trail.log_model(digest)
    reach(CoordinatorPoint.MODEL_LOGGED)
    events.write(f"{kind}-published", **{kind: digest})


def _run_rounds(grid: Grid, config: ServerConfig, home: ServerHome, events: EventWriter) -> bool:
    """Runs rounds, and publishes if they were the last; returns whether they were."""
    plan, registry = home.read_plan(), home.read_registry()
    require_exact_sums(plan)
    require_publishable(plan)
    timeout_s = min(config.witness_timeout_s, plan.round_timeout_s)
    last_round = min(config.last_round or plan.total_rounds, plan.total_rounds)
    with (
        open_audit_trail(home, plan, registry) as trail,
        open_witness_phase(
            home,
            registry,
            trail,
            timeout_s=timeout_s,
            outside_timeout_s=config.outside_witness_timeout_s,
        ) as witnesses,
        bounded_superlink(grid, timeout_s=config.superlink_timeout_s),
    ):
        bounds = Bounds(config.nodes_wait_s, config.describe_timeout_s, config.mask_timeout_s)
        checkpoints = CheckpointStore(home.checkpoint)
        strategy = RegionSumStrategy(plan, registry, trail, checkpoints, events, bounds, witnesses)
        reach(CoordinatorPoint.RUN_OPENED)
        result = strategy.start(
            grid,
            strategy.initial_arrays,
            num_rounds=last_round,
            timeout=plan.round_timeout_s,
        )
        if not strategy.finished():
            strategy.witness_end(grid)
            return False
        _publish(home, trail, decode_arrays(result.arrays), strategy.kept, events)
        # What is cosigned to its last entry stays so: a finished run asks nobody again.
        ended = canonical_json.encode({"run": plan.run_id, "log_size": trail.log.size})
        if not home.ended.is_file() or home.ended.read_bytes() != ended:
            strategy.witness_end(grid)
            reach(CoordinatorPoint.END_COSIGNED)
            write_durably(home.ended, ended)
            reach(CoordinatorPoint.ENDED)
    return True
