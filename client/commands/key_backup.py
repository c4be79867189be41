"""Whether a backup holds what a home cannot do without: its keys, opened one by one."""

from __future__ import annotations

from pathlib import Path

from client.engine.home import RegionHome
from common.errors import FedprefError
from common.key_files import read_private
from common.key_store import KeyStore
from common.registry_install import registry_envelopes


def backup_faults(
    home: RegionHome, backup: Path, passphrase_file: Path | None = None
) -> tuple[list[str], list[str]]:
    """Compares a backup with its home.

    Args:
        home: The home.
        backup: A folder with ``keys`` and ``registry``, as the home has them.
        passphrase_file: The passphrase of the backup's keys, if it is not among them.

    Returns:
        What the backup holds, and what is wrong with it.
    """
    store = home.key_store
    kept = KeyStore(backup / "keys", f"the backup of {home.region}", passphrase_file)
    held: list[str] = []
    faults: list[str] = []
    for name in store.names():
        if name in store.external():
            held.append(f"{name} (not kept here: its own store backs it up)")
            continue
        fault = _key_fault(store, kept, name)
        if fault:
            faults.append(fault)
        else:
            held.append(name)
    if not store.names():
        faults.append(f"{home.root} has no key to back up.")
    for title, path in (("storage key", home.stored_key), ("columns' key", home.columns_key)):
        fault = _stored_fault(title, path, backup)
        if fault:
            faults.append(fault)
        elif path.exists():
            held.append(title)
    versions = registry_envelopes(home.registry)
    if registry_envelopes(backup / "registry") != versions:
        faults.append("Its registry is not the home's, version for version.")
    elif versions:
        held.append(f"{len(versions)} registry versions")
    return held, faults


def _key_fault(store: KeyStore, kept: KeyStore, name: str) -> str:
    try:
        ours = store.open_file(store.key_file(name)).key_id
        theirs = kept.open_file(kept.key_file(name)).key_id
    except FedprefError as error:
        return f"{name}: {error}"
    if ours != theirs:
        return f"{name}: the backup has the key {theirs[:16]}…, the home {ours[:16]}…."
    return ""


def _stored_fault(title: str, path: Path, backup: Path) -> str:
    """Without these the table of pseudonym keys, and sensitive columns, cannot be read."""
    if not path.exists():
        return ""
    try:
        ours = read_private(path, title)
        theirs = read_private(backup / "keys" / path.name, title)
    except FedprefError as error:
        return str(error)
    if ours != theirs:
        return f"Its {title} is not the home's present one: replace it."
    return ""
