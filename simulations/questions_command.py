"""``fedpref-sim ask``: a run of questions over a simulated federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def ask(
    questions: Annotated[
        Path, typer.Argument(help="What is asked: a TOML file with a [[question]] table for each.")
    ],
    scenario: Annotated[str, typer.Option(help="The scenario.")] = "synthetic-3",
    epsilon: Annotated[float, typer.Option(help="ε of the whole run, for one customer.")] = 1.0,
    noise: Annotated[
        str, typer.Option(help="local, or distributed with the aggregation secure-sum.")
    ] = "local",
    out: Annotated[Path, typer.Option(help="A new folder for the run.")] = Path("runs/questions"),
    seed: Annotated[int, typer.Option(help="Of data and choices; never of noise.")] = 1,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Ask even where noise would swamp an answer.")
    ] = False,
) -> None:
    """Ask a simulated federation: keys, consents, charges, sums, logs and verdict are real.

    What noise would do to each answer is reckoned first; where it would swamp one, nothing is
    asked. fedpref-server answers shows what came of it.
    """
    from common.errors import UsageError
    from common.questions_plan import QuestionsFile
    from simulations.analytics_run import QuestionsRun, run_questions
    from simulations.scenarios import find_scenario

    if noise not in ("local", "distributed"):
        raise UsageError(f"--noise is {noise[:32]!r}; it is local or distributed.")
    console = Console(highlight=False, soft_wrap=True)
    run = QuestionsRun(
        find_scenario(scenario),
        QuestionsFile.read(questions),
        epsilon=f"{epsilon:.6f}".rstrip("0").rstrip("."),
        seed=seed,
        mode="distributed" if noise == "distributed" else "local",
        anyway=anyway,
    )
    found = run_questions(run, out, console=console)
    console.print(
        f"[bold green]Verified[/bold green]: {len(found.answers)} answers of run {found.run}.\n"
        f"Read   fedpref-server answers {out}\nCheck  fedpref-audit verify {out}"
    )
