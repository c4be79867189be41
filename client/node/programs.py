"""A region's processes: what each is, as whom it runs, and what of the folder is its.

| process | what is its |
|---|---|
| engine | ``home/``, and the sockets in ``run/`` |
| recommender, if the settings have it | what the engine has: it reads the same home, as its user |
| profiles, if the settings have it | the same; it writes ``home/profiles`` alone |
| node | ``node/``: its key, the coordinator's CA |
| relay | ``relay/``: where bundles are unpacked |
| whoever starts them | the rest; in ``secrets/`` what node and relay share, a copy for each |

Started by root, the first, the node and the relay have their own user each and cannot open what is
another's. Started by anyone else all
are one user's, and a bundle is kept from the region's files by its confinement alone.
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from client.installation.composed_settings import ENGINE_USER, NODE_USER, RELAY_USER
from client.installation.ownership import own_region, process_user
from client.node.environment_file import read_environment
from client.node.stubs import write_stubs
from client.settings import RegionSettings
from client.settings_tables import ProfilesTable, RecommenderTable
from common.durable_file import write_durably
from common.errors import InputError, StorageError
from common.node_environment import process_environment
from common.supervision import Program
from common.system_users import SystemUser, give, require_reachable

_SECRETS = "secrets"
RECOMMENDER = "recommender"
PROFILES = "profiles"
#: What is in a process's own environment besides, in a file of the region's folder: in the engine's
#: a store's URL and a PIN of its keys, in the others' the store's URL alone.
ENVIRONMENTS = {
    "engine": "engine.env",
    RECOMMENDER: "recommender.env",
    PROFILES: "profiles.env",
}
_SECRET_BYTES = 32


@dataclass(frozen=True)
class RegionUsers:
    """As whom a region's processes run; None for whoever starts them.

    Attributes:
        engine: Who owns the region's data and keys.
        node: Who talks to the coordinator.
        relay: Who runs the coordinator's permitted bundles.
    """

    engine: SystemUser | None
    node: SystemUser | None
    relay: SystemUser | None

    @classmethod
    def of(cls, settings: RegionSettings) -> RegionUsers:
        """The users that the settings name, or the usual ones; none if root is not here.

        Raises:
            InputError: They are not three, one is root, or one does not exist.
        """
        users = cls(
            process_user(settings.engine.user, ENGINE_USER),
            process_user(settings.node.user, NODE_USER),
            process_user(settings.relay.user, RELAY_USER),
        )
        named = [user.uid for user in (users.engine, users.node, users.relay) if user is not None]
        if len(set(named)) < len(named) or 0 in named:
            raise InputError(
                f"{settings.path}: [engine], [node] and [relay] do not have three different users, "
                "none of them root.",
                remedy="Give each its own, or start the region as an ordinary user.",
            )
        return users


def region_programs(settings: RegionSettings, *, with_own_variables: bool = True) -> list[Program]:
    """The programs of a region, in the order of starting.

    Args:
        settings: The region's settings.
        with_own_variables: Whether the variables of `ENVIRONMENTS` are among the programs'
            environments; whoever starts them may read the files by itself.

    Raises:
        InputError: The users are not as they must be, or a file of variables is malformed.
    """
    users, own = RegionUsers.of(settings), dict[str, dict[str, str]]()
    if with_own_variables:
        own = {
            name: read_environment(settings.folder / file) for name, file in ENVIRONMENTS.items()
        }
    found = [
        _engine(settings, users, own.get("engine", {})),
        _node(settings, users),
        _relay(settings, users),
    ]
    if settings.recommender is not None:
        found.append(_recommender(settings, settings.recommender, users, own.get(RECOMMENDER, {})))
    if settings.profiles is not None:
        found.append(_profiles(settings, settings.profiles, users, own.get(PROFILES, {})))
    return found


def prepare_folders(settings: RegionSettings, *, new_secret: bool) -> None:
    """Gives each process what is its, and nothing else.

    Args:
        settings: The region's settings.
        new_secret: Whether node and relay get a new secret; the programs must not run then.

    Raises:
        InputError: The users are not as they must be, or a folder above is closed to them.
        StorageError: The disk refuses.
    """
    users, folder = RegionUsers.of(settings), settings.folder
    own_region(folder, settings)
    try:
        # Nobody but root writes here, so that no user can put a link in the way of root's hand.
        (folder / _SECRETS).mkdir(mode=0o711, exist_ok=True)
        (folder / _SECRETS).chmod(0o711)
        if new_secret:
            secret = secrets.token_bytes(_SECRET_BYTES)
            for name, user in (("node", users.node), ("relay", users.relay)):
                write_durably(secret_file(folder, name), secret, mode=0o400)
                give(secret_file(folder, name), user)
    except OSError as error:
        raise StorageError(
            f"The secret of node and relay in {folder} cannot be written: {error.strerror}.",
            remedy="Mend the folder's owner and mode, or make room.",
        ) from error
    write_stubs(settings.stubs_folder)
    for user in (users.engine, users.node, users.relay):
        require_reachable(Path(sys.executable).resolve(), user)


def secret_file(folder: Path, program: str) -> Path:
    """A program's copy of the secret that node and relay share.

    Args:
        folder: The region's folder.
        program: ``node`` or ``relay``.
    """
    return folder / _SECRETS / f"{program}.secret"


def _engine(settings: RegionSettings, users: RegionUsers, own: dict[str, str]) -> Program:
    command = ["engine", str(settings.folder)]
    if users.relay is not None:
        # The folder of sockets has this group, so that the engine need not be in it.
        command += ["--relay-user", str(users.relay.uid), "--socket-group", str(users.relay.gid)]
    environment = {**_environment(settings, "home", None), **own}
    # A round's arithmetic is the engine's: it may use the whole machine.
    if "OMP_NUM_THREADS" not in own:
        del environment["OMP_NUM_THREADS"]
    return _program(settings, "engine", command, environment, users.engine, stop_seconds=30)


def _node(settings: RegionSettings, users: RegionUsers) -> Program:
    command = [
        "node",
        "--superlink",
        settings.coordinator.address,
        "--ca",
        str(settings.coordinator.ca),
        "--key",
        str(settings.node.key),
        "--secret",
        str(secret_file(settings.folder, "node")),
        "--port",
        str(settings.node.runtime_port),
    ]
    environment = _environment(settings, "node", settings.stubs_folder)
    return _program(settings, "node", command, environment, users.node, stop_seconds=20)


def _relay(settings: RegionSettings, users: RegionUsers) -> Program:
    folder = settings.folder / "relay"
    command = [
        "relay",
        "--runtime-port",
        str(settings.node.runtime_port),
        "--secret",
        str(secret_file(settings.folder, "relay")),
        "--engine-socket",
        str(settings.engine.socket),
        "--work",
        str(folder),
    ]
    if users.engine is not None:
        command += ["--engine-user", str(users.engine.uid)]
    environment = _environment(settings, "relay", settings.stubs_folder)
    return _program(settings, "relay", command, environment, users.relay, stop_seconds=20)


def _recommender(
    settings: RegionSettings, table: RecommenderTable, users: RegionUsers, own: dict[str, str]
) -> Program:
    command = ["recommend", "serve", str(settings.home.root)]
    command += ["--address" if table.socket is None else "--socket", table.listen]
    if table.group is not None:
        command += ["--group", str(table.group)]
    if table.metrics is not None:
        command += ["--metrics", table.metrics]
    environment = {**_environment(settings, "home", None), **own}
    return _program(settings, RECOMMENDER, command, environment, users.engine, stop_seconds=20)


def _profiles(
    settings: RegionSettings, table: ProfilesTable, users: RegionUsers, own: dict[str, str]
) -> Program:
    every = f"{table.follow_every_s:g}"
    command = ["profile", "refresh", str(settings.home.root), "--follow", every, "--quiet"]
    if table.metrics is not None:
        command += ["--metrics", table.metrics]
    environment = {**_environment(settings, "home", None), **own}
    return _program(settings, PROFILES, command, environment, users.engine, stop_seconds=20)


def _program(
    settings: RegionSettings,
    name: str,
    command: list[str],
    environment: dict[str, str],
    user: SystemUser | None,
    *,
    stop_seconds: int,
) -> Program:
    door = Path(sys.executable).parent / "fedpref-region"
    return Program(
        name=name,
        command=(str(door), *command),
        environment=environment,
        user=None if user is None else user.name,
        directory=settings.folder,
        restart="always",
        start_seconds=3.0,
        stop_seconds=stop_seconds,
    )


def _environment(settings: RegionSettings, home: str, first_on_path: Path | None) -> dict[str, str]:
    return process_environment(settings.folder / home, first_on_path=first_on_path)
