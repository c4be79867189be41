"""``fedpref-server track``: a run's curves for TensorBoard."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from server.config import ServerHome


def track(
    run: Annotated[
        Path,
        typer.Argument(
            help="The coordinator's home folder, one of its `runs`, or a simulated run's folder."
        ),
    ],
    tensorboard: Annotated[
        Path, typer.Option(help="TensorBoard's --logdir; the run gets a folder of its own there.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as rounds are logged, till the last or Ctrl-C.")
    ] = False,
) -> None:
    """Write a run's rounds, ε and settings for TensorBoard, from its plan and the log.

    The same run gives the same curves however often it is written. Needs the extra `tracking`.
    """
    from server.tracking import FOLLOW_INTERVAL_S, RunTracker

    with RunTracker(tracked_home(run), tensorboard) as tracker:
        tracker.read_on()
        with suppress(KeyboardInterrupt):
            while follow and not tracker.finished:
                time.sleep(FOLLOW_INTERVAL_S)
                tracker.read_on()
        tracker.conclude({})
        told = f"{tracker.rounds} of {tracker.plan.total_rounds} rounds"
    Console(highlight=False).print(f"{told} of {tracker.plan.run_id} are in {tracker.folder}.")


def tracked_home(run: Path) -> ServerHome:
    """The home of a run: of one of many, of one alone, or in a simulated run's folder.

    Raises:
        InputError: There is none.
    """
    from server.config import ServerHome
    from server.resume import home_in

    home = ServerHome.at(run)
    return home if home.plan.is_file() else home_in(run)
