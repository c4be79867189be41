"""A run's folder: its settings, how far it got, and the lock that keeps two commands apart."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common import canonical_json
from common.aggregation_rules import NoiseMode, RuleName
from common.durable_file import write_durably
from common.errors import FormatError, InputError, StorageError, UsageError
from common.strategies import StrategyChoice

STAGES = ("new", "provisioned", "trained", "evaluated", "finished")


class RunSettings(BaseModel):
    """What was asked of a run; the same command finds the same settings again.

    Attributes:
        scenario: Its name.
        strategy: How the model is trained; ``auto`` until the plan has chosen.
        epsilon: ε of the run, as a decimal string.
        delta: δ of the run, as a decimal string.
        epsilon_cap: Each region's cap of ε per year, as a decimal string.
        seed: Seed of initialisation and of the simulated customers' choices; never of noise.
        engine: What carries the messages: inprocess, ray or flower.
        refusal_share: Share of customers who refuse, as a decimal string.
        withdrawal_share: Share of customers who withdraw during the run, as a decimal string.
        withdrawal_in_round: The regions' policy for a round in which someone withdraws.
        quality_seeds: Over how many seeds quality is measured.
        aggregation: By which rule the regions' updates become one.
        tolerated: How many hostile regions that rule is to withstand.
        noise: Whose noise protects.
        server_learning_rate_decay: Of the coordinator, from round to round, as a decimal string.
        patience_rounds: After how many rounds without a signal the run ends; 0 for never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    scenario: str
    strategy: StrategyChoice
    epsilon: str
    delta: str
    epsilon_cap: str
    seed: int
    engine: str
    refusal_share: str
    withdrawal_share: str
    withdrawal_in_round: Literal["finish", "discard"]
    quality_seeds: int
    aggregation: RuleName
    tolerated: int
    noise: NoiseMode
    server_learning_rate_decay: str
    patience_rounds: int


class RunState(BaseModel):
    """How far a run got."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: str = "fedpref-simulation/1"
    run_id: str
    settings: RunSettings
    stage: str
    milliseconds: dict[str, int] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """How long each complete stage took."""
        return {stage: spent / 1000 for stage, spent in self.milliseconds.items()}

    def completed(self, stage: str, seconds: float) -> RunState:
        """The state once a stage is complete."""
        spent = {**self.milliseconds, stage: round(seconds * 1000)}
        return self.model_copy(update={"stage": stage, "milliseconds": spent})


class RunFolder:
    """Paths of one run, and its state on disk. Use `open_run_folder`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def server(self) -> Path:
        """The coordinator's home."""
        return self.root / "server"

    @property
    def regions(self) -> Path:
        """The folder of the regions' homes."""
        return self.root / "regions"

    @property
    def catalogue(self) -> Path:
        """The public catalogue."""
        return self.root / "data" / "catalogue.parquet"

    @property
    def data(self) -> Path:
        """The prepared scenario data."""
        return self.root / "data"

    @property
    def offline_root(self) -> Path:
        """The root keys, which a deployment keeps offline."""
        return self.root / "offline-root"

    @property
    def witness(self) -> Path:
        """The outside witness's home."""
        return self.root / "witness"

    @property
    def bundle(self) -> Path:
        """The audit bundle."""
        return self.root / "bundle"

    @property
    def model(self) -> Path:
        """The published model."""
        return self.root / "model.safetensors"

    @property
    def metrics(self) -> Path:
        """Quality figures."""
        return self.root / "metrics.json"

    @property
    def history(self) -> Path:
        """What happened, round by round."""
        return self.root / "history.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.root / "report.html"

    def region_home(self, region: str) -> Path:
        """One region's home."""
        return self.regions / region

    @property
    def _state_path(self) -> Path:
        return self.root / "run.json"

    def read_state(self) -> RunState | None:
        """The state on disk, or None if no run was begun here.

        Raises:
            InputError: The state file is damaged.
        """
        try:
            data = self._state_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            state = RunState.model_validate(canonical_json.decode(data))
        except (FormatError, ValidationError) as error:
            raise InputError(
                f"{self._state_path} is not the state of a run.",
                remedy="Use another --out, or start over with --replace.",
            ) from error
        if state.stage not in STAGES:
            raise InputError(f"{self._state_path} names an unknown stage {state.stage!r}.")
        return state

    def write_state(self, state: RunState) -> None:
        """Records how far the run got, durably."""
        write_durably(self._state_path, canonical_json.encode(state.model_dump(mode="json")))

    def begin(self, run_id: str, settings: RunSettings, *, replace: bool) -> RunState:
        """Begins a run here, or finds the one to go on with.

        Args:
            run_id: Id of the run if a new one begins.
            settings: What is asked.
            replace: Whether a finished run, or one with other settings, may be removed.

        Raises:
            UsageError: The folder holds something else, or a run with other settings.
        """
        state = self.read_state()
        if state is not None and state.settings == settings and state.stage != "finished":
            return state
        if state is not None and not replace:
            if state.settings == settings:
                return state
            raise UsageError(
                f"{self.root} holds a run with other settings.",
                remedy="Use another --out, or --replace to remove that run.",
            )
        if state is None and any(path.name != ".lock" for path in self.root.iterdir()):
            raise UsageError(
                f"{self.root} is not empty and not a run of ours.",
                remedy="Name a new folder with --out.",
            )
        state = RunState(run_id=run_id, settings=settings, stage="new")
        self.write_state(state)
        return state

    def clear(self) -> None:
        """Removes all but the state: what a finished run, or an interrupted set-up, left."""
        for path in list(self.root.iterdir()):
            if path.name in (".lock", self._state_path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def open_run_folder(root: Path) -> Iterator[RunFolder]:
    """Makes the folder if needed and holds it against other commands.

    Raises:
        InputError: The folder cannot be made.
        StorageError: Another command is working in it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"The run folder {root} cannot be made: {error.strerror}.",
            remedy="Name another folder with --out.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"Another command is working in {root}.",
                remedy="Wait for it to end, or name another folder with --out.",
            ) from error
        yield RunFolder(root)
    finally:
        os.close(descriptor)
