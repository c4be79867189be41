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
    for title, fault in (("storage key", _storage_fault(home, backup)),):
        if fault:
            faults.append(fault)
        elif home.stored_key.exists():
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


def _storage_fault(home: RegionHome, backup: Path) -> str:
    """Without its storage key the table of pseudonym keys cannot be read."""
    if not home.stored_key.exists():
        return ""
    try:
        ours = read_private(home.stored_key, "storage key")
        theirs = read_private(backup / "keys" / home.stored_key.name, "storage key")
    except FedprefError as error:
        return str(error)
    if ours != theirs:
        return "Its storage key is not the home's present one: replace it."
    return ""
