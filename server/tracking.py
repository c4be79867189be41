"""A run's figures for TensorBoard: what data scientists compare runs by.

Everything comes from the plan and the coordinator's log, which all parties may read; nothing is
asked of a region. Written from the log, the same run gives the same curves however often it is
tracked, while it goes on or afterwards. TensorBoard's files are written by tensorboardX (extra
``tracking``), which needs neither TensorFlow nor TensorBoard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Self

from common.errors import FedprefError, InputError, StorageError
from common.plan import RunPlan
from server.config import ServerHome
from server.observed_home import LoggedRound, LoggedRun, ObservedLog
from server.run_figures import epsilon_after, update_bytes

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

#: How often a run that goes on is looked at, in seconds.
FOLLOW_INTERVAL_S = 1.0
_EVENT_FILES = "events.out.tfevents.*"
_SETTINGS = "settings"


class RunTracker:
    """Writes one run's figures below a folder, in one folder for each run.

    Use it as a context manager. What an earlier tracker of the same run wrote is replaced.

    Args:
        home: The coordinator's home, of one run or for one of many.
        folder: TensorBoard's ``--logdir``; made if it is not there.

    Raises:
        InputError: tensorboardX is not installed, or the home has no plan.
        StorageError: The folder cannot be written.
    """

    def __init__(self, home: ServerHome, folder: Path) -> None:
        self.plan = home.read_plan()
        self.folder = folder / self.plan.run_id
        self._log = ObservedLog(home.log)
        #: How many rounds are written.
        self.rounds = 0
        #: Whether the run's model is published: no round is left.
        self.finished = False
        self._writer = _open_writer(self.folder)

    def __enter__(self) -> Self:
        self._writer.add_text("plan", plan_text(self.plan))
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def read_on(self) -> int:
        """Writes the rounds that the log has got since the last call; gives how many.

        Raises:
            InputError, StorageError: The log cannot be read.
        """
        self._log.read_on()
        run = self._log.runs.get(self.plan.run_id, LoggedRun())
        new = run.rounds[self.rounds :]
        for done in new:
            for name, value in round_figures(self.plan, done).items():
                self._writer.add_scalar(name, value, done.number, walltime=done.end_ms / 1000)
        self.rounds, self.finished = len(run.rounds), run.published_ms is not None
        self._writer.flush()
        return len(new)

    def conclude(self, quality: Mapping[str, float]) -> None:
        """Writes the run's settings beside what came of it, which TensorBoard compares runs by.

        Args:
            quality: Figures of the finished model by name, such as those of a simulation.
        """
        results = {"rounds_done": float(self.rounds), **quality}
        results["epsilon_spent"] = epsilon_after(self.plan, self.rounds)
        for name, value in quality.items():
            self._writer.add_scalar(f"quality/{name}", value, self.rounds)
        # Its own folder, of one name: written again, it takes the place of what was there.
        _remove_earlier(self.folder / _SETTINGS)
        self._writer.add_hparams(
            run_settings(self.plan),
            {f"result/{name}": value for name, value in results.items()},
            name=_SETTINGS,
            global_step=self.rounds,
        )

    @contextmanager
    def following(self) -> Iterator[None]:
        """Writes rounds as they are logged, while the body runs, and the last of them after it."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(FOLLOW_INTERVAL_S):
                # What hinders it is said at the end, where it can stop nothing that goes on.
                with suppress(FedprefError):
                    self.read_on()

        thread = threading.Thread(target=follow, name="tracking", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.read_on()


def round_figures(plan: RunPlan, done: LoggedRound) -> dict[str, float]:
    """A round's figures, by TensorBoard's names."""
    mechanism = plan.mechanism_of(done.number)
    figures = {
        "privacy/epsilon_spent": epsilon_after(plan, done.number),
        "privacy/noise_multiplier": float(mechanism.noise_multiplier),
        "privacy/clipping_norm": float(mechanism.clipping_norm),
        "federation/regions_used": float(done.updates),
        "federation/regions_refused": float(done.refused),
        "cost/round_seconds": done.seconds,
        "cost/update_bytes": float(done.updates * update_bytes(plan, done.mechanism)),
    }
    if done.signal is not None:
        figures["training/signal"] = done.signal
    return figures


def run_settings(plan: RunPlan) -> dict[str, str | float]:
    """What of a plan tells runs apart."""
    settings: dict[str, str | float] = {
        "scenario": plan.scenario,
        "strategy": plan.strategy,
        "noise": plan.mode,
        "aggregation": plan.aggregation.rule,
        "regions": float(len(plan.regions)),
        "quorum": float(plan.quorum),
        "epsilon": float(plan.epsilon),
        "delta": float(plan.delta),
        "rounds": float(plan.total_rounds),
    }
    if not plan.asks:
        settings |= {"rank": float(plan.rank), "vocabulary_size": float(plan.vocabulary_size)}
    if (training := plan.local_training) is not None:
        settings |= {
            "optimizer": training.optimizer,
            "learning_rate": float(training.learning_rate),
            "expected_batch_size": float(training.expected_batch_size),
            "server_optimizer": training.server_optimizer,
            "server_learning_rate": float(training.server_learning_rate),
        }
    return settings


def plan_text(plan: RunPlan) -> str:
    """A plan's mechanisms as a Markdown table, with its digest."""
    lines = [f"Plan `{plan.digest}`", "", "| mechanism | rounds | steps | σ/C | C | sampling |"]
    lines.append("|---|---|---|---|---|---|")
    for each in plan.mechanisms:
        cells = (each.name, f"{each.rounds[0]}–{each.rounds[-1]}", each.steps)
        released = (each.noise_multiplier, each.clipping_norm, each.sampling_probability)
        lines.append("| " + " | ".join(str(cell) for cell in (*cells, *released)) + " |")
    return "\n".join(lines)


def _open_writer(folder: Path) -> SummaryWriter:
    library = _tensorboard_x()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_earlier(folder)
        writer: SummaryWriter = library.SummaryWriter(logdir=str(folder))
    except OSError as error:
        raise StorageError(
            f"The run cannot be tracked in {folder}: {error.strerror}.",
            remedy="Name another folder with --tensorboard.",
        ) from error
    return writer


def _tensorboard_x() -> ModuleType:
    try:
        import tensorboardX
    except ImportError as error:
        raise InputError(
            "tensorboardX is not installed, so runs cannot be tracked.",
            remedy="pip install 'fedpref[tracking]'",
        ) from error
    module: ModuleType = tensorboardX
    return module


def _remove_earlier(folder: Path) -> None:
    """Removes event files, and nothing else that may lie there."""
    for path in folder.glob(_EVENT_FILES):
        path.unlink()
