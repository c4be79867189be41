"""A simulated run in TensorBoard: its rounds while they go on, its quality once it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.canonical_json import JsonValue
from server.config import ServerHome
from server.tracking import RunTracker
from simulations.outcome import read_json
from simulations.run_folder import RunFolder

# The other methods are baselines, the same for every run of a scenario; the report has them.
_OWN_METHODS = "fedpref"
_UNIVERSE = "catalogue"


@contextmanager
def tracked_rounds(server: ServerHome, board: Path | None) -> Iterator[None]:
    """Writes rounds as they are logged, while the body runs.

    Args:
        server: The coordinator's home.
        board: TensorBoard's ``--logdir``; None for not at all.

    Raises:
        InputError: tensorboardX is not installed.
        StorageError: The folder cannot be written.
    """
    if board is None:
        yield
        return
    with RunTracker(server, board) as tracker, tracker.following():
        yield


def track_run(folder: RunFolder, board: Path) -> Path:
    """Writes all of a run, with its quality if that was measured; gives the run's folder.

    Raises:
        InputError: tensorboardX is not installed.
        StorageError: The folder cannot be written.
    """
    with RunTracker(ServerHome(folder.server), board) as tracker:
        tracker.read_on()
        measured = read_json(folder, folder.metrics.name) if folder.metrics.is_file() else {}
        tracker.conclude(quality_figures(measured))
    return tracker.folder


def quality_figures(metrics: Mapping[str, JsonValue]) -> dict[str, float]:
    """The run's own figures of ``metrics.json``, as metric/method/protocol/setting.

    Args:
        metrics: The file's values; without rows there are none.
    """
    rows = metrics.get("rows", [])
    figures: dict[str, float] = {}
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        own = str(row["method"]).startswith(_OWN_METHODS) and row["universe"] == _UNIVERSE
        if own and row["mean"] is not None:
            parts = (row[part] for part in ("metric", "method", "protocol", "setting"))
            # TensorBoard would write an underscore for the sign.
            name = "/".join(str(part).replace("@", "_at_") for part in parts)
            figures[name] = float(str(row["mean"]))
    return figures
