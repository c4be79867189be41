"""``fedpref-region access``: tables kept by columns, and grants to read the sensitive ones."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from client.engine.home import RegionHome
    from client.governance.access_records import AccessRecord
    from client.governance.access_socket import AccessClient, ListedGrant

app = typer.Typer(
    help="Sensitive columns: keep them encrypted, and read them under a grant by two people.",
    no_args_is_help=True,
)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
PersonArgument = Annotated[
    Path, typer.Argument(help="Your own folder, with your key: `fedpref-region keys new` made it.")
]
IdArgument = Annotated[str, typer.Argument(help="The request's id.")]
DeskOption = Annotated[Path, typer.Option("--desk", help="The access desk's socket.")]
DeskUserOption = Annotated[
    str | None,
    typer.Option(help="The user that serves it, by name or number; default: your own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Write them to this Parquet file (mode 0600); default: print them as CSV."),
]


@app.command()
def keep(
    home: HomeArgument,
    table: Annotated[str, typer.Argument(help="The table's name in the data standards.")],
    file: Annotated[Path, typer.Argument(help="Its rows: a Parquet or CSV file.")],
    standards: Annotated[
        Path | None,
        typer.Option(help="The data standards; default: the home's, else those that come along."),
    ] = None,
    subject: Annotated[
        str, typer.Option(help="The column that says whom a row is about; empty for none.")
    ] = "customer",
) -> None:
    """Keep a table column by column: encrypted where its grade is not low.

    Grades are those of the data standards; a column that they do not name counts as high. What was
    kept under this name is replaced. The file itself stays where it is: remove it if nothing else
    needs it.
    """
    from client.data.standards import load_standards, standards_of
    from client.engine.home import RegionHome
    from client.governance.column_store import ColumnStore
    from client.governance.grades import grades_of
    from client.governance.table_files import read_table_file

    region = RegionHome.read(home)
    rows = read_table_file(file)
    stated = standards_of(region) if standards is None else load_standards(standards)
    grades = grades_of(stated, table, rows.column_names)
    ColumnStore(region).keep(table, rows, grades, subject=subject or None)
    encrypted = sum(grade != "low" for grade in grades.values())
    Console(highlight=False, soft_wrap=True).print(
        f"{region.region}: {table} is kept, {rows.num_rows:,} rows; {encrypted} of "
        f"{len(grades)} columns are encrypted.",
        markup=False,
    )


@app.command()
def tables(home: HomeArgument, json: JsonOption = False) -> None:
    """Show which tables are kept, and the grade of each column."""
    from client.engine.home import RegionHome
    from client.governance.column_store import ColumnStore

    kept = ColumnStore(RegionHome.read(home)).manifest().tables
    if json:
        record = {
            name: {
                "rows": each.rows,
                "subject": each.subject,
                "columns": {column: c.grade for column, c in each.columns.items()},
            }
            for name, each in sorted(kept.items())
        }
        typer.echo(json_module.dumps(record, indent=2, ensure_ascii=False))
        return
    shown = _table("table", "rows", "column", "grade", "at rest")
    for name, each in sorted(kept.items()):
        for column, c in sorted(each.columns.items()):
            at_rest = "in clear" if c.wrapped is None else "encrypted"
            shown.add_row(name, f"{each.rows:,}", column, c.grade, at_rest)
    Console(highlight=False, soft_wrap=True).print(shown)


@app.command("turn-key")
def turn_key(home: HomeArgument) -> None:
    """Draw a new wrapping key; the columns' own keys are wrapped with it, the columns stay.

    Replace the copy of keys/columns.key that you keep elsewhere.
    """
    from client.engine.home import RegionHome
    from client.governance.column_store import ColumnStore

    region = RegionHome.read(home)
    ColumnStore(region).turn_key()
    Console(highlight=False, soft_wrap=True).print(
        f"{region.region}: the columns' keys are wrapped with a new key, "
        f"{region.columns_key.resolve()}: replace your copy of it.",
        markup=False,
    )


@app.command()
def serve(
    home: HomeArgument,
    socket: Annotated[Path, typer.Option(help="The Unix socket that people come to.")],
    user: Annotated[
        list[str] | None,
        typer.Option(help="A user whose processes may come, by name or number; may be repeated."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="The group that may open the socket: mode 0660, not 0600.")
    ] = None,
) -> None:
    """Serve the access desk until interrupted, where no engine runs that does it.

    An engine whose region.toml has `access_socket` serves it by itself, for the log has one writer.
    """
    from client.commands.engine_process import told_to_end
    from client.engine.home import RegionHome
    from client.governance.desk_opening import open_desk
    from common.process_control import hide_memory

    region = RegionHome.read(home)
    hide_memory()
    with told_to_end() as told, open_desk(region, socket, users=user or (), group=group):
        Console(highlight=False).print(
            f"{region.region}: access desk ready on {socket}. Ctrl-C stops it.", soft_wrap=True
        )
        told.wait()


@app.command("list")
def list_grants(
    desk: DeskOption, desk_user: DeskUserOption = None, json: JsonOption = False
) -> None:
    """Show every request, and what has become of it."""
    listed = _client(desk, desk_user).grants()
    if json:
        typer.echo(json_module.dumps([dict(each.fields) for each in listed], indent=2))
        return
    shown = _table("request", "state", "columns", "asked by", "approved by", "expires", "uses")
    for each in listed:
        f = each.fields
        shown.add_row(
            str(f["request_id"]),
            str(f["state"]),
            _columns_of(each),
            str(f["requester"]),
            str(f["approver"] or "–"),
            str(f["expires"] or "–"),
            str(f["uses"]),
        )
    Console(highlight=False, soft_wrap=True).print(shown)


@app.command()
def request(
    person: PersonArgument,
    table: Annotated[str, typer.Argument(help="The table.")],
    column: Annotated[list[str], typer.Argument(help="The columns.")],
    because: Annotated[
        str, typer.Option(help="What for, in one line; it is logged: no one's data in it.")
    ],
    desk: DeskOption,
    minutes: Annotated[
        int, typer.Option(min=1, help="For how long the grant is to hold, in minutes.")
    ] = 60,
    desk_user: DeskUserOption = None,
) -> None:
    """Ask for columns, signed with your requester key. Another person has to approve it."""
    from client.governance.access_records import AccessRequest
    from common.identifiers import new_ulid
    from common.timestamps import now_ms

    home, at_ms = _person(person), now_ms()
    record = AccessRequest(
        request_id=new_ulid(at_ms),
        region=home.region,
        table=table,
        columns=tuple(sorted(set(column))),
        because=because,
        grant_s=minutes * 60,
        time_ms=at_ms,
    )
    request_id = _client(desk, desk_user).file(_signed(home, record, "requester"))
    typer.echo(request_id)


@app.command()
def approve(
    person: PersonArgument,
    request_id: IdArgument,
    desk: DeskOption,
    minutes: Annotated[
        int | None,
        typer.Option(min=1, help="For how long, in minutes; default: as long as was asked for."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    desk_user: DeskUserOption = None,
) -> None:
    """Approve what another person asks for, signed with your approver key.

    The request is shown first; what you sign is its hash, worked out here.
    """
    from client.governance.access_records import AccessApproval, AccessRequest, parse_access
    from common.audit.merkle import leaf_hash
    from common.envelope import Envelope
    from common.errors import FormatError
    from common.timestamps import now_ms

    home, client = _person(person), _client(desk, desk_user)
    listed = client.find(request_id)
    asked = parse_access(Envelope.decode(listed.request))
    if not isinstance(asked, AccessRequest) or asked.request_id != request_id:
        raise FormatError("The access desk shows another record than the request asked for.")
    Console(highlight=False, soft_wrap=True).print(
        f"{listed.fields['requester']} asks for {', '.join(asked.columns)} of {asked.table}, for "
        f"{asked.grant_s // 60} minutes, because: {asked.because}",
        markup=False,
    )
    if not yes:
        typer.confirm("Approve it?", abort=True)
    at_ms = now_ms()
    lasts_s = asked.grant_s if minutes is None else minutes * 60
    record = AccessApproval(
        request_id=request_id,
        region=home.region,
        request=leaf_hash(listed.request).hex(),
        expires_ms=at_ms + lasts_s * 1000,
        time_ms=at_ms,
    )
    client.file(_signed(home, record, "approver"))
    Console(highlight=False).print("Approved.")


@app.command()
def use(
    person: PersonArgument,
    request_id: IdArgument,
    desk: DeskOption,
    column: Annotated[
        list[str] | None, typer.Argument(help="The columns; default: all that are granted.")
    ] = None,
    out: OutOption = None,
    desk_user: DeskUserOption = None,
) -> None:
    """Read columns under your grant; the use is signed, and logged before anything is read.

    What is printed or written is outside of all protection here: it is yours to look after.
    """
    from client.governance.access_records import AccessUse
    from common.errors import PolicyError
    from common.timestamps import now_ms

    home, client = _person(person), _client(desk, desk_user)
    fields = client.find(request_id).fields
    granted, uses = fields["columns"], fields["uses"]
    if not isinstance(granted, list) or not isinstance(uses, int) or fields["approval"] is None:
        raise PolicyError(
            f"The request {request_id} is not approved.", remedy="Let another person approve it."
        )
    record = AccessUse(
        request_id=request_id,
        region=home.region,
        approval=str(fields["approval"]),
        number=uses + 1,
        columns=tuple(sorted(set(column or map(str, granted)))),
        time_ms=now_ms(),
    )
    _give(client.use(_signed(home, record, "requester")), out)


@app.command()
def read(
    table: Annotated[str, typer.Argument(help="The table.")],
    column: Annotated[list[str], typer.Argument(help="The columns.")],
    desk: DeskOption,
    out: OutOption = None,
    desk_user: DeskUserOption = None,
) -> None:
    """Read columns of low grade, for which nobody needs a grant; others are refused, and noted."""
    _give(_client(desk, desk_user).read(table, column), out)


@app.command()
def revoke(
    person: PersonArgument,
    request_id: IdArgument,
    because: Annotated[str, typer.Option(help="Why, in one line; it is logged.")],
    desk: DeskOption,
    desk_user: DeskUserOption = None,
) -> None:
    """End a request or a grant at once, signed with your approver key."""
    from client.governance.access_records import AccessRevocation
    from common.timestamps import now_ms

    home = _person(person)
    record = AccessRevocation(request_id, home.region, because, now_ms())
    _client(desk, desk_user).file(_signed(home, record, "approver"))
    Console(highlight=False).print("Revoked.")


def _person(folder: Path) -> RegionHome:
    from client.engine.home import RegionHome

    return RegionHome.read(folder)


def _client(desk: Path, desk_user: str | None) -> AccessClient:
    from client.governance.access_socket import AccessClient
    from common.peers import user_id

    return AccessClient(desk, desk_user=None if desk_user is None else user_id(desk_user))


def _signed(person: RegionHome, record: AccessRecord, role: str) -> bytes:
    from client.governance.access_records import sign_access

    return sign_access(record, person.signer(role))


def _give(rows: pa.Table, out: Path | None) -> None:
    from client.governance.table_files import write_csv, write_parquet

    if out is None:
        write_csv(rows, sys.stdout.buffer)
        return
    write_parquet(rows, out)
    Console(highlight=False, stderr=True, soft_wrap=True).print(
        f"{rows.num_rows:,} rows are in {out}, in clear.", markup=False
    )


def _columns_of(listed: ListedGrant) -> str:
    columns = listed.fields["columns"]
    names = ", ".join(map(str, columns)) if isinstance(columns, list) else ""
    return f"{listed.fields['table']}: {names}"


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
