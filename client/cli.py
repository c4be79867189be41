"""``fedpref-region``: what a region's operator runs."""

from __future__ import annotations

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.commands import (
    access,
    analytics,
    backup,
    budget,
    check,
    choose,
    consent,
    consents,
    engine_process,
    erase,
    export_subject,
    install,
    keys,
    node,
    notice,
    policy,
    prepare,
    processes,
    profile,
    quality,
    recommend,
    tables,
    tidy,
)
from common.terminal import EXIT_CODES, run_command

app = typer.Typer(
    help="A region's own commands: check its data, sign permits, watch the privacy budget.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(access.app, name="access")
app.add_typer(analytics.app, name="analytics")
app.add_typer(consent.app, name="consent")
app.add_typer(consents.app, name="consents")
app.add_typer(keys.app, name="keys")
app.add_typer(notice.app, name="notice")
app.add_typer(policy.app, name="policy")
app.add_typer(profile.app, name="profile")
app.add_typer(quality.app, name="quality")
app.add_typer(recommend.app, name="recommend")
app.add_typer(tables.app, name="tables")
choose.register(app)
app.command()(engine_process.engine)
app.command()(budget.budget)
app.command()(check.check)
app.command()(erase.erase)
app.command()(prepare.prepare)
app.command()(install.install)
app.command()(install.commission)
app.command()(export_subject.export_subject)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(tidy.tidy)
app.command()(processes.start)
app.command()(processes.status)
app.command()(processes.stop)
app.command()(processes.logs)
app.command()(processes.units)
app.command()(node.node)
app.command()(node.relay)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]


@app.command("check-data")
def check_data(
    source: Annotated[
        Path, typer.Argument(help="The source.toml that declares store and columns.")
    ],
    catalogue: Annotated[Path, typer.Option(help="The public catalogue (Parquet).")],
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least share of rows that must pass.")
    ] = 0.98,
) -> None:
    """Read a store through its mapping and run the quality gate on it.

    By the data standards beside the declaration, or those that come with the program.
    """
    from client.data.quality import quality_gate
    from client.data.row_checks import PurchaseLimits
    from client.data.sources import all_batches, load_source_config
    from client.data.standards import standards_beside
    from common.catalogue import Catalogue

    checked = quality_gate(
        all_batches(load_source_config(source)),
        Catalogue.load(catalogue),
        region=source.parent.parent.name or str(source),
        threshold=threshold,
        limits=PurchaseLimits.of(standards_beside(source)),
    )
    console = Console()
    report = checked.report
    console.print(
        f"[bold green]{report.score:.4%}[/bold green] of {report.rows_in_scope:,} rows pass "
        f"(threshold {threshold:.0%}); {report.rows_accepted:,} are used. Not counted: "
        f"{report.rows_out_of_home:,} rows of other regions' customers, "
        f"{report.rows_out_of_scope:,} of excluded products."
    )
    table = Table(box=None, header_style="dim")
    table.add_column("left out because")
    table.add_column("rows", justify="right")
    for reason, count in report.reasons.items():
        table.add_row(reason, f"{count:,}")
    console.print(table)


@app.command()
def permit(
    home: HomeArgument,
    plan: Annotated[Path, typer.Argument(help="The run plan (plan.json) that the server sent.")],
    app_sha256: Annotated[
        str | None,
        typer.Option(
            "--app",
            help="SHA-256 of the permitted app bundle; default: the only one that the policy has.",
        ),
    ] = None,
    valid_for_hours: Annotated[int, typer.Option(min=1, max=24 * 31)] = 72,
) -> None:
    """Sign and log a permit for one run, if the region's policy allows the plan."""
    from client.engine.home import RegionHome
    from client.engine.permit_desk import only_bundle, sign_permit
    from client.engine.plan_file import read_plan
    from client.engine.service import open_engine

    region = RegionHome.read(home)
    with open_engine(region) as engine:
        bundle = only_bundle(engine.policy) if app_sha256 is None else app_sha256
        permit_id = sign_permit(
            engine, read_plan(plan), app=bundle, valid_for_s=valid_for_hours * 3600
        )
    Console().print(f"[bold]{region.region}[/bold] permits the run: permit {permit_id}, logged.")


def main() -> None:
    """Runs the command line."""
    run_command(app)


if __name__ == "__main__":
    main()
