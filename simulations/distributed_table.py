"""The study of distributed noise as a command: over a run's folder, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from common.catalogue import Catalogue
from common.errors import InputError
from server.config import ServerHome
from simulations.distributed_study import CENTRAL, StudyRow, run_study
from simulations.evaluation_data import region_splits
from simulations.outcome import everybody, shown_progress
from simulations.run_folder import RunFolder
from simulations.scenarios import find_scenario

_COLUMNS = ("ε", "noise", "K_min", "items", "NDCG@10 (95%)", "minus central (95%)", "ε if fewer")


def study_run(
    folder: RunFolder, *, epsilons: Sequence[float], seeds: int, console: Console
) -> list[StudyRow]:
    """Carries out the study on a run's customers, as if all had consented; the run is only read.

    Args:
        folder: A run's folder, provisioned at least.
        epsilons: Which ε.
        seeds: Over how many seeds of noise.
        console: Where progress and the table are shown.

    Raises:
        InputError: It is no run's folder.
        UsageError: The run has too few regions.
    """
    state = folder.read_state()
    if state is None:
        raise InputError(f"{folder.root} holds no run.", remedy="Name a run's folder.")
    scenario = find_scenario(state.settings.scenario)
    plan = ServerHome(folder.server).read_plan()
    catalogue = Catalogue.load(folder.catalogue)
    splits = [
        region_splits(*everybody(folder, region), [scenario.windows], catalogue)[0]
        for region in plan.regions
    ]
    with shown_progress(console, "study") as show:
        rows = run_study(
            splits,
            catalogue,
            plan,
            epsilons=[f"{each:g}" for each in epsilons],
            seeds=range(1, seeds + 1),
            progress=show,
        )
    console.print(as_table(rows))
    console.print(conclusion(rows))
    return rows


def as_table(rows: Sequence[StudyRow]) -> Table:
    """The rows, for a terminal."""
    table = Table(box=None, header_style="dim")
    for title in _COLUMNS:
        table.add_column(title)
    for row in rows:
        low, high = row.interval
        below, above = row.difference_interval
        difference = f"{row.difference:+.4f} ({below:+.4f} to {above:+.4f})"
        table.add_row(
            row.epsilon,
            row.mode,
            str(row.survivors) if row.survivors else "",
            row.protocol,
            f"{row.mean:.4f} ({low:.4f} to {high:.4f})",
            "" if row.mode == CENTRAL else difference,
            ", ".join(f"{each:.2f} with {n}" for n, each in row.epsilon_by_survivors),
        )
    return table


def conclusion(rows: Sequence[StudyRow]) -> str:
    """Whether distributed noise for all K regions is as good as central training, in a sentence."""
    compared = [row for row in rows if row.mode == "K"]
    within = [row for row in compared if row.is_within]
    return (
        f"With shares for all K regions the difference from central training is within its own "
        f"95% interval in {len(within)} of {len(compared)} comparisons."
    )
