"""``fedpref-region consent …``: the customers' service, and a login for trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The consent service for customers, and a login for trials.", no_args_is_help=True
)
issuer_app = typer.Typer(
    help="A login for trials. DEMO ONLY: whoever has its key can sign in as any customer.",
    no_args_is_help=True,
)
app.add_typer(issuer_app, name="issuer")

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]


@app.command()
def serve(
    home: HomeArgument,
    engine_socket: Annotated[
        Path | None,
        typer.Option(
            help="The consent socket of the region's running engine (its --consent-socket). This "
            "process then opens neither keys nor log. Without it the log is opened here."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; a reverse proxy stands before it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8420,
) -> None:
    """Serve the page and the HTTP API on which customers decide, until interrupted.

    Settings are read from consent.toml in the region's home.
    """
    from client.consent_service.serving import serve_service
    from client.engine.home import RegionHome

    serve_service(
        RegionHome.read(home),
        engine_socket=engine_socket,
        host=host,
        port=port,
        say=lambda text: typer.echo(text),
    )


@issuer_app.command("new")
def new_issuer(
    file: Annotated[Path, typer.Argument(help="Where the signing key is written.")],
    home: Annotated[
        Path | None,
        typer.Option(help="A region's home whose consent service is to trust this login."),
    ] = None,
    public_url: Annotated[
        str, typer.Option(help="The service's address, for its settings.")
    ] = "http://127.0.0.1:8420",
) -> None:
    """DEMO ONLY: make a login's signing key, and its public keys (JWKS) beside it."""
    from client.consent_service.demo_issuer import JWKS_NAME, make_demo_issuer, trust_demo_issuer
    from client.engine.home import RegionHome

    if home is not None:
        RegionHome.read(home)
    issuer = make_demo_issuer(file)
    typer.echo(f"DEMO ONLY: {file} can sign in as any customer. Public keys: {JWKS_NAME}.")
    if home is not None:
        trust_demo_issuer(home, issuer, public_url=public_url)
        typer.echo(f"{home} trusts it: consent.toml.")


@app.command()
def token(
    issuer_key: Annotated[Path, typer.Option(help="The demo login's signing key.")],
    customer: Annotated[str, typer.Option(help="The customer's reference.")],
    minor: Annotated[bool, typer.Option("--minor", help="The customer is a minor.")] = False,
    guardian: Annotated[
        bool, typer.Option("--guardian", help="The minor's guardian signs in.")
    ] = False,
    audience: Annotated[
        str | None, typer.Option(help="The service's audience, if it is not the demo's.")
    ] = None,
) -> None:
    """DEMO ONLY: sign in as a customer. Prints a login token that is valid for two minutes."""
    from client.consent_service.demo_issuer import AUDIENCE, open_demo_issuer
    from common.errors import UsageError

    if guardian and not minor:
        raise UsageError("Only a minor has a guardian.", remedy="Add --minor.")
    made = open_demo_issuer(issuer_key).token(
        customer, audience=audience or AUDIENCE, minor=minor, guardian=guardian
    )
    typer.echo(made)
