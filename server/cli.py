"""``fedpref-server``: how far a run got, what its plan says, and going on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, UsageError, VerificationError
from common.terminal import EXIT_CODES, run_command
from server.commands import answers, insights, membership, metrics, operation, track

if TYPE_CHECKING:
    from common.plan import RunPlan
    from server.config import ServerHome
    from server.resume import Resumption
    from server.status import ServerStatus

app = typer.Typer(
    help="The coordinator's commands: set a federation up, run it, see how far its runs got.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for each in (
    membership.provision,
    membership.enrol,
    operation.start,
    operation.stop,
    operation.logs,
    operation.submit,
    operation.schedule,
    operation.rollback,
    operation.bundle,
    operation.units,
    membership.join,
    membership.remove,
    membership.rotate,
):
    app.command(epilog=EXIT_CODES)(each)
app.command(epilog=EXIT_CODES)(metrics.metrics)
app.command(epilog=EXIT_CODES)(track.track)
app.command(epilog=EXIT_CODES)(insights.insights)
app.command(epilog=EXIT_CODES)(answers.answers)

HomeArgument = Annotated[
    Path,
    typer.Argument(
        help="The coordinator's home folder, which holds its plan.json; or a deployment's folder."
    ),
]
RunOption = Annotated[str | None, typer.Option("--run", help="A deployment's run, by its name.")]


@app.command(epilog=EXIT_CODES)
def status(
    home: HomeArgument,
    events: Annotated[
        int, typer.Option(min=0, max=500, help="How many of the last events to show.")
    ] = 6,
    run: RunOption = None,
) -> int:
    """Show how far a run got: rounds, checkpoint, model, log, refusals, last events.

    Of a deployment, without --run: processes, regions, queue, schedule, all runs. It reads what is
    there, also while a run goes on. It verifies no signature: fedpref-audit does.
    """
    from server.deployment import CONFIG_NAME
    from server.status import read_status

    if run is None and (home / CONFIG_NAME).is_file():
        operation.show_deployment(home)
        return EXIT_OK
    found = read_status(_home_of(home, run), last_events=events)
    console = Console(highlight=False)
    console.print(_progress(found))
    console.print(_facts(found))
    for title, table in (
        ("Rounds", _rounds(found)),
        ("Refused and reported", _incidents(found)),
        ("Last events", _events(found)),
    ):
        if table.row_count:
            console.print(Text(f"\n{title}", style="bold"))
            console.print(table)
    if found.foreign_model:
        console.print(
            Text.assemble(
                ("\nThe model's file is not the model that the log says was published. ", "red"),
                "Verify the run with fedpref-audit.",
            )
        )
        return VerificationError.exit_code
    return EXIT_OK


@app.command(epilog=EXIT_CODES)
def plan(home: HomeArgument, run: RunOption = None) -> None:
    """Show the run plan: mechanisms, their noise and ε, and exactly what will leave a region."""
    from server.status import read_plan

    found = read_plan(_home_of(home, run))
    console = Console(highlight=False)
    console.print(
        Text.assemble(("Run ", "bold"), (found.run_id, "bold"), f" of {found.federation}")
    )
    console.print(_constants(found))
    console.print(Text("\nMechanisms, in each region", style="bold"))
    console.print(_mechanisms(found))
    if found.asks:
        console.print(Text("\nWhat noise would do to the answers", style="bold"))
        console.print(_outlooks(found))
    console.print(Text("\nWhat leaves each region, and nothing else", style="bold"))
    console.print(_arrays(found))


@app.command(epilog=EXIT_CODES)
def resume(
    run: Annotated[
        Path,
        typer.Argument(help="The coordinator's home folder, or the folder of a simulated run."),
    ],
    superlink: Annotated[
        str | None,
        typer.Option(help="Start it there: the connection's name in Flower's configuration."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--app", help="With --superlink: the app bundle's folder.")
    ] = None,
) -> int:
    """Go on with a run whose coordinator ended: with the same round, from the same model.

    First the checkpoint is held to the log; if it does not match, nothing is started. A simulated
    run then goes on here, with its regions. A deployment's is started on a SuperLink if one is
    named; else the command for that is shown. Regions that had answered send the same bytes again.
    """
    from server.resume import (
        carry_on_over,
        carry_on_simulated,
        home_in,
        read_resumption,
        simulated_run,
    )

    if (superlink is None) != (bundle is None):
        raise UsageError("--superlink and --app go together.")
    home = home_in(run)
    found = read_resumption(home)
    console = Console(highlight=False)
    console.print(_going_on(found))
    if superlink is not None and bundle is not None and not found.published:
        started = carry_on_over(superlink, bundle, home)
        console.print(f"Started as Flower's run {started}; fedpref-server status follows it.")
    elif (simulated := simulated_run(run)) is not None:
        carry_on_simulated(simulated)
    elif not found.published:
        console.print("It matches the log. To start it on a SuperLink, name it and the app:")
        console.print(f"  fedpref-server resume {run} --superlink NAME --app FOLDER", style="dim")
    return EXIT_OK


def _home_of(folder: Path, run: str | None) -> ServerHome:
    """The home that is meant: a folder's, a run's in a home of many, or a deployment's run's."""
    from server.config import ServerHome
    from server.deployment import CONFIG_NAME, Deployment

    if run is None:
        if (folder / CONFIG_NAME).is_file():
            raise UsageError("A deployment has several runs.", remedy="Name one: --run.")
        return ServerHome.at(folder)
    if (folder / CONFIG_NAME).is_file():
        return Deployment(folder).home(run)
    return ServerHome(folder, run)


def _going_on(found: Resumption) -> Text:
    text = Text.assemble(("Run ", "bold"), (found.run_id, "bold"))
    what = "answers are" if found.asks else "model is"
    if found.published:
        return text.append(f": its {what} published; there is nothing to go on with.")
    if found.next_round > found.total_rounds:
        text.append(f": all {found.total_rounds} rounds are closed; its {what} published next.")
    else:
        text.append(f": goes on with round {found.next_round} of {found.total_rounds}")
        text.append(f", log size {found.log_size}.")
    if found.model is not None:
        text.append(f"\nModel {found.model}\nmade of {', '.join(found.roster)}", style="dim")
    return text


def _progress(found: ServerStatus) -> Text:
    done, total = len(found.rounds), found.plan.total_rounds
    if found.published is not None:
        state = ("finished", "bold green")
    elif found.log is None:
        state = ("not started", "yellow")
    else:
        state = ("unfinished", "yellow")
    return Text.assemble(
        ("Run ", "bold"), (found.plan.run_id, "bold"), f": {done} of {total} rounds done, ", state
    )


def _facts(found: ServerStatus) -> Table:
    table = _grid()
    table.add_row("plan", found.plan.digest)
    table.add_row(
        "regions", f"{len(found.plan.regions)}, of which a round needs {found.plan.quorum}"
    )
    if found.checkpoint is None:
        table.add_row("checkpoint", "none yet")
    else:
        table.add_row(
            "checkpoint",
            f"round {found.checkpoint.server_round}, log size {found.checkpoint.log_size}",
        )
    table.add_row("answers" if found.plan.asks else "model", _model(found))
    if found.log is None:
        table.add_row("log", "none yet")
    else:
        table.add_row("log", f"{found.log.origin}, {found.log.size} entries")
        table.add_row("log root", found.log.root)
    return table


def _model(found: ServerStatus) -> str:
    if found.published is not None:
        return f"{found.published}\npublished"
    if found.rounds:
        last = found.rounds[-1]
        return f"{last.model_out}\nafter round {last.server_round}; not published yet"
    return "none yet"


def _rounds(found: ServerStatus) -> Table:
    table = _table("round", "mechanism", "regions", "refused", "closed at")
    for done in found.rounds:
        table.add_row(
            str(done.server_round),
            done.mechanism,
            f"{len(done.used)} of {len(found.plan.regions)}",
            ", ".join(f"{region}: {reason}" for region, reason in done.refused) or "–",
            done.end,
        )
    return table


def _incidents(found: ServerStatus) -> Table:
    table = _table("time", "round", "region", "reason")
    for incident in found.incidents:
        table.add_row(
            incident.time,
            "–" if incident.server_round is None else str(incident.server_round),
            incident.region or "–",
            incident.reason,
        )
    return table


def _events(found: ServerStatus) -> Table:
    table = _table("time", "event", "round", "region", "")
    for event in found.events:
        table.add_row(
            *(_cell(event.get(name)) for name in ("time", "event", "round", "region", "reason"))
        )
    return table


def _constants(plan: RunPlan) -> Table:
    from common.planned_keys import stated_delta

    table = _grid()
    for name, value in (
        ("plan", plan.digest),
        (
            "privacy",
            f"ε = {plan.epsilon} at δ = {stated_delta(plan)} for the whole run, in each region",
        ),
        ("unit", f"one {plan.privacy_unit}, {plan.neighboring_relation}"),
        ("mode", _mode(plan)),
        ("aggregation", _aggregation(plan)),
        ("consent", plan.purpose),
        ("regions", ", ".join(plan.regions)),
        ("quorum", f"{plan.quorum} of {len(plan.regions)}; a round waits {plan.round_timeout_s} s"),
        (
            "asked about" if plan.asks else "training",
            f"{plan.train_from} to {plan.train_until}, end exclusive",
        ),
        ("catalogue", f"{plan.catalogue}\n{plan.n_items:,} items"),
        _made(plan),
        ("planned for", f"about {plan.planned_customers:,} customers, a public estimate"),
    ):
        table.add_row(name, value)
    return table


def _made(plan: RunPlan) -> tuple[str, str]:
    """What the run makes: a model, or answers."""
    if plan.asks:
        by_region = [each.name for each in plan.questions if each.scope == "regions"]
        told = f"; by region, too: {', '.join(by_region)}" if by_region else ""
        names = [
            f"{each.name} in {each.steps} steps" if each.goes_by_steps else each.name
            for each in plan.questions
        ]
        return "answers", f"to {', '.join(names)}{told}"
    return (
        "model",
        f"{plan.model}: {plan.strategy} of rank {plan.rank} over the {plan.vocabulary_size:,} "
        "items of the vocabulary",
    )


def _outlooks(plan: RunPlan) -> Table:
    from common.questions_plan import outlooks

    table = _table("question", "95% interval", "of use up to", "with customers", "")
    for each in outlooks(plan):
        table.add_row(
            each.name,
            f"± {each.half_width:.3g} {each.unit}",
            f"± {each.wanted:g}",
            f"{each.customers:,}",
            "noise swamps it" if each.swamped else "",
        )
    return table


def _mode(plan: RunPlan) -> str:
    if plan.mode == "local":
        return "local: each region's releases are (ε, δ)-private by themselves"
    survivors = plan.aggregation.honest_survivors_min
    return f"distributed: sums of at least {survivors} honest regions are (ε, δ)-private"


def _aggregation(plan: RunPlan) -> str:
    from server.robust_noise import unguarded

    rule = plan.aggregation
    withstood = f", withstands {rule.tolerated} hostile" if rule.tolerated else ""
    said = f"{rule.name}: {rule.rule}{withstood}"
    gap = unguarded(plan)
    return said if gap is None else f"{said}. {gap}."


def _mechanisms(plan: RunPlan) -> Table:
    from common.plan import epsilon_bound

    table = _table("mechanism", "rounds", "steps", "σ/C", "C", "σ", "sampling", "ε alone")
    delta = float(plan.delta)
    for each in plan.mechanisms:
        table.add_row(
            each.name,
            _span(each.rounds),
            f"{each.steps}",
            each.noise_multiplier,
            each.clipping_norm,
            f"{each.noise_stddev:.6g}",
            each.sampling_probability,
            f"{epsilon_bound((each.event,), delta):.4f}",
        )
    spent = epsilon_bound(plan.privacy_events(), delta)
    table.add_row("together", "", "", "", "", "", "", f"{spent:.4f}")
    return table


def _arrays(plan: RunPlan) -> Table:
    import math

    import numpy as np

    table = _table("in rounds", "array", "type", "shape", "bytes a round")
    for mechanism in plan.mechanisms:
        for spec in plan.released_arrays(mechanism.name):
            size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            shape = " × ".join(str(length) for length in spec.shape)
            table.add_row(_span(mechanism.rounds), spec.name, spec.dtype, shape, f"{size:,}")
    return table


def _span(rounds: tuple[int, ...]) -> str:
    return str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]}–{rounds[-1]}"


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def main() -> NoReturn:
    """Runs the command line."""
    run_command(app, on_interrupt="Nothing is lost: the same command goes on from here.")


if __name__ == "__main__":
    main()
