"""``fedpref-audit witness``: an outside witness, stand-alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.errors import EXIT_OK, InputError
from common.terminal import EXIT_CODES

witness_app = typer.Typer(
    no_args_is_help=True,
    help="An outside witness: cosigns logs that only grow, and keeps what contradicts them.",
    epilog=EXIT_CODES,
)

Folder = Annotated[Path, typer.Argument(help="The witness's home folder.")]

_DAY_MS = 24 * 3600 * 1000


@witness_app.command(epilog=EXIT_CODES)
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The witness's party name, as it is to be enrolled.")],
    federation: Annotated[
        str | None,
        typer.Option(help="The federation: also writes a signed request to enrol the key."),
    ] = None,
    days: Annotated[int, typer.Option(help="For how long the key is to be valid.", min=1)] = 366,
) -> int:
    """Makes a new witness: its key and its memory; prints what the key registry must say of it."""
    from common.audit.witness.home import ROLE, make_home
    from common.durable_file import write_durably
    from common.key_entry import KeyEntry
    from common.key_request import make_request
    from common.timestamps import now_ms
    from common.validate import party

    party(name, "The witness's name")
    now, signer = now_ms(), make_home(folder)
    entry = KeyEntry(
        key_id=signer.key_id,
        public_key=signer.public_key,
        party=name,
        role=ROLE,
        not_before_ms=now,
        not_after_ms=now + days * _DAY_MS,
        revoked_at_ms=None,
    )
    if federation is not None:
        request = make_request(signer, federation=federation, party=name, role=ROLE, at_ms=now)
        write_durably(folder / "request.json", request, mode=0o644)
        typer.echo(f"Request to enrol the key: {folder / 'request.json'}", err=True)
    typer.echo(json.dumps(entry.to_record(), indent=2))
    return EXIT_OK


@witness_app.command(epilog=EXIT_CODES)
def serve(
    folder: Folder,
    registry: Annotated[Path, typer.Option(help="Folder of the key registry: 1.json, 2.json, …")],
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="Id of a root key you trust (64 hex digits); may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8730,
) -> int:
    """Answers POST /add-checkpoint (C2SP tlog-witness) until Ctrl-C; GET / shows its state.

    A new version of the key registry takes effect as soon as it is in the folder. Put TLS before it
    where others than a trusted network reach it.
    """
    try:
        from common.audit.witness.serve import serve_witness
    except ModuleNotFoundError as error:
        raise InputError(
            f"The witness's server needs {error.name}.", remedy="Install fedpref[witness]."
        ) from error

    serve_witness(folder, registry, root_key_ids=root_key or (), host=host, port=port)
    return EXIT_OK


@witness_app.command(epilog=EXIT_CODES)
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Shows the newest checkpoint of each log that was cosigned, and the evidence kept."""
    from common.audit.witness.home import WitnessHome, size_of
    from common.timestamps import format_time

    with WitnessHome(folder).open_store() as store:
        seen = {origin: store.seen(origin) for origin in store.origins()}
        evidence = store.evidence()
    logs = [
        {"origin": origin, "size": each.size, "cosigned_at": format_time(each.time_s * 1000)}
        for origin, each in seen.items()
        if each is not None
    ]
    found = [
        {
            "origin": each.origin,
            "kind": each.kind,
            "known_size": size_of(each.known),
            "other_size": size_of(each.other),
            "found_at": format_time(each.found_at_s * 1000),
        }
        for each in evidence
    ]
    if as_json:
        typer.echo(json.dumps({"logs": logs, "evidence": found}, indent=2))
        return EXIT_OK
    for log in logs:
        typer.echo(f"{log['origin']}: size {log['size']}, cosigned {log['cosigned_at']}")
    if not logs:
        typer.echo("No log was cosigned yet.")
    for fault in found:
        typer.echo(
            f"Evidence ({fault['kind']}): {fault['origin']}, size {fault['known_size']} was"
            f" cosigned, size {fault['other_size']} handed in at {fault['found_at']}"
        )
    typer.echo(f"{len(found)} pieces of evidence.")
    return EXIT_OK


@witness_app.command(epilog=EXIT_CODES)
def evidence(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder to write to: new, or empty.")],
) -> int:
    """Writes each log's newest cosigned note, and both notes of every conflict, as files."""
    from common.audit.witness.home import WitnessHome, write_evidence

    with WitnessHome(folder).open_store() as store:
        notes, conflicts = write_evidence(store, out)
    typer.echo(f"{notes} notes and {conflicts} pieces of evidence in {out}")
    return EXIT_OK
