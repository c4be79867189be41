"""Whose each part of a region's folder is: one user for each process, where root installs it."""

from __future__ import annotations

from pathlib import Path

from client.engine.home import HOME_NAME
from client.installation.composed_settings import ENGINE_USER, NODE_USER, RELAY_USER
from client.settings import FILE_NAME, RegionSettings
from common.errors import InputError, StorageError
from common.system_users import (
    SystemUser,
    ensure_user,
    find_user,
    give,
    give_all,
    is_root,
    require_reachable,
)

_SHARED_RUN_MODE = 0o2751


def own_region(folder: Path, settings: RegionSettings | None) -> None:
    """Gives each part of a region's folder to the user whose process needs it.

    Done by anyone but root it only closes the private folders: all processes are then one user's.

    Args:
        folder: The region's folder.
        settings: Its settings; None while they are not answered.

    Raises:
        InputError: A user cannot be made, or cannot get to the folder.
    """
    engine = process_user(None if settings is None else settings.engine.user, ENGINE_USER)
    node = process_user(None if settings is None else settings.node.user, NODE_USER)
    relay = process_user(None if settings is None else settings.relay.user, RELAY_USER)
    try:
        for name in ("run", "relay", "node", "logs", HOME_NAME):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be filled: {error.strerror}.") from error
    for user in (engine, node, relay):
        require_reachable(folder / HOME_NAME, user)
    give_all(folder / HOME_NAME, engine)
    give(folder / HOME_NAME, engine, mode=0o700)
    give_all(folder / "node", node)
    give(folder / "node", node, mode=0o700)
    give_all(folder / "relay", relay)
    give(folder / "relay", relay, mode=0o700)
    give(folder / FILE_NAME, engine, mode=0o600)
    if (folder / "answers").is_dir():
        give_all(folder / "answers", engine)
    _own_sockets(folder / "run", engine, relay)


def process_user(stated: str | int | None, default: str) -> SystemUser | None:
    """Who a process runs as: whom the settings state, or the usual one; None if root is not here.

    Raises:
        InputError: A user id is nobody's, or a user cannot be made.
    """
    if not is_root():
        return None
    if isinstance(stated, int):
        found = find_user(stated)
        if found is None:
            raise InputError(f"There is no user with the id {stated} on this machine.")
        return found
    return ensure_user(stated or default)


def _own_sockets(folder: Path, engine: SystemUser | None, relay: SystemUser | None) -> None:
    """Sockets made there get the relay's group, so that the relay may open the engine's."""
    if engine is None or relay is None:
        give(folder, None, mode=0o700)
        return
    give(folder, SystemUser(engine.name, engine.uid, relay.gid), mode=_SHARED_RUN_MODE)
