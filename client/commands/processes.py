"""``fedpref-region start``, ``status``, ``stop``, ``logs``, ``units``: a region's processes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import EXIT_OK, InputError

if TYPE_CHECKING:
    from client.settings import RegionSettings
    from common.supervision import Program, ProgramState, Supervised

HomesArgument = Annotated[list[Path], typer.Argument(help="Regions' folders, or their homes.")]
#: `status` ends with it if a process does not run: whoever watches needs no more.
EXIT_NOT_RUNNING = 3

_ENGINE_READY_S = 120.0
_POLL_S = 0.1
_LAST_LINES = 5


def start(
    homes: HomesArgument,
    registry: Annotated[
        Path | None, typer.Option(help="The folder of the key registry's versions to install.")
    ] = None,
    permit: Annotated[
        list[Path] | None,
        typer.Option(help="A run plan (plan.json) to permit; may be repeated. Read it first."),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Start in spite of what `check` finds.")
    ] = False,
) -> None:
    """Start regions' engines, nodes, relays and what else is set, and keep them up.

    With a registry or a plan the region is commissioned first, as `fedpref-region commission` does;
    a running region is stopped for that. Then it is checked, as `fedpref-region check --offline`
    does, and not started if anything is wrong. Started by root, each process has its own user.
    """
    from client.installation.commissioning import commission_as_engine_user
    from client.node.programs import prepare_folders, region_programs
    from client.settings import RegionSettings

    console = Console(highlight=False, soft_wrap=True)
    for home in homes:
        settings = RegionSettings.read(home)
        supervised = supervision_of(settings)
        if registry is not None or permit:
            if supervised.stop():
                console.print(f"{settings.region.name}: stopped, to be commissioned.")
            done = commission_as_engine_user(settings.folder, registry=registry, plans=permit or [])
            _say_commissioned(console, settings, done.permits)
        running = supervised.running()
        prepare_folders(settings, new_secret=not running)
        if not running and not unchecked:
            _require_sound(settings)
        programs = _startable(settings, region_programs(settings), console)
        states = supervised.start(programs)
        _require_up(settings, supervised, states)
        *others, last = [program.name for program in programs]
        console.print(
            f"[bold]{settings.region.name}[/bold]: {', '.join(others)} and {last} run; "
            f"logs in {settings.logs_folder}."
        )


def status(
    homes: HomesArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Show whether regions' processes run. Exit code 3 if one does not."""
    from client.settings import RegionSettings

    rows: list[tuple[str, ProgramState]] = []
    complete = True
    for home in homes:
        settings = RegionSettings.read(home)
        states = supervision_of(settings).status()
        complete &= bool(states) and all(state.running for state in states)
        rows += [(settings.region.name, state) for state in states]
    if as_json:
        typer.echo(json.dumps([_record(region, state) for region, state in rows], indent=2))
    else:
        _print_states(rows)
    return EXIT_OK if complete else EXIT_NOT_RUNNING


def stop(homes: HomesArgument) -> None:
    """Stop regions' processes, the engine last. A round under way is sealed or forgotten."""
    from client.settings import RegionSettings

    console = Console(highlight=False)
    for home in homes:
        settings = RegionSettings.read(home)
        stopped = supervision_of(settings).stop()
        console.print(f"{settings.region.name}: {'stopped' if stopped else 'did not run'}.")


def logs(
    home: Annotated[Path, typer.Argument(help="The region's folder, or its home.")],
    process: Annotated[
        str, typer.Argument(help="engine, node, relay, recommender or profiles.")
    ] = "engine",
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="How many lines.")] = 50,
) -> None:
    """Print the last lines of a process's log."""
    from client.settings import RegionSettings

    for line in supervision_of(RegionSettings.read(home)).logs(process, lines):
        typer.echo(line)


def units(
    homes: HomesArgument,
    into: Annotated[Path, typer.Option(help="Where the unit files are written.")] = Path(
        "/etc/systemd/system"
    ),
) -> None:
    """Write systemd units for regions' processes, and give each process what is its.

    To be run as root, in the place of `fedpref-region start`: systemd then starts, confines and
    restarts the processes. Stop the region first.
    """
    from client.node.programs import prepare_folders
    from client.node.units import region_units
    from client.settings import RegionSettings
    from common.systemd import write_units

    console = Console(highlight=False, soft_wrap=True)
    for home in homes:
        settings = RegionSettings.read(home)
        if supervision_of(settings).running():
            raise InputError(
                f"{settings.region.name} runs without systemd.",
                remedy=f"fedpref-region stop {settings.folder}",
            )
        prepare_folders(settings, new_secret=True)
        names = write_units(into, region_units(settings))
        console.print(f"[bold]{settings.region.name}[/bold]: wrote {', '.join(names)}.")
    console.print("Then: systemctl daemon-reload, and systemctl enable --now each of them.")


def supervision_of(settings: RegionSettings) -> Supervised:
    """The supervisor of a region's processes, running or not."""
    from common.supervision import Supervised

    # Not beside the engine's sockets: in that folder the engine's user could put another's.
    return Supervised(settings.folder / "supervisor", logs=settings.logs_folder)


def _require_sound(settings: RegionSettings) -> None:
    """Refuses to start a region of which something is wrong; says all of it."""
    from client.inspection.inspect_region import inspect_region

    found = inspect_region(settings.folder, offline=True)
    if found.problems:
        told = "\n".join(f"- {each.place}: {each.message}" for each in found.problems)
        raise InputError(
            f"{settings.region.name} is not started:\n{told}",
            remedy="Mend it; `fedpref-region check` says more. --unchecked starts in spite of it.",
        )


def _startable(
    settings: RegionSettings, programs: Sequence[Program], console: Console
) -> list[Program]:
    """Leaves out a recommender that has nothing to serve yet, and says so."""
    from client.node.programs import RECOMMENDER
    from client.recommend.release import installed

    if settings.recommender is None or installed(settings.home) is not None:
        return list(programs)
    console.print(
        f"{settings.region.name}: no model is installed, so the recommender is not started. Once "
        "there is one: fedpref-region recommend install, then start the region again."
    )
    return [program for program in programs if program.name != RECOMMENDER]


def _require_up(
    settings: RegionSettings, supervised: Supervised, states: Sequence[ProgramState]
) -> None:
    """Waits until the engine can be asked; says why, if a process does not stay up."""
    deadline = time.monotonic() + _ENGINE_READY_S
    while all(state.running for state in states):
        if settings.engine.socket.is_socket():
            return
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
        states = supervised.status()
    down = next((state for state in states if not state.running), None)
    name = "engine" if down is None else down.name
    said = "\n".join(supervised.logs(name, _LAST_LINES))
    raise InputError(
        f"{settings.region.name}: the {name} does not stay up; it is started again and again. Its "
        f"last words:\n{said}",
        remedy=f"Mend what it names; fedpref-region logs {settings.folder} {name}",
    )


def _say_commissioned(console: Console, settings: RegionSettings, permits: Sequence[str]) -> None:
    told = f", permits {', '.join(permits)}" if permits else ""
    console.print(f"{settings.region.name}: commissioned{told}.")


def _print_states(rows: Sequence[tuple[str, ProgramState]]) -> None:
    table = Table(box=None, header_style="dim")
    for heading in ("region", "process", "state", "pid", ""):
        table.add_column(heading)
    for region, state in rows:
        colour = "green" if state.running else "red"
        table.add_row(
            region,
            state.name,
            f"[{colour}]{state.state.lower()}[/{colour}]",
            "–" if state.pid is None else str(state.pid),
            state.detail,
        )
    console = Console()
    console.print(table if rows else "No process of these regions runs.")


def _record(region: str, state: ProgramState) -> dict[str, str | int | bool | None]:
    return {
        "region": region,
        "process": state.name,
        "state": state.state.lower(),
        "running": state.running,
        "pid": state.pid,
        "up_s": state.up_s,
    }
