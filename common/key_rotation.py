"""Changes of a party's own keys: made, followed by others, encrypted anew.

Each change is a sequence of single atomic steps, after any of which every key still opens and the
change can be taken up again by repeating the command.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from common import canonical_json
from common.durable_file import make_folder_durably, sync_folder, write_durably
from common.errors import FedprefError, InputError, StorageError
from common.key_files import create_whole, encrypt_key_anew, generate_key, load_key
from common.key_store import NEXT, ExternalKey, KeyStore
from common.signatures import Signer

_PASSPHRASE_BYTES = 32


def new_passphrase() -> bytes:
    """A random passphrase of 256 bits, as text."""
    return secrets.token_hex(_PASSPHRASE_BYTES).encode()


def make_key(store: KeyStore, name: str) -> Signer:
    """Makes a key in a file; a key declared in ``signers.json`` is only opened.

    The first key of a store also makes its passphrase, unless a program gives it.

    Args:
        store: The party's keys.
        name: A role, or a role and ``.next``.

    Raises:
        InputError: There is such a key file already.
        SigningError: The key's store does not sign.
    """
    if name in store.external():
        return store.signer(name)
    if not store.passphrase_command.exists() and not store.passphrase_path.exists():
        if any(store.folder.glob("*.pem")):
            # Keys are there that another passphrase opens: this says that it is missing.
            store.passphrase()
        _write_passphrase(store)
    if store.next_passphrase_path.exists():
        raise InputError(
            f"{store.owner}: the passphrase is being changed.",
            remedy="Finish that first: fedpref-region keys change-passphrase.",
        )
    return generate_key(store.key_file(name), store.passphrase())


def activate(store: KeyStore, role: str) -> Signer:
    """Makes a role's next key its active one.

    The old key's file is kept in ``retired``; of an old key elsewhere only its declaration goes.

    Raises:
        InputError: There is no next key.
        StorageError: The files cannot be changed; the old key is still the active one.
    """
    successor = role + NEXT
    if not store.place(successor):
        raise InputError(
            f"{store.owner}: there is no next key of the role {role}.",
            remedy=f"Make one: fedpref-region keys rotate … {role}.",
        )
    signer = store.signer(successor)
    declared = dict(store.external())
    try:
        if successor in declared:
            # From this one write on the declared key is the active one.
            declared[role] = declared.pop(successor)
            _declare(store, declared)
            _retire(store, role)
            store.key_file(role).unlink(missing_ok=True)
        else:
            _retire(store, role)
            store.key_file(successor).replace(store.key_file(role))
            sync_folder(store.folder)
            if declared.pop(role, None) is not None:
                _declare(store, declared)
    except OSError as error:
        raise StorageError(f"{store.folder} cannot be changed: {error.strerror}.") from error
    return signer


def change_passphrase(store: KeyStore, chosen: bytes | None = None) -> bool:
    """Encrypts every key file of a store with a new passphrase.

    Args:
        store: The party's keys.
        chosen: The new passphrase; None draws one, or goes on with the change that is under way.

    Returns:
        Whether the change is complete. It is not while a program still gives the old passphrase:
        the new one then waits in ``passphrase.next``.

    Raises:
        InputError: Another change is under way, or a key does not open.
        StorageError: A file cannot be written.
    """
    path = store.next_passphrase_path
    try:
        if not path.exists():
            store.passphrase()  # what is to be replaced must be there
            create_whole(path, (chosen or new_passphrase()) + b"\n")
        new = store.read_passphrase(path)
        if chosen is not None and new != chosen:
            raise InputError(
                f"{store.owner}: a change to another passphrase is under way ({path}).",
                remedy="Run keys change-passphrase without a file to finish it, then once more.",
            )
        for key_file in sorted(store.folder.rglob("*.pem")):
            _encrypt_with(key_file, new, store)
        if not store.passphrase_command.exists():
            path.replace(store.passphrase_path)
        elif store.passphrase() == new:
            path.unlink()
        else:
            return False
        sync_folder(store.folder)
    except OSError as error:
        raise StorageError(f"{store.folder} cannot be changed: {error.strerror}.") from error
    return True


def _encrypt_with(key_file: Path, new: bytes, store: KeyStore) -> None:
    try:
        load_key(key_file, new)
    except FedprefError:
        encrypt_key_anew(key_file, store.passphrase(), new)


def _write_passphrase(store: KeyStore) -> None:
    path = store.passphrase_path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_whole(path, new_passphrase() + b"\n")
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def _retire(store: KeyStore, role: str) -> None:
    """Links the active key's file into ``retired``, under its id; a second time does nothing."""
    key_file = store.key_file(role)
    if not key_file.exists():
        return
    retired = store.folder / "retired"
    make_folder_durably(retired)
    kept = retired / f"{role}-{store.open_file(key_file).key_id[:16]}.pem"
    if not kept.exists():
        os.link(key_file, kept)
        sync_folder(retired)


def _declare(store: KeyStore, declared: dict[str, ExternalKey]) -> None:
    record = {name: key.to_record() for name, key in declared.items()}
    write_durably(store.signers, canonical_json.encode(dict(record)))
