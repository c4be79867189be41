"""``fedpref-audit export``: a bundle for someone else, made from one that verifies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.errors import EXIT_OK
from common.terminal import EXIT_CODES

export_app = typer.Typer()


class Scope(StrEnum):
    """What is exported."""

    REGIONAL = "regional"
    CROSS_BORDER = "cross-border"


@export_app.command(epilog=EXIT_CODES)
def export(
    source: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    scope: Annotated[
        Scope,
        typer.Option(
            help="regional: with consents, to stay in their jurisdiction. cross-border: without "
            "any consent or pseudonym."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to: a folder that is not there yet.")],
    key: Annotated[
        Path,
        typer.Option(
            help="The key that signs the export: the server's aggregator key, or the controller "
            "key of a region."
        ),
    ],
    passphrase_file: Annotated[Path, typer.Option(help="The file with that key's passphrase.")],
    region: Annotated[
        str | None,
        typer.Option(help="With --scope regional: the only region whose consents are exported."),
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Export a source that does not verify, too.")
    ] = False,
) -> int:
    """Makes a bundle for someone else from one that verifies: whole, or not at all."""
    from common.audit.export import export_bundle
    from common.key_files import load_key, read_private
    from common.timestamps import now_ms

    exported = export_bundle(
        source,
        out,
        scope=scope.value,
        region=region,
        signer=load_key(key, read_private(passphrase_file, "key passphrase file").strip()),
        created_at_ms=now_ms(),
        unverified=unverified,
    )
    typer.echo(f"Exported to {exported.path}: a {exported.scope} bundle.")
    for party, number in exported.entries.items():
        left_out = exported.left_out[party]
        rest = f"; {left_out:,} consents left out" if left_out else ", the whole log"
        typer.echo(f"  {party}: {number:,} entries{rest}")
    typer.echo(f"Check it with: fedpref-audit verify {exported.path}")
    return EXIT_OK
