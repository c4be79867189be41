"""``fedpref-region policy``: what a region allows; signing it with the controller's key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, PolicyError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.engine.policy import RegionPolicy
    from client.engine.policy_desk import PolicyChange
    from client.engine.policy_standing import PolicyStanding
    from common.canonical_json import JsonValue

app = typer.Typer(
    help="The region's policy: show it, compare it with region.toml, sign it.",
    no_args_is_help=True,
)

HomeArgument = Annotated[Path, typer.Argument(help="The region's folder or its home.")]
SettingsOption = Annotated[
    Path | None,
    typer.Option(help="The region.toml; default: the one beside the home."),
]


@app.command()
def show(
    home: HomeArgument,
    settings: SettingsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show the policy that is in force, and where region.toml differs from it."""
    from client.engine.home import RegionHome
    from client.engine.policy_standing import read_standing
    from common import canonical_json

    region = RegionHome.read(home)
    standing = read_standing(region, _declared_if_any(region, settings))
    if json:
        typer.echo(canonical_json.encode(_record(standing)))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_headline(standing))
    if standing.logged is not None:
        table = _table("field", "in force" if standing.is_in_force else "logged")
        for name, value in sorted(standing.logged.fields.items()):
            table.add_row(name, _value(value))
        console.print(table)
    _print_changes(console, standing)


@app.command()
def check(
    home: HomeArgument,
    settings: SettingsOption = None,
    plan: Annotated[
        Path | None, typer.Option(help="A run plan: would region.toml's policy allow it?")
    ] = None,
) -> int:
    """Check region.toml's policy: whether it is in force, and which permits it would end.

    Exit code 0 if it is in force, and allows the plan if one is named; 7 if not.
    """
    from client.engine.home import RegionHome
    from client.engine.plan_file import read_plan
    from client.engine.policy_standing import ended_permits, read_standing
    from common.timestamps import now_ms

    region = RegionHome.read(home)
    declared = _declared(region, settings)
    standing = read_standing(region, declared)
    console = Console(highlight=False, soft_wrap=True)
    console.print(_headline(standing))
    _print_changes(console, standing)
    for each in ended_permits(region, declared, now_ms()):
        console.print(f"The permit of run {each.run} would end: {each.why}", markup=False)
    if plan is not None:
        declared.check_plan(read_plan(plan))
        console.print(f"It allows the plan {plan}.", markup=False)
    return EXIT_OK if standing.is_as_declared else PolicyError.exit_code


@app.command()
def sign(
    home: HomeArgument,
    settings: SettingsOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sign region.toml's policy with the controller's key, log it, and put it in force.

    The engine must not be running, because the policy goes into its log. What changes is shown
    first, with what is allowed from now on that was not. Signing what is in force changes nothing.
    """
    from client.consent_service.region_records import open_region_log
    from client.engine.home import RegionHome
    from client.engine.policy_desk import sign_policy
    from client.engine.policy_standing import ended_permits, read_standing
    from common.timestamps import now_ms

    region = RegionHome.read(home)
    declared = _declared(region, settings)
    standing = read_standing(region, declared)
    console = Console(highlight=False, soft_wrap=True)
    if standing.is_as_declared:
        console.print(f"{region.region}: this policy is in force already.")
        return
    _print_changes(console, standing)
    for each in ended_permits(region, declared, now_ms()):
        console.print(f"The permit of run {each.run} will end: {each.why}", markup=False)
    if not yes:
        typer.confirm("Sign it?", abort=True)
    with open_region_log(region) as log:
        logged = sign_policy(region, log, declared)
    console.print(
        f"{region.region}: policy {logged.sha256[:16]}… is in force, entry {logged.index} of its "
        "log."
    )


def _declared(region: RegionHome, settings: Path | None) -> RegionPolicy:
    """The policy of the settings, which must be that region's own."""
    from client.settings import RegionSettings

    found = RegionSettings.read(region.root if settings is None else settings)
    if found.region.name != region.region:
        raise PolicyError(
            f"{found.path}: [region] name is {found.region.name}, and the home {region.root} is of "
            f"{region.region}.",
            remedy="Name the settings of this region.",
        )
    return found.policy


def _declared_if_any(region: RegionHome, settings: Path | None) -> RegionPolicy | None:
    from client.settings import settings_file

    if settings is None and not settings_file(region.root).exists():
        return None
    return _declared(region, settings)


def _headline(standing: PolicyStanding) -> Text:
    if standing.logged is None:
        return Text(f"{standing.region}: no policy was ever logged; the engine does not start.")
    logged = standing.logged
    place = f"{logged.sha256[:16]}…, entry {logged.index} of its log"
    if standing.is_in_force:
        return Text.assemble(
            (standing.region, "bold"),
            f": policy {place}, is in force since {logged.in_force_from}.",
        )
    return Text(
        f"{standing.region}: the log has the policy {place}; {standing.path} is not that policy, "
        "and the engine does not start.",
        style="red",
    )


def _print_changes(console: Console, standing: PolicyStanding) -> None:
    if standing.declared is None:
        return
    if not standing.changes:
        console.print("region.toml says the same.")
        return
    table = _table("field", "signed", "in region.toml", "")
    for each in standing.changes:
        table.add_row(each.field, _value(each.before), _value(each.after), _direction(each))
    console.print("region.toml differs:")
    console.print(table)


def _direction(change: PolicyChange) -> Text:
    if change.allows_more is None:
        return Text("")
    return Text("allows more", style="bold") if change.allows_more else Text("allows less")


def _value(value: JsonValue) -> Text:
    from common import canonical_json

    if value is None:
        return Text("not stated", style="dim")
    return Text(value if isinstance(value, str) else canonical_json.encode(value).decode())


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _record(standing: PolicyStanding) -> dict[str, JsonValue]:
    logged = standing.logged
    return {
        "v": "fedpref-policy-standing/1",
        "region": standing.region,
        "in_force": standing.is_in_force,
        "sha256": None if logged is None else logged.sha256,
        "index": None if logged is None else logged.index,
        "in_force_from": None if logged is None else logged.in_force_from,
        "policy": None if logged is None else dict(logged.fields),
        "changes": [
            {
                "field": each.field,
                "before": each.before,
                "after": each.after,
                "allows_more": each.allows_more,
            }
            for each in standing.changes
        ],
    }
