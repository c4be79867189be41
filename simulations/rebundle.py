"""Bundles a finished run anew: its customers may have chosen, or been erased, since."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from common.errors import InputError, VerificationError
from server.config import ServerHome
from simulations.outcome import (
    attack,
    bundle_run,
    conclude,
    read_json,
    report_run,
    write_json,
)
from simulations.run_folder import RunFolder, open_run_folder
from simulations.scenarios import find_scenario


def rebundle(root: Path, console: Console, *, attack_models: int = 0) -> None:
    """Writes a finished run's bundle and report from its homes as they are now, and verifies it.

    Args:
        root: The run's folder.
        console: Where the verdict is shown.
        attack_models: With how many models the run's releases are attacked before, so that the
            report says what was found; 0 leaves what an earlier attack found.

    Raises:
        InputError: There is no finished run, or there are too few models.
        StorageError: Another command is working in the folder.
        VerificationError: The logs do not verify; the bundle is written all the same.
    """
    # Not made if it is missing, as the folder of a new run would be.
    before = RunFolder(root).read_state()
    if before is None:
        raise InputError(f"{root} holds no run.", remedy="Name a run's folder.")
    with open_run_folder(root) as folder:
        state = folder.read_state() or before
        if state.stage != "finished":
            raise InputError(
                f"The run in {root} is not finished.",
                remedy="Finish it by the command that began it: it bundles the logs itself.",
            )
        scenario = find_scenario(state.settings.scenario)
        plan = ServerHome(folder.server).read_plan()
        if attack_models:
            found = attack(folder, scenario, plan, n_models=attack_models, console=console)
            write_json(
                folder, "metrics.json", read_json(folder, "metrics.json") | {"attacks": found}
            )
        verdict = bundle_run(folder, scenario, plan)
        report_run(folder, scenario, plan, state, verdict)
    if not verdict.verified:
        raise VerificationError(
            f"The run's logs do not verify: {verdict.first_failure}",
            remedy=f"Look at the report: {folder.report}",
        )
    conclude(console, folder, verdict)
