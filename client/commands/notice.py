"""``fedpref-region notice``: what customers are told, version by version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Notices: publish one, list those in the log.",
    no_args_is_help=True,
)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]


@app.command()
def publish(
    home: HomeArgument,
    notice: Annotated[
        Path,
        typer.Argument(
            help="Its TOML file: notice_id, lang, controller, purposes, recipients, retention, "
            "storage, contact, text."
        ),
    ],
    supersedes: Annotated[
        str,
        typer.Option(
            help="The digest of the notice that it replaces; auto: the newest of its language; "
            "none: it replaces none."
        ),
    ] = "auto",
    in_force_from: Annotated[
        str, typer.Option(help="From when, as 2026-01-31T23:59:59.999Z; default: now.")
    ] = "",
) -> None:
    """Sign a notice with the controller's key and log it.

    Consents to the notice that it replaces lapse once the policy's notice_grace_s has passed after
    it came into force; the consent service asks every customer anew.
    """
    from client.consent_service.notices import publish as publish_notice
    from client.consent_service.notices import read_notice_file
    from client.consent_service.region_records import open_records
    from client.engine.home import RegionHome
    from client.engine.policy import read_policy
    from common.timestamps import format_time, now_ms, parse_time

    region = RegionHome.read(home)
    policy = read_policy(region.policy)
    declared = read_notice_file(notice)
    from_ms = parse_time(in_force_from) if in_force_from else now_ms()
    with open_records(region) as records:
        logged = publish_notice(
            records.log,
            records.state,
            declared,
            region.signer("controller"),
            supersedes=None if supersedes == "none" else supersedes,
            in_force_from_ms=from_ms,
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"Notice {logged.notice.notice_id} ({logged.notice.lang}) is in the log as entry "
        f"{logged.index}: {logged.sha256}"
    )
    if logged.notice.supersedes:
        lapse = format_time(logged.notice.in_force_from_ms + policy.notice_grace_s * 1000)
        console.print(f"Consents to {logged.notice.supersedes[:12]}… lapse at {lapse}.")


@app.command("list")
def list_notices(
    home: HomeArgument,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show every notice in the log, and which ones customers are asked about now."""
    from client.consent_service.notices import logged_notices, notice_row, offered
    from client.engine.home import RegionHome
    from common import canonical_json
    from common.timestamps import now_ms

    notices = logged_notices(RegionHome.read(home))
    if json:
        for each in notices:
            typer.echo(canonical_json.encode(notice_row(notices, each)))
        return
    asked = {each.sha256 for each in offered(notices, now_ms()).values()}
    table = Table(box=None, header_style="dim")
    for title in ("entry", "notice", "language", "in force from", "supersedes", "sha256", ""):
        table.add_column(title, overflow="fold")
    for each in notices:
        notice = each.notice
        table.add_row(
            str(each.index),
            notice.notice_id,
            notice.lang,
            notice.in_force_from,
            (notice.supersedes or "")[:12],
            each.sha256[:12],
            "shown to customers" if each.sha256 in asked else "",
        )
    Console().print(table)
