"""``fedpref-region keys root``: the federation's offline root, officer by officer.

Nothing here needs a home or a network: drafts travel as files between the officers' machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from common.errors import InputError, StorageError, UsageError

if TYPE_CHECKING:
    from common.registry_changes import CheckedDraft, RootKeys
    from common.registry_draft import Draft

root_app = typer.Typer(
    help="The offline root of a federation: its keys, and the versions of the registry they sign.",
    no_args_is_help=True,
)
DraftArgument = Annotated[Path, typer.Argument(help="The draft's file.")]


@root_app.command("new")
def new_root_key(
    folder: Annotated[Path, typer.Argument(help="The officer's own folder, on offline media.")],
    name: Annotated[str, typer.Option(help="The files' name.")] = "root",
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            help="The passphrase's file, made if it is not there; best on other media. "
            "Default: FOLDER/passphrase."
        ),
    ] = None,
) -> None:
    """Make one officer's root key: NAME.pem, and NAME.pub to give away."""
    from common.durable_file import write_durably
    from common.key_files import create_whole, generate_key
    from common.key_rotation import new_passphrase

    secret = passphrase_file or folder / "passphrase"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not secret.exists():
            create_whole(secret, new_passphrase() + b"\n")
        signer = generate_key(folder / f"{name}.pem", _passphrase(secret))
        public = f"{signer.public_key.hex()}\n".encode()
        write_durably(folder / f"{name}.pub", public, mode=0o644)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}.") from error
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"root key   {signer.key_id}")
    console.print(f"public key {signer.public_key.hex()}")
    console.print("Keep the folder offline, and its passphrase apart from it.")


@root_app.command()
def draft(
    registry: Annotated[
        Path, typer.Option(help="The folder of the versions so far; empty for version 1.")
    ],
    out: Annotated[Path, typer.Option(help="The draft to write.")],
    request: Annotated[
        list[Path] | None, typer.Option(help="A request to enrol a key; may be repeated.")
    ] = None,
    revoke: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY_ID@TIME: revoke a key from a time on (2026-01-31T23:59:59.999Z, or 'now'). "
            "The id may be shortened. May be repeated."
        ),
    ] = None,
    witness_quorum: Annotated[
        int | None,
        typer.Option(min=0, help="How many other parties must cosign a checkpoint; default: kept."),
    ] = None,
    new_root: Annotated[
        list[str] | None,
        typer.Option(
            help="A root key of the new version: 64 hex digits, or its .pub file. Give all of "
            "them; default: kept."
        ),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(min=1, help="How many new root keys must sign; default: more than half."),
    ] = None,
    federation: Annotated[str, typer.Option(help="Its name; for version 1 only.")] = "",
    valid_days: Annotated[
        int, typer.Option(min=1, max=3660, help="For how long added keys are valid.")
    ] = 366,
) -> None:
    """Draft the next version of a registry, to be signed by the officers."""
    from common.registry_changes import check_draft, draft_version
    from common.registry_install import registry_envelopes
    from common.timestamps import now_ms

    drafted = draft_version(
        registry_envelopes(registry),
        issued_at_ms=now_ms(),
        valid_for_s=valid_days * 24 * 3600,
        requests=[_read(path) for path in request or ()],
        revocations=dict(_revocation(text) for text in revoke or ()),
        witness_quorum=witness_quorum,
        root=_root(new_root or [], threshold),
        federation=federation,
    )
    _write(out, drafted.encode(), mode=0o600)
    _print_draft(check_draft(drafted))
    Console(highlight=False, soft_wrap=True).print(f"Draft: {out}")


@root_app.command()
def sign(
    draft_file: DraftArgument,
    key: Annotated[Path, typer.Option(help="The officer's root key file.")],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="The key's passphrase; default: the file passphrase beside the key."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """Show what a draft changes, and add one officer's signature to it."""
    from common.durable_file import write_durably
    from common.key_files import load_key
    from common.registry_changes import check_draft, sign_draft

    found = _read_draft(draft_file)
    _print_draft(check_draft(found))
    if not yes:
        typer.confirm("Sign this version?", abort=True)
    signer = load_key(key, _passphrase(passphrase_file or key.parent / "passphrase"))
    signed = sign_draft(found, signer)
    try:
        write_durably(draft_file, signed.encode())
    except OSError as error:
        raise StorageError(f"{draft_file} cannot be written: {error.strerror}.") from error
    Console(highlight=False).print(_missing(check_draft(signed)))


@root_app.command()
def finish(
    draft_file: DraftArgument,
    out: Annotated[Path, typer.Option(help="The version to write: N.json.")],
) -> None:
    """Make the version of a draft, if enough officers of the old and the new root have signed it.

    Every party then takes it in: fedpref-region keys install.
    """
    import hashlib

    from common.registry_changes import check_draft, finish_draft

    found = _read_draft(draft_file)
    data = finish_draft(found)
    _write(out, data, mode=0o644)
    _print_draft(check_draft(found))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: SHA-256 {hashlib.sha256(data).hexdigest()}")


def _print_draft(checked: CheckedDraft) -> None:
    """What a draft changes, line by line, as an officer must see it before signing."""
    from common.timestamps import format_time

    registry, previous = checked.registry, checked.previous
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        Text(f"Registry version {registry.version} of {registry.federation}", style="bold")
    )
    for entry in checked.added:
        until = format_time(entry.not_after_ms)
        console.print(f"  adds    {entry.party} {entry.role} {entry.key_id} until {until}")
    for entry in checked.revoked:
        since = format_time(entry.revoked_at_ms or 0)
        console.print(f"  revokes {entry.party} {entry.role} {entry.key_id} from {since}")
    if previous is None or dict(previous.root_keys) != dict(registry.root_keys):
        for key_id in registry.root_keys:
            console.print(f"  root    {key_id}")
    if previous is None or previous.root_threshold != registry.root_threshold:
        console.print(f"  {registry.root_threshold} root keys must sign")
    if previous is None or previous.witness_quorum != registry.witness_quorum:
        before = "" if previous is None else f" (was {previous.witness_quorum})"
        console.print(f"  {registry.witness_quorum} other parties must cosign{before}")
    console.print(f"  {_missing(checked)}")


def _missing(checked: CheckedDraft) -> str:
    own, old = checked.missing()
    if not (own or old):
        return "Enough officers have signed it: keys root finish."
    return (
        f"{len(checked.draft.signatures)} signatures; missing: {own} of this version's root keys, "
        f"{old} of the previous version's."
    )


def _root(keys: list[str], threshold: int | None) -> RootKeys | None:
    from common.registry_changes import RootKeys

    if not keys:
        if threshold is not None:
            raise UsageError("--threshold goes with --new-root.")
        return None
    return RootKeys(tuple(_public_key(text) for text in keys), threshold or len(keys) // 2 + 1)


def _public_key(text: str) -> bytes:
    from common.signatures import check_public_key
    from common.validate import sha256_hex

    path = Path(text)
    if path.suffix == ".pub":
        text = _read(path).decode("ascii", "replace").strip()
    # A public key and a SHA-256 have the same form: 32 bytes in lower-case hex.
    public_key = bytes.fromhex(sha256_hex(text, "--new-root"))
    check_public_key(public_key)
    return public_key


def _revocation(text: str) -> tuple[str, int]:
    from common.timestamps import now_ms, parse_time

    key_id, _, time = text.partition("@")
    if not (key_id and time):
        raise UsageError(f"--revoke {text!r} is not KEY_ID@TIME.")
    return key_id, now_ms() if time == "now" else parse_time(time)


def _passphrase(path: Path) -> bytes:
    from common.key_files import read_private

    secret = read_private(path, "passphrase file").strip()
    if not secret:
        raise InputError(f"The passphrase file {path} is empty.")
    return secret


def _read_draft(path: Path) -> Draft:
    from common.registry_draft import Draft

    return Draft.decode(_read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a new file; what is there is never replaced, unless it is the same."""
    from common.key_files import create_whole

    try:
        create_whole(path, data, mode=mode)
    except FileExistsError as error:
        if _read(path) != data:
            raise InputError(
                f"There is another file at {path} already.", remedy="Choose another name."
            ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
