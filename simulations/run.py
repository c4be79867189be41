"""One whole run: data, consents, permits, rounds, quality, bundle, verdict, report.

Each stage is recorded when it is complete; after an interruption the same command goes on from the
last one. The training stage resumes by itself: the server from its checkpoint, each region from its
ledger and seals.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from common.aggregation_rules import NoiseMode, RuleName, least_regions
from common.errors import FederationError, InputError, UsageError, VerificationError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import UNIT_AND_RELATION
from common.strategies import AUTO, FACTORS, SUMS, StrategyChoice
from common.timestamps import format_time
from server.app_bundle import app_bundle_sha256
from server.config import ServerHome
from server.robust_noise import unguarded
from server.status import read_status
from simulations.customers import CustomerChoices, draw_choices
from simulations.federate import federate, own_words
from simulations.outcome import (
    bundle_run,
    conclude,
    measure_quality,
    report_run,
    write_history,
    write_json,
)
from simulations.privacy_audit import MODELS
from simulations.progress import live_rounds
from simulations.provision import RegionSetUp, open_regions, provision
from simulations.regions import PreparedScenario
from simulations.run_folder import RunFolder, RunSettings, RunState, open_run_folder
from simulations.scenarios import Scenario, find_scenario
from simulations.tracking import track_run, tracked_rounds


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
                track_run(folder, request.tensorboard)
            return folder
        _Run(folder, scenario, state, console, request.tensorboard).carry_on(
            request.pause_after_round
        )
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
        _Run(folder, find_scenario(state.settings.scenario), state, console).carry_on()
    return folder


class _Run:
    """The stages of one run, each recorded when complete."""

    def __init__(
        self,
        folder: RunFolder,
        scenario: Scenario,
        state: RunState,
        console: Console,
        tensorboard: Path | None = None,
    ) -> None:
        self._folder = folder
        self._scenario = scenario
        self._state, self._console, self._tensorboard = state, console, tensorboard

    def carry_on(self, pause_after_round: int | None = None) -> None:
        """Carries out the stages that are not complete, or stops after a round of training.

        Raises:
            UsageError: There is no pause after that round, or not any more.
        """
        resumed = self._state.stage != "new"
        self._console.print(
            f"[bold]{'Going on with' if resumed else 'Running'} {self._state.run_id}[/bold]: "
            f"{self._scenario.title}; ε = {self._state.settings.epsilon}, "
            f"δ = {self._state.settings.delta} ({UNIT_AND_RELATION})."
        )
        stages = {"new": self._provision, "provisioned": self._train, "trained": self._measure}
        stages["evaluated"] = self._finish
        while self._state.stage != "finished":
            if pause_after_round is not None and self._state.stage != "new":
                self._train_until(pause_after_round)
                return
            stages[self._state.stage]()

    def _provision(self) -> None:
        with self._stage("Preparing data, keys, consents and permits", "provisioned"):
            self._folder.clear()
            prepared = self._scenario.prepare(self._folder.data, seed=self._state.settings.seed)
            plan = self._plan(prepared)
            provision(self._folder, self._scenario, plan, self._set_ups(plan), app_bundle_sha256())

    def _train(self) -> None:
        with self._stage("Training", "trained"):
            self._federate(self._read_plan(), None)

    def _train_until(self, last_round: int) -> None:
        plan = self._read_plan()
        if not 1 <= last_round < plan.total_rounds:
            raise UsageError(
                f"--pause-after-round is {last_round}; this run has {plan.total_rounds} rounds, so "
                f"it can pause after one of 1 to {plan.total_rounds - 1}."
            )
        server = ServerHome(self._folder.server)
        done = len(read_status(server, last_events=0).rounds)
        if done > last_round:
            raise UsageError(
                f"--pause-after-round is {last_round}, but {done} rounds are done already.",
                remedy="Name a later round, or leave the option out to go on to the end.",
            )
        self._console.print(f"[bold]▸ Training up to round {last_round}[/bold]")
        self._federate(plan, last_round)
        self._console.print(
            f"[bold]Paused[/bold] after round {last_round} of {plan.total_rounds}; nothing is "
            "published, and all logs are cosigned.\nThe same command goes on from here: without "
            "--pause-after-round to the end, or with a later round."
        )

    def _federate(self, plan: RunPlan, last_round: int | None) -> None:
        with open_regions(self._folder, self._set_ups(plan)) as regions:
            for region in regions.values():
                region.engine.preflight(plan)
            channels = {name: region.channel for name, region in regions.items()}
            try:
                with (
                    live_rounds(self._console, self._folder.server / "events.jsonl", plan.regions),
                    tracked_rounds(ServerHome(self._folder.server), self._tensorboard),
                ):
                    federate(
                        self._state.settings.engine,
                        self._folder,
                        plan,
                        channels,
                        last_round=last_round,
                    )
            except FederationError as error:
                raise own_words(error, [each.engine for each in regions.values()]) from error

    def _measure(self) -> None:
        with self._stage("Measuring quality beside the baselines", "evaluated"):
            plan = self._read_plan()
            metrics = measure_quality(
                self._folder,
                self._scenario,
                plan,
                self._set_ups(plan),
                seeds=range(1, self._state.settings.quality_seeds + 1),
                # Where regions train by steps, an attacker's many trainings take too long to be
                # part of every run: `fedpref-sim audit` is for them.
                attack_models=MODELS if plan.strategy in SUMS else 0,
                console=self._console,
            )
            write_json(self._folder, "metrics.json", metrics)

    def _finish(self) -> None:
        plan = self._read_plan()
        with self._stage("Bundling the logs, verifying them, writing the report", "finished"):
            with open_regions(self._folder, self._set_ups(plan)) as regions:
                write_history(
                    self._folder, self._scenario, plan, regions, dict(self._state.seconds)
                )
            verdict = bundle_run(self._folder, self._scenario, plan)
            report_run(self._folder, self._scenario, plan, self._state, verdict)
            if self._tensorboard is not None:
                track_run(self._folder, self._tensorboard)
        if not verdict.verified:
            raise VerificationError(
                f"The run's own logs do not verify: {verdict.first_failure}",
                remedy=f"Look at the report: {self._folder.report}",
            )
        conclude(self._console, self._folder, verdict)

    def _read_plan(self) -> RunPlan:
        return ServerHome(self._folder.server).read_plan()

    def _plan(self, prepared: PreparedScenario) -> RunPlan:
        settings, windows = self._state.settings, self._scenario.windows
        needed = least_regions(settings.aggregation, settings.tolerated)
        quorum = max(self._scenario.quorum, needed)
        plan = default_plan(
            run_id=self._state.run_id,
            federation=self._scenario.federation,
            scenario=self._scenario.name,
            regions=[region.name for region in prepared.regions],
            quorum=quorum,
            catalogue=prepared.catalogue_digest,
            n_items=prepared.n_items,
            train_from=format_time(windows.train_from_ms),
            train_until=format_time(windows.train_until_ms),
            strategy=settings.strategy,
            epsilon=settings.epsilon,
            delta=settings.delta,
            planned_customers=self._scenario.planned_customers,
            init_seed=settings.seed,
            mode=settings.noise,
            rule=settings.aggregation,
            tolerated=settings.tolerated,
            honest_survivors_min=quorum if settings.noise == "distributed" else 0,
            server_learning_rate_decay=settings.server_learning_rate_decay,
            patience_rounds=settings.patience_rounds or None,
        )
        if settings.strategy == AUTO:
            self._console.print(f"  --strategy auto: {plan.strategy}.")
        gap = unguarded(plan)
        if gap is not None:
            self._console.print(f"  {gap}.", style="yellow")
        return plan

    def _set_ups(self, plan: RunPlan) -> list[RegionSetUp]:
        settings = self._state.settings
        return [
            RegionSetUp(
                region=region,
                jurisdiction=jurisdiction,
                choose=partial(choose, settings=settings, region_number=number),
                epsilon_cap=settings.epsilon_cap,
                delta_max=settings.delta,
                withdrawal_in_round=settings.withdrawal_in_round,
            )
            for number, (region, jurisdiction) in enumerate(
                zip(plan.regions, self._scenario.jurisdictions, strict=True)
            )
        ]

    @contextmanager
    def _stage(self, title: str, complete: str) -> Iterator[None]:
        self._console.print(f"[bold]▸ {title}[/bold]")
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._state = self._state.completed(complete, seconds)
        self._folder.write_state(self._state)
        self._console.print(f"  done in {seconds:.1f} s", style="dim")


def choose(
    customers: Sequence[str], *, settings: RunSettings, region_number: int
) -> CustomerChoices:
    """How one region's customers choose, from the run's seed."""
    return draw_choices(
        customers,
        refusal_share=float(settings.refusal_share),
        withdrawal_share=float(settings.withdrawal_share),
        rounds=LAST_WITHDRAWAL_ROUND,
        seed=(settings.seed, region_number),
    )


# Withdrawals are spread over the first rounds, so that every plan of two rounds or more sees some.
LAST_WITHDRAWAL_ROUND = 4


def _require_within(option: str, value: float, low: float, high: float) -> None:
    # Written so that a NaN is refused too.
    if not low < value <= high:
        raise UsageError(f"{option} is {value}; it must be above {low:g} and at most {high:g}.")


def _either(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _decimal(value: float) -> str:
    return format(Decimal(repr(value)).normalize(), "f")
