"""``fedpref-server``: running a deployment's coordinator, its queue, and what comes of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, FederationError, UsageError, VerificationError
from server.commands.membership import DeploymentArgument, enrol_and_plan, open_deployment

if TYPE_CHECKING:
    from server.deployment import Deployment

_WAIT_POLL_S = 0.5


def start(
    deployment: DeploymentArgument,
    enrol: Annotated[
        list[Path] | None,
        typer.Option(
            "--enrol",
            help="Regions' enrolment.json to take in first, as `enrol` does; all further arguments "
            "count too.",
        ),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Start the coordinator's processes under a supervisor, and wait till they can take a run.

    Run by root, each has a user of its own. The units for systemd are made by `units`.
    """
    from server.programs import start as start_programs

    opened, config = open_deployment(deployment)
    console = Console(highlight=False, soft_wrap=True)
    if more and not enrol:
        raise UsageError(f"{more[0]}: a further argument of start goes with --enrol.")
    if enrol:
        enrol_and_plan(opened, config, [*enrol, *(more or [])], console)
    for state in start_programs(opened, config):
        console.print(f"{state.name}: {state.state.lower()}")
    console.print(f"Regions connect to [bold]{config.server.address}[/bold].")


def stop(
    deployment: DeploymentArgument,
    run: Annotated[
        str | None, typer.Argument(help="Stop only this run, and leave the processes.")
    ] = None,
) -> None:
    """Stop a run, or all of the coordinator's processes; a run under way goes on after a start."""
    from server.programs import supervisor
    from server.queue import request_stop, require_run_name

    opened, _ = open_deployment(deployment)
    console = Console(highlight=False, soft_wrap=True)
    if run is not None:
        request_stop(opened, require_run_name(run))
        console.print(f"The run [bold]{run}[/bold] is being stopped.")
        return
    stopped = supervisor(opened).stop()
    console.print("Stopped." if stopped else "Nothing was running.")


def logs(
    deployment: DeploymentArgument,
    program: Annotated[
        str, typer.Argument(help="superlink, superexec, dispatcher or metrics.")
    ] = "superexec",
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines.")] = 40,
) -> None:
    """Show the last lines that one of the coordinator's processes put out."""
    from server.programs import supervisor

    opened, _ = open_deployment(deployment)
    for line in supervisor(opened).logs(program, lines):
        typer.echo(line)


def submit(
    deployment: DeploymentArgument,
    run: Annotated[str, typer.Argument(help="The run's name, as federation.toml has it.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end.")] = False,
    timeout_minutes: Annotated[
        int, typer.Option(min=1, max=60 * 24 * 30, help="With --wait: for how long.")
    ] = 60 * 24,
) -> int:
    """Queue a run. Runs go one at a time; one that was killed or stopped goes on where it was.

    With --wait it ends with 0 once the model is published, and with 9 if the run failed.
    """
    from server.queue import require_run_name
    from server.queue import submit as queue_run

    opened, _ = open_deployment(deployment)
    entry = queue_run(opened, require_run_name(run))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Run [bold]{run}[/bold] is number {entry.number} in the queue.")
    if not wait:
        return EXIT_OK
    return wait_for(opened.root, entry.number, timeout_minutes * 60.0, console)


def schedule(
    deployment: DeploymentArgument,
    run: Annotated[
        str | None, typer.Argument(help="The declared run that is to be repeated.")
    ] = None,
    every: Annotated[str, typer.Option(help="From one to the next: 12h, 7d, 2w.")] = "7d",
    times: Annotated[int, typer.Option(min=1, max=60, help="How many.")] = 1,
    first: Annotated[
        str, typer.Option(help="When the first is due, as 2026-01-31T02:00:00.000Z; default: now.")
    ] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel all that is scheduled.")] = False,
) -> None:
    """Schedule retraining within the year's ε, or show what is scheduled.

    Each repetition gets a plan now, with a training window that moves along: regions permit each
    plan, or do not. They are queued when due.
    """
    from common.timestamps import format_time, now_ms, parse_time
    from server.programs import own
    from server.provisioning.enrolment import enrolled_regions
    from server.queue import require_run_name
    from server.schedule import cancel as cancel_all
    from server.schedule import make_schedule, parse_interval, read_schedule

    opened, config = open_deployment(deployment)
    console = Console(highlight=False, soft_wrap=True)
    if cancel:
        console.print(f"{cancel_all(opened)} scheduled runs are cancelled; their plans stay.")
        return
    if run is not None:
        made = make_schedule(
            opened,
            config,
            require_run_name(run),
            every=parse_interval(every),
            times=times,
            first_ms=parse_time(first) if first else now_ms(),
            regions=enrolled_regions(opened, config),
        )
        own(opened, config)
        for each in made:
            console.print(f"Planned {opened.home(each.run).plan}, for the regions to permit.")
    table = _table("due", "run")
    for each in read_schedule(opened):
        table.add_row(format_time(each.at_ms), each.run)
    console.print(table if table.row_count else "Nothing is scheduled.")


def rollback(
    deployment: DeploymentArgument,
    run: Annotated[str, typer.Argument(help="The finished run whose model is to be current.")],
) -> None:
    """Publish an earlier model again: logged, and the current one for whoever serves.

    No run may be under way. The next run that finishes publishes its own.
    """
    from common.system_users import acting_as
    from server.current_model import roll_back
    from server.programs import coordinator_user
    from server.queue import require_run_name

    opened, config = open_deployment(deployment)
    with acting_as(coordinator_user(config)):
        current = roll_back(opened.home(require_run_name(run)))
    Console(highlight=False, soft_wrap=True).print(
        f"The current model is that of [bold]{run}[/bold]: {current.model}\n"
        f"logged as entry {current.index}; {opened.home().models}/{current.model}.safetensors"
    )


def bundle(
    deployment: DeploymentArgument,
    run: Annotated[str, typer.Argument(help="The finished run.")],
    region: Annotated[
        list[Path],
        typer.Option("--region", help="A region's folder, home or backup; each of the plan's."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
) -> int:
    """Write the audit bundle of a finished run, and verify it. Exit code 0 if it verifies, else 8.

    It has the regions' consents: make it where they may lie, and give away what `fedpref-audit
    export` makes of it.
    """
    from server.evidence import bundle_run
    from server.queue import require_run_name

    opened, _ = open_deployment(deployment)
    verdict = bundle_run(
        opened.home(require_run_name(run)), [*region, *(more or [])], out.absolute()
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Bundle: {out}; fedpref-audit verify, report and export take it.")
    if verdict.verified:
        console.print("[bold green]It verifies.[/bold green]")
        return EXIT_OK
    console.print(Text.assemble(("It does not verify: ", "bold red"), str(verdict.first_failure)))
    return VerificationError.exit_code


def units(
    deployment: DeploymentArgument,
    into: Annotated[Path, typer.Option(help="Where the unit files go.")] = Path(
        "/etc/systemd/system"
    ),
) -> None:
    """Write the coordinator's systemd units, hardened, each with a user of its own.

    They do what `start` does, from the machine's start on; enable them with systemctl.
    """
    from common.systemd import write_units
    from server.units import server_units

    opened, config = open_deployment(deployment)
    names = write_units(into, server_units(opened, config))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Written to {into}: {', '.join(names)}")
    console.print(f"Then: systemctl daemon-reload; systemctl enable --now {' '.join(names)}")


def show_deployment(folder: Path) -> None:
    """Prints how a deployment is: processes, nodes, queue, schedule, runs, current model."""
    from server.commands.deployment_view import deployment_tables

    opened, config = open_deployment(folder)
    console = Console(highlight=False)
    for title, table in deployment_tables(opened, config):
        if table.row_count:
            console.print(Text(f"\n{title}", style="bold"))
            console.print(table)


def wait_for(root: Path, number: int, timeout_s: float, console: Console) -> int:
    """Waits for the end of a queued run, and shows how far it is.

    Args:
        root: The deployment's folder.
        number: The run's number in the queue.
        timeout_s: For how long, in seconds.
        console: Where progress is shown.

    Raises:
        FederationError: It failed, was stopped, or did not end in time.
    """
    import time

    from server.deployment import Deployment
    from server.queue import find

    opened = Deployment(root)
    deadline = time.monotonic() + timeout_s
    shown = ""
    while time.monotonic() < deadline:
        entry = find(opened, number)
        line = _progress(opened, entry.run)
        if line != shown:
            console.print(line)
            shown = line
        if not entry.active:
            if entry.state == "finished":
                console.print(f"[bold green]Finished:[/bold green] {opened.home(entry.run).model}")
                return EXIT_OK
            raise FederationError(
                f"The run {entry.run} is {entry.state}: {entry.reason or 'as asked'}",
                remedy=f"See fedpref-server status {root} --run {entry.run}; submitted again, it "
                "goes on where it was.",
            )
        time.sleep(_WAIT_POLL_S)
    raise FederationError(
        f"The run did not end within {timeout_s / 60:g} minutes; it goes on.",
        remedy=f"See fedpref-server status {root}.",
    )


def _progress(opened: Deployment, run: str) -> str:
    from server.status import read_status

    found = read_status(opened.home(run), last_events=1)
    done, total = len(found.rounds), found.plan.total_rounds
    event = str(found.events[-1].get("event")) if found.events else "not begun"
    return f"  {done} of {total} rounds; {event}"


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
