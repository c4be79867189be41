"""``fedpref-region install`` and ``commission``: from a start-up kit to a region that can start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import InputError


def install(
    kits: Annotated[list[Path], typer.Argument(help="Start-up kits, REGION.kit each.")],
    into: Annotated[Path, typer.Option(help="The folder of regions; each gets a folder in it.")],
    answers: Annotated[
        Path | None,
        typer.Option(
            help="What you decide: a folder with REGION/region.toml for each. Without it, the "
            "region.toml that is made has the kit's example, to be answered in place."
        ),
    ] = None,
    root_key: Annotated[
        list[str] | None,
        typer.Option(
            "--root-key",
            help="The id of one of the federation's root keys, as its officers told you; give all "
            "of them. Without, the kit's own are taken, and shown for you to compare.",
        ),
    ] = None,
) -> None:
    """Install start-up kits: make each region's keys, settings and enrolment.

    Keys are made here and stay here. Send enrolment.json to the coordinator, and tell the officers
    its fingerprint by another way. Run by root, each process's files are given to its own user.
    """
    from client.installation.composed_settings import read_answers
    from client.installation.installing import install_kit

    if answers is not None and not answers.is_dir():
        raise InputError(f"There is no folder {answers}.", remedy="Name the folder of answers.")
    console = Console(highlight=False, soft_wrap=True)
    shown: set[tuple[str, ...]] = set()
    for kit in kits:
        done = install_kit(
            kit,
            into,
            answers_of=None if answers is None else lambda region: read_answers(answers, region),
            root_key_ids=tuple(root_key or ()),
        )
        if not root_key and done.root_key_ids not in shown:
            shown.add(done.root_key_ids)
            console.print("Root keys of the federation, to be compared with the officers':")
            for key_id in done.root_key_ids:
                console.print(f"  {key_id}")
        console.print(f"[bold]{done.region}[/bold]: {done.folder}")
        console.print(f"  enrolment {done.folder}/enrolment.json, fingerprint {done.fingerprint}")
        if not done.answered:
            console.print(
                f"  [yellow]Answer {done.folder}/region.toml before it is commissioned.[/yellow]"
            )


def commission(
    regions: Annotated[list[Path], typer.Argument(help="The regions' folders.")],
    registry: Annotated[
        Path | None, typer.Option(help="The folder of the key registry's versions, 1.json and on.")
    ] = None,
    permit: Annotated[
        list[Path] | None,
        typer.Option(help="A run plan (plan.json) to permit; may be repeated. Read it first."),
    ] = None,
) -> None:
    """Begin the records of enrolled regions: registry, notice, policy, consents, permits.

    `fedpref-region start` does the same with its own options. The region's engine must not be
    running. Repeating it changes nothing that is there.
    """
    from client.installation.commissioning import commission_as_engine_user

    console = Console(highlight=False, soft_wrap=True)
    for folder in regions:
        done = commission_as_engine_user(folder, registry=registry, plans=permit or [])
        permits = f", permits {', '.join(done.permits)}" if done.permits else ""
        console.print(
            f"[bold]{done.region}[/bold]: registry version {done.registry_version}, "
            f"{done.imported} consents imported{permits}."
        )
