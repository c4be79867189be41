"""``fedpref-region check``: whether a region is ready to start, and what it would allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from client.inspection.findings import Problem
    from client.inspection.inspect_region import Inspection
    from client.inspection.leaving import PermittedRun
    from common.canonical_json import JsonValue

_ALSO_LEAVES = (
    "Besides, and not noised: the region's name, size, root and times of its log, the customers' "
    "number as a power-of-two interval, digests, signatures, and reason codes of refusals."
)


def check(
    home: Annotated[Path, typer.Argument(help="The region's folder or its home.")],
    settings: Annotated[
        Path | None, typer.Option(help="The region.toml; default: the one beside the home.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask neither the SuperLink nor the witnesses.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Check a region before it starts: what it allows, what would leave, and every problem.

    Each problem names file, field and remedy. Exit code 0 only if there is none; else the code of
    the first one. Nothing is changed. Started as root, the home is read as the engine's user.
    """
    from client.inspection.inspect_region import inspect_region
    from common import canonical_json

    found = inspect_region(home, settings=settings, offline=offline)
    if as_json:
        typer.echo(canonical_json.encode(_record(found)))
        return found.exit_code
    console = Console(highlight=False)
    _print_permissions(console, found)
    for run in found.runs:
        _print_run(console, run)
    for note in found.notes:
        console.print(Text.assemble(("Note: ", "yellow"), note))
    _print_problems(console, found)
    return found.exit_code


def _print_permissions(console: Console, found: Inspection) -> None:
    console.print(Text(f"What {found.region or 'the region'} allows", style="bold"))
    if found.policy is None:
        console.print("Nothing: there is no policy that can be read.")
    else:
        table = _table("field", "policy")
        for name, value in sorted(found.policy.to_record().items()):
            table.add_row(name, _shown(value))
        console.print(table)
    if found.in_force is not None:
        console.print(f"{found.in_force:,} customers' consents are in force.")
    console.print()


def _print_run(console: Console, run: PermittedRun) -> None:
    from common.planned_keys import stated_delta
    from common.timestamps import format_time

    console.print(Text(f"What would leave in run {run.plan.run_id}", style="bold"))
    console.print(
        f"Permitted till {format_time(run.permit.expires_ms)} for the app bundle "
        f"{run.permit.app[:16]}…; ε = {run.plan.epsilon} at δ = {stated_delta(run.plan)}; "
        f"{run.plan.aggregation.name}, {run.plan.mode} noise."
    )
    table = _table("rounds", "array", "type", "shape", "bytes a round")
    for each in run.arrays:
        table.add_row(
            _span(each.first_round, each.last_round),
            each.name,
            each.dtype,
            " × ".join(map(str, each.shape)),
            f"{each.bytes_a_round:,}",
        )
    console.print(table)
    masked = ", under masks" if run.plan.aggregation.name == "confidential" else ""
    console.print(f"{run.total_bytes:,} bytes of noised values{masked}, in all. {_ALSO_LEAVES}")
    console.print(_budget(run))
    console.print()


def _budget(run: PermittedRun) -> str:
    from common.search import MAX_MORE

    if run.outlook is None:
        return "The budget cannot be read."
    left = run.plan.total_rounds - run.outlook.rounds_charged
    more = run.outlook.more_runs.count
    counted = f"{more:,}" + (" or more" if more >= MAX_MORE else "")
    paid = "paid for" if run.outlook.excess is None else "not all paid for"
    return (
        f"Budget: {run.outlook.rounds_charged} of {run.plan.total_rounds} rounds are charged; the "
        f"{left} that are left are {paid}. After it the year pays for {counted} more such runs."
    )


def _print_problems(console: Console, found: Inspection) -> None:
    if not found.problems:
        console.print(Text("No problem was found: the region is ready to start.", style="green"))
        return
    for number, each in enumerate(found.problems, start=1):
        console.print(
            Text.assemble(
                (f"{number}. {each.kind}: ", "bold red"), (each.place, "bold"), f": {each.message}"
            )
        )
        console.print(Text(f"   {each.remedy}", style="dim"))
    count = len(found.problems)
    console.print(f"{count} {'problem' if count == 1 else 'problems'}: mend before you start.")


def _record(found: Inspection) -> dict[str, JsonValue]:
    return {
        "v": "fedpref-check/1",
        "region": found.region,
        "policy": None if found.policy is None else found.policy.to_record(),
        "consents_in_force": found.in_force,
        "runs": [_run_record(run) for run in found.runs],
        "problems": [_problem_record(each) for each in found.problems],
        "notes": list(found.notes),
        "exit_code": found.exit_code,
    }


def _run_record(run: PermittedRun) -> dict[str, JsonValue]:
    outlook = run.outlook
    return {
        "run": run.plan.run_id,
        "app": run.permit.app,
        "rounds": run.plan.total_rounds,
        "rounds_charged": None if outlook is None else outlook.rounds_charged,
        "rest_is_paid_for": None if outlook is None else outlook.excess is None,
        "more_runs": None if outlook is None else outlook.more_runs.count,
        "bytes": run.total_bytes,
        "arrays": [
            {
                "mechanism": each.mechanism,
                "rounds": each.rounds,
                "name": each.name,
                "dtype": each.dtype,
                "shape": list(each.shape),
                "bytes_a_round": each.bytes_a_round,
            }
            for each in run.arrays
        ],
    }


def _problem_record(problem: Problem) -> dict[str, JsonValue]:
    return {
        "kind": str(problem.kind),
        "place": problem.place,
        "message": problem.message,
        "remedy": problem.remedy,
        "exit_code": problem.exit_code,
    }


def _shown(value: JsonValue) -> Text:
    from common import canonical_json

    return Text(value if isinstance(value, str) else canonical_json.encode(value).decode())


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
