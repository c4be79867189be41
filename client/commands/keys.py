"""``fedpref-region keys``: a party's own keys, and the key registry that its home follows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.commands.root_keys import root_app
from common.errors import EXIT_OK, InputError, UsageError, VerificationError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from common.key_status import KeyStatus
    from common.signatures import Signer

app = typer.Typer(
    help="A party's keys: make, enrol, check, rotate; and the federation's offline root.",
    no_args_is_help=True,
)
app.add_typer(root_app, name="root")

HomeArgument = Annotated[Path, typer.Argument(help="The home folder.")]
RolesArgument = Annotated[
    list[str] | None, typer.Argument(help="Roles, e.g. trainer; default: all that the party needs.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the request; default: HOME/requests.")
]
#: `check` warns of keys that end within so many days.
_SOON_DAYS = 30


@app.command()
def new(
    home: HomeArgument,
    roles: RolesArgument = None,
    party: Annotated[
        str, typer.Option(help="For a folder that is no home yet: whose it is to be.")
    ] = "",
    federation: Annotated[
        str, typer.Option(help="For a folder that is no home yet: the federation's name.")
    ] = "",
    out: OutOption = None,
) -> None:
    """Make keys, and for each a request that the officers of the root can enrol.

    A role that keys/signers.json declares is kept elsewhere: then only the request is made.
    """
    from common.key_rotation import make_key

    region = _home_or_new(home, party, federation)
    for role in _known(roles) or needed_roles(region.region):
        signer = make_key(region.key_store, role)
        _write_request(region, role, signer, out)


@app.command("list")
def list_keys(home: HomeArgument) -> None:
    """Show each key: its id, where it is kept, what the registry says of it, days left."""
    region = _home(home)
    states = _states(region, ())
    _print_states(states)


@app.command()
def check(home: HomeArgument, roles: RolesArgument = None) -> int:
    """Check that every role has a key that opens, signs, and is enrolled and valid now.

    Exit code 0 if so, 8 if not.
    """
    region = _home(home)
    wanted = _known(roles) or needed_roles(region.region, region.key_store.names())
    states = [each for each in _states(region, wanted) if each.name in wanted]
    _print_states(states)
    console = Console(highlight=False)
    for each in states:
        if each.days_left is not None and each.days_left < _SOON_DAYS:
            console.print(f"The {each.name} key ends in {each.days_left} days: rotate it.")
    if region.key_store.next_passphrase_path.exists():
        console.print("A change of the passphrase is under way: keys change-passphrase ends it.")
    bad = [each.name for each in states if not each.is_usable]
    if bad:
        console.print(f"[bold red]Not usable:[/bold red] {', '.join(bad)}.")
        return VerificationError.exit_code
    console.print(f"[bold green]All {len(states)} keys are usable.[/bold green]")
    return EXIT_OK


@app.command()
def rotate(
    home: HomeArgument,
    role: Annotated[str, typer.Argument(help="The role whose key is to be followed by a new one.")],
    out: OutOption = None,
) -> None:
    """Make the key that is to follow a role's key, beside it, and the request to enrol it.

    The old key stays the active one until `keys activate`. For a key kept elsewhere, first declare
    it in keys/signers.json under the role's name and ".next".
    """
    from common.key_rotation import make_key
    from common.key_store import NEXT

    region = _home(home)
    (role,) = _known([role])
    if not region.key_store.place(role):
        raise InputError(
            f"{region.region} has no {role} key yet.",
            remedy="Make the first one: fedpref-region keys new.",
        )
    signer = make_key(region.key_store, role + NEXT)
    _write_request(region, role, signer, out)


@app.command()
def activate(home: HomeArgument, roles: RolesArgument = None) -> None:
    """Switch over to the next keys: only to those that the installed registry has, and now.

    Restart the region's engine and services afterwards: they hold the old keys open.
    """
    from common.key_rotation import activate as switch
    from common.key_store import NEXT, role_of

    region = _home(home)
    store = region.key_store
    waiting = [role_of(name) for name in store.names() if name.endswith(NEXT)]
    chosen = _known(roles) or tuple(waiting)
    if not chosen:
        raise InputError(f"{region.region} has no key that waits to be activated.")
    states = {each.name: each for each in _states(region, [role + NEXT for role in chosen])}
    for role in chosen:
        state = states[role + NEXT]
        if not state.is_usable:
            raise InputError(
                f"The next {role} key of {region.region} cannot be used: {_told(state)}",
                remedy="Have it enrolled (keys root …), and install the registry (keys install).",
            )
    for role in chosen:
        signer = switch(store, role)
        Console(highlight=False).print(f"The {role} key is now {signer.key_id}.")


@app.command("change-passphrase")
def change_passphrase(
    home: HomeArgument,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="A file (mode 0600) with the new passphrase; default: a random one."),
    ] = None,
) -> None:
    """Encrypt all key files with a new passphrase. Interrupted, it is finished by running it again.

    Where a program gives the passphrase, the new one waits in keys/passphrase.next: store it where
    the program reads it, then run this command again.
    """
    from common.key_rotation import change_passphrase as change

    store = _home(home).key_store
    chosen = None if passphrase_file is None else store.read_passphrase(passphrase_file)
    console = Console(highlight=False)
    if change(store, chosen):
        console.print("Every key file is encrypted with the new passphrase. Back both up anew.")
    else:
        console.print(
            f"The key files are encrypted with the passphrase in {store.next_passphrase_path}.\n"
            f"Store it where {store.passphrase_command} reads it, then run this command again."
        )


@app.command("backup-check")
def backup_check(
    home: HomeArgument,
    backup: Annotated[
        Path, typer.Argument(help="A backup: a folder with keys/ and registry/ as the home has.")
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="The backup's passphrase, if it is not in BACKUP/keys/passphrase."),
    ] = None,
) -> int:
    """Check that a backup has every key of the home, and that it opens. Exit code 0 or 8."""
    from client.commands.key_backup import backup_faults

    region = _home(home)
    checked, faults = backup_faults(region, backup, passphrase_file)
    console = Console(highlight=False)
    for fault in faults:
        console.print(Text.assemble(("Fault: ", "bold red"), fault))
    if faults:
        return VerificationError.exit_code
    console.print(f"[bold green]The backup holds:[/bold green] {', '.join(checked)}.")
    return EXIT_OK


@app.command()
def install(
    home: HomeArgument,
    versions: Annotated[list[Path], typer.Argument(help="Registry versions, in order: 2.json …")],
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="For version 1: the id of each root key, as the officers told you."),
    ] = None,
) -> None:
    """Take new registry versions in, if they follow those that the home has.

    A second, different version of one number is a fork: it is refused, and both are kept in
    HOME/evidence. The engine logs a new version when it opens next.
    """
    from common.registry_install import install_version

    region = _home(home)
    for path in versions:
        installed = install_version(
            region.registry,
            region.root / "evidence",
            read_bytes(path),
            federation=region.federation,
            root_key_ids=root_key or (),
        )
        done = "installed" if installed.is_new else "there already, the same"
        Console(highlight=False).print(
            f"Registry version {installed.version} of {region.federation}: {done}."
        )


def needed_roles(party: str, present: Iterable[str] = ()) -> tuple[str, ...]:
    """The roles that a party needs a key for.

    Args:
        party: Its name.
        present: The keys it has; who has a witness key alone is an outside witness.
    """
    from client.engine.home import KEY_ROLES

    if party == "server":
        return ("log", "aggregator", "witness")
    return ("witness",) if set(present) == {"witness"} else KEY_ROLES


def read_bytes(path: Path) -> bytes:
    """Reads a file that the user named.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _home(root: Path) -> RegionHome:
    from client.engine.home import RegionHome

    return RegionHome.read(root)


def _home_or_new(root: Path, party: str, federation: str) -> RegionHome:
    """The home, or a new one: with whose it is, and nothing else."""
    from client.engine.home import RegionHome
    from common.validate import line
    from common.validate import party as party_name

    if not (party or federation):
        return RegionHome.read(root)
    home = RegionHome(
        root=root,
        region=party_name(party, "--party"),
        federation=line(federation, "--federation"),
    )
    if home.identity.exists():
        if RegionHome.read(root) != home:
            raise InputError(f"{root} is the home of another party or federation.")
        return home
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.write_identity()
    return home


def _known(roles: list[str] | None) -> tuple[str, ...]:
    from common.key_entry import ROLES

    for role in roles or ():
        if role not in ROLES:
            raise UsageError(f"{role!r} is no role; roles are {', '.join(sorted(ROLES))}.")
    return tuple(dict.fromkeys(roles or ()))


def _write_request(region: RegionHome, role: str, signer: Signer, out: Path | None) -> None:
    from common.durable_file import write_durably
    from common.key_request import make_request
    from common.timestamps import now_ms

    data = make_request(
        signer,
        federation=region.federation,
        party=region.region,
        role=role,
        at_ms=now_ms(),
    )
    folder = out or region.root / "requests"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{region.region}-{role}-{signer.key_id[:16]}.json"
    write_durably(path, data, mode=0o644)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{role} key {signer.key_id}")
    console.print(f"  request: {path}")


def _states(region: RegionHome, names: list[str] | tuple[str, ...]) -> list[KeyStatus]:
    """The named keys and all that there are, as they stand."""
    from common.key_status import key_states
    from common.timestamps import now_ms

    has_registry = any(region.registry.glob("*.json"))
    registry = region.read_registry() if has_registry else None
    wanted = dict.fromkeys((*names, *region.key_store.names()))
    return key_states(region.key_store, registry, wanted, now_ms())


def _print_states(states: list[KeyStatus]) -> None:
    table = Table(box=None, header_style="dim")
    for title in ("key", "id", "kept in", "registry", "days left"):
        table.add_column(title, overflow="fold")
    for each in states:
        table.add_row(
            each.name,
            each.key_id[:16],
            each.place,
            Text(each.state, style="green" if each.is_usable else "red"),
            "" if each.days_left is None else str(each.days_left),
        )
    console = Console(highlight=False)
    console.print(table)
    for each in states:
        if each.problem:
            console.print(Text(f"{each.name}: {each.problem}"))


def _told(state: KeyStatus) -> str:
    return f"it is {state.state}. {state.problem}".strip()
