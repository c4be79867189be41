"""What is asked of one whole run, and beginning it or going on with it.

What carries it out (`simulations.run_stages`) takes seconds to import; whoever asks for a run that
is finished, or asks for what cannot be, does not wait for it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from common.aggregation_rules import NoiseMode, RuleName, least_regions
from common.errors import InputError, UsageError
from common.strategies import FACTORS, StrategyChoice
from simulations.run_folder import RunFolder, RunSettings, RunState, open_run_folder
from simulations.scenarios import Scenario, find_scenario

if TYPE_CHECKING:
    from simulations.run_stages import RunStages


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for; None means the scenario's own value."""

    scenario: str
    out: Path
    epsilon: float
    delta: float
    epsilon_cap: float | None
    seed: int
    engine: str
    refusal_share: float | None
    withdrawal_share: float | None
    withdrawal_in_round: Literal["finish", "discard"]
    quality_seeds: int
    replace: bool
    strategy: StrategyChoice = FACTORS
    aggregation: RuleName = "sum"
    # None: one hostile region where the rule is robust, else none.
    tolerated: int | None = None
    noise: NoiseMode = "local"
    server_learning_rate_decay: float = 1.0
    patience_rounds: int = 0
    # Not of the settings: the same command without it, or with a later round, goes on.
    pause_after_round: int | None = None
    # Likewise: where else the run is written, not what it is.
    tensorboard: Path | None = None

    def settings(self, scenario: Scenario) -> RunSettings:
        """The request with the scenario's values filled in.

        Raises:
            UsageError: A number is out of its range.
        """
        _require_within("--epsilon", self.epsilon, 0.0, 100.0)
        _require_within("--delta", self.delta, 0.0, 0.01)
        _require_within("--server-lr-decay", self.server_learning_rate_decay, 0.0, 1.0)
        cap = self.epsilon if self.epsilon_cap is None else self.epsilon_cap
        _require_within("--epsilon-cap", cap, 0.0, 1000.0)
        refusing = _either(self.refusal_share, scenario.refusal_share)
        withdrawing = _either(self.withdrawal_share, scenario.withdrawal_share)
        if refusing + withdrawing > 1 and self.withdrawal_share is not None:
            raise UsageError("--refusal-share and --withdrawal-share come to more than 1.")
        return RunSettings(
            scenario=scenario.name,
            strategy=self.strategy,
            epsilon=_decimal(self.epsilon),
            delta=_decimal(self.delta),
            epsilon_cap=_decimal(cap),
            seed=self.seed,
            engine=self.engine,
            refusal_share=_decimal(refusing),
            withdrawal_share=_decimal(min(withdrawing, 1 - refusing)),
            withdrawal_in_round=self.withdrawal_in_round,
            quality_seeds=self.quality_seeds,
            aggregation=self.aggregation,
            tolerated=self._tolerated(len(scenario.jurisdictions)),
            noise=self.noise,
            server_learning_rate_decay=_decimal(self.server_learning_rate_decay),
            patience_rounds=self.patience_rounds,
        )

    def _tolerated(self, n_regions: int) -> int:
        robust = self.aggregation not in ("sum", "secure-sum")
        tolerated = int(robust) if self.tolerated is None else self.tolerated
        if (tolerated > 0) != robust:
            raise UsageError(
                f"--tolerated is {tolerated} with --aggregation {self.aggregation}.",
                remedy="median, trimmed-mean and krum withstand at least 1 hostile region, the "
                "other rules none.",
            )
        needed = least_regions(self.aggregation, tolerated)
        if needed > n_regions:
            raise UsageError(
                f"--aggregation {self.aggregation} with {tolerated} hostile regions needs updates "
                f"of at least {needed} regions; the scenario has {n_regions}.",
                remedy="Choose another rule, or a scenario with more regions.",
            )
        return tolerated


def run_scenario(request: RunRequest, console: Console) -> RunFolder:
    """Runs a scenario from start to report, or goes on with an interrupted one.

    Args:
        request: What to run and where.
        console: Where progress is shown.

    Raises:
        FedprefError: What stopped it; everything done so far stays and is picked up again.
    """
    scenario = find_scenario(request.scenario)
    settings = request.settings(scenario)
    with open_run_folder(request.out) as folder:
        run_id = f"{scenario.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        state = folder.begin(run_id, settings, replace=request.replace)
        if state.stage == "finished":
            console.print(
                f"{folder.root} holds this very run, finished. Report: {folder.report}. "
                "--replace runs it anew."
            )
            if request.tensorboard is not None:
                from simulations.tracking import track_run

                track_run(folder, request.tensorboard)
            return folder
        stages = _stages(folder, scenario, state, console, request.tensorboard)
        stages.carry_on(request.pause_after_round)
    return folder


def resume_scenario(root: Path, console: Console) -> RunFolder:
    """Goes on with an interrupted run, as it was begun.

    Args:
        root: The run's folder.
        console: Where progress is shown.

    Raises:
        InputError: No run was begun there.
        FedprefError: What stopped it; everything done so far stays and is picked up again.
    """
    if RunFolder(root).read_state() is None:
        raise InputError(
            f"No run was begun in {root}.", remedy="Name the folder that holds its run.json."
        )
    with open_run_folder(root) as folder:
        state = folder.read_state()
        if state is None:
            raise InputError(f"The run in {root} was removed meanwhile.")
        if state.stage == "finished":
            console.print(f"{folder.root} holds a finished run. Report: {folder.report}.")
            return folder
        _stages(folder, find_scenario(state.settings.scenario), state, console).carry_on()
    return folder


def _stages(
    folder: RunFolder,
    scenario: Scenario,
    state: RunState,
    console: Console,
    tensorboard: Path | None = None,
) -> RunStages:
    with console.status("Starting …"):
        from simulations.run_stages import RunStages

    return RunStages(folder, scenario, state, console, tensorboard)


def _require_within(option: str, value: float, low: float, high: float) -> None:
    # Written so that a NaN is refused too.
    if not low < value <= high:
        raise UsageError(f"{option} is {value}; it must be above {low:g} and at most {high:g}.")


def _either(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _decimal(value: float) -> str:
    return format(Decimal(repr(value)).normalize(), "f")
