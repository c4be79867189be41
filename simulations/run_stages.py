"""The stages of one whole run: data, consents, permits, rounds, quality, bundle, verdict, report.

Each stage is recorded when it is complete; after an interruption the run goes on from the last one.
The training stage resumes by itself: the server from its checkpoint, each region from its ledger
and seals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from common.aggregation_rules import least_regions
from common.errors import FederationError, UsageError, VerificationError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import UNIT_AND_RELATION
from common.strategies import AUTO, SUMS
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
from simulations.prepared import PreparedScenario
from simulations.privacy_audit import MODELS
from simulations.progress import live_rounds
from simulations.provision import RegionSetUp, open_regions, provision
from simulations.run_folder import RunFolder, RunSettings, RunState
from simulations.scenarios import Scenario
from simulations.tracking import track_run, tracked_rounds

# Withdrawals are spread over the first rounds, so that every plan of two rounds or more sees some.
LAST_WITHDRAWAL_ROUND = 4


class RunStages:
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
