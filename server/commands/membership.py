"""``fedpref-server``: setting a federation's coordinator up, and its members that come and go."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.provisioning.federation_config import FederationConfig

DeploymentArgument = Annotated[Path, typer.Argument(help="The deployment's folder.")]


class Renewed(StrEnum):
    """What can be made anew."""

    CERTIFICATE = "certificate"
    SECRETS = "secrets"


def provision(
    declaration: Annotated[Path, typer.Argument(help="The federation's federation.toml.")],
    deployment: Annotated[Path, typer.Argument(help="The folder to make; not there yet.")],
    app: Annotated[
        Path | None,
        typer.Option("--app", help="The app bundle's file; default: built from this checkout."),
    ] = None,
) -> None:
    """Set a federation's coordinator up: CA, keys, secrets, and a start-up kit for each region.

    It is made whole or not at all. No region's key is among what is made: regions make their own.
    """
    from server.provisioning.provision import provision as set_up

    done = set_up(declaration, deployment, app=app)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{done.config.federation.name}[/bold]: {done.deployment.root}")
    console.print(f"  regions connect to {done.config.server.address}")
    console.print(f"  app bundle {done.app_sha256}")
    console.print("  root keys, to be told to every region by another way than its kit:")
    for key_id in done.root_key_ids:
        console.print(f"    {key_id}")
    console.print(f"  kits, each for one region alone: {done.deployment.kits}")
    console.print(
        f"Move the private keys in {done.deployment.officers} and {done.deployment.ca} offline as "
        "soon as the regions are enrolled."
    )


def enrol(
    deployment: DeploymentArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Regions' enrolment.json, and outside witnesses' request.json."),
    ] = None,
    registry_version: Annotated[
        Path | None,
        typer.Option(help="A version of the registry, N.json, that the officers have finished."),
    ] = None,
) -> None:
    """Enrol regions that answered their kits: their keys into the registry, their nodes as nodes.

    Compare each fingerprint with what the region tells you by another way. Where the officers' root
    keys are at hand the registry's next version is signed at once; else it is drafted for them.
    """
    from server.provisioning.enrolment import take_version

    opened, config = open_deployment(deployment)
    console = Console(highlight=False, soft_wrap=True)
    if registry_version is not None:
        number = take_version(opened, config, registry_version)
        console.print(f"Registry version {number} is in force.")
    enrol_and_plan(opened, config, files or [], console)


def join(
    deployment: DeploymentArgument,
    region: Annotated[str, typer.Argument(help="The region's name.")],
    jurisdiction: Annotated[str, typer.Option(help="A new region's country code.")] = "",
    location: Annotated[str, typer.Option(help="Latitude and longitude, such as 52.5,13.4.")] = "",
) -> None:
    """Invite a region, or give an enrolled one a new kit to renew its keys by."""
    from server.provisioning.membership import join as invite

    opened, _ = open_deployment(deployment)
    kit = invite(opened, region, jurisdiction=jurisdiction, location=location)
    Console(highlight=False, soft_wrap=True).print(
        f"Kit: {kit}\nWhen {region} has installed it, enrol its enrolment.json. Runs that are "
        "planned from then on have it."
    )


def remove(
    deployment: DeploymentArgument,
    region: Annotated[str, typer.Argument(help="The region's name.")],
) -> None:
    """Remove a region: its node may not connect any more, its keys are revoked.

    A run under way goes on without it if enough regions are left. Its name is not used again.
    """
    from server.programs import own
    from server.provisioning.membership import remove as remove_region

    opened, config = open_deployment(deployment)
    draft = remove_region(opened, region)
    own(opened, config)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"The node of {region} may not connect from now on.")
    if draft is not None:
        console.print(f"Its keys are revoked once the officers have signed {draft}.")
    else:
        console.print(f"Its keys are revoked; send {opened.home().registry} to every party.")


def rotate(
    deployment: DeploymentArgument,
    what: Annotated[
        Renewed,
        typer.Argument(
            help="certificate: that of the regions' port. secrets: those between the coordinator's "
            "own processes."
        ),
    ],
) -> None:
    """Make a certificate or the secrets anew; `stop` and `start` put them in force.

    Regions' keys are renewed by the regions: `fedpref-region keys rotate`, or a new kit (`join`).
    """
    from server.programs import own
    from server.provisioning.provision import make_certificate, make_secrets

    opened, config = open_deployment(deployment)
    if what is Renewed.CERTIFICATE:
        make_certificate(opened, config)
    else:
        make_secrets(opened)
    own(opened, config)
    Console(highlight=False, soft_wrap=True).print(
        f"Made anew. In force after: fedpref-server stop {deployment}; "
        f"fedpref-server start {deployment}"
    )


def open_deployment(folder: Path) -> tuple[Deployment, FederationConfig]:
    """A deployment's folder and what it declares.

    Raises:
        InputError: It is none, or its declaration is malformed.
    """
    from server.deployment import Deployment
    from server.provisioning.federation_config import read_federation

    opened = Deployment.read(folder)
    return opened, read_federation(opened.config)


def enrol_and_plan(
    opened: Deployment, config: FederationConfig, files: list[Path], console: Console
) -> None:
    """Enrols, and once all invited regions are enrolled makes the plans that are missing."""
    from server.programs import own
    from server.provisioning.enrolment import enrol as take_in
    from server.provisioning.enrolment import enrolled_regions
    from server.provisioning.membership import removed_regions
    from server.provisioning.plans import missing_plans

    done = take_in(opened, config, files)
    for region, fingerprint in done.fingerprints.items():
        console.print(f"[bold]{region}[/bold] enrols with fingerprint {fingerprint}")
    if done.draft is not None:
        console.print(
            f"The officers have to sign {done.draft}: fedpref-region keys root sign, then finish. "
            "Hand the finished version over with --registry-version."
        )
    regions = enrolled_regions(opened, config)
    waiting = {each.name for each in config.regions} - set(regions) - removed_regions(opened)
    if waiting:
        console.print(f"Not enrolled yet: {', '.join(sorted(waiting))}. Plans wait for them.")
    else:
        for name, gap in missing_plans(opened, config, regions):
            plan = opened.home(name).plan
            console.print(f"Planned [bold]{name}[/bold]: {plan}, for the regions to permit.")
            if gap is not None:
                console.print(f"  [yellow]{gap}.[/yellow]")
    own(opened, config)
