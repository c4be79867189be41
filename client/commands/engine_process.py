"""``fedpref-region engine``: the process of the region's privacy engine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import UsageError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.engine.service import PrivacyEngine

UsersOption = list[str] | None


@dataclass(frozen=True)
class EngineDoors:
    """Where an engine is reached, and by whom.

    Attributes:
        socket: The relay's socket.
        consent_socket: The consent service's; None for none.
        relay_users: The users that may use the first, besides the engine's own.
        consent_users: The users that may use the second.
        group: The group that may open both; None for the engine's user alone.
        metrics: Host and port of its metrics; None for none.
        access_socket: Where people come to for sensitive columns; None for none.
        access_users: The users that may.
        access_group: The group that may open that; None for the engine's user alone.
    """

    socket: Path
    consent_socket: Path | None
    relay_users: Sequence[str]
    consent_users: Sequence[str]
    group: str | None
    metrics: str | None
    access_socket: Path | None = None
    access_users: Sequence[str] = ()
    access_group: str | None = None


def engine(
    home: Annotated[Path, typer.Argument(help="The region's home folder, or the folder of both.")],
    socket: Annotated[
        Path | None,
        typer.Option(help="The Unix socket that the relay calls; by default region.toml's."),
    ] = None,
    consent_socket: Annotated[
        Path | None,
        typer.Option(
            help="The Unix socket that `consent serve` calls; by default region.toml's, if any."
        ),
    ] = None,
    relay_user: Annotated[
        UsersOption,
        typer.Option(help="A user whose processes may ask, by name or number; may be repeated."),
    ] = None,
    socket_group: Annotated[
        str | None, typer.Option(help="The group that may open the sockets: mode 0660, not 0600.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="A loopback address for Prometheus, such as 127.0.0.1:9464.")
    ] = None,
) -> None:
    """Run the region's privacy engine until interrupted.

    A call that is under way when it is told to end may end first.
    """
    from client.engine.home import RegionHome

    region = RegionHome.read(home)
    declared = _declared(home)
    path = socket or (declared.socket if declared else None)
    if path is None:
        raise UsageError(
            f"{home} has no region.toml beside it that names the engine's socket.",
            remedy="Give --socket.",
        )
    doors = EngineDoors(
        socket=path,
        consent_socket=consent_socket or (declared.consent_socket if declared else None),
        relay_users=relay_user or (declared.relay_users if declared else ()),
        consent_users=declared.consent_users if declared else (),
        group=socket_group or (declared.group if declared else None),
        metrics=metrics or (declared.metrics if declared else None),
        access_socket=declared.access_socket if declared else None,
        access_users=declared.access_users if declared else (),
        access_group=declared.access_group if declared else None,
    )
    with told_to_end() as told, _serving(region, doors):
        told.wait()


def _declared(home: Path) -> EngineDoors | None:
    """What region.toml says, if there is one."""
    from client.consent_service.forms import FILE_NAME
    from client.settings import RegionSettings, settings_file

    if not settings_file(home).is_file():
        return None
    settings = RegionSettings.read(home)
    table = settings.engine
    # Without the consent settings there is nothing that a customer could be asked.
    has_form = (settings.home.root / FILE_NAME).is_file()
    return EngineDoors(
        socket=table.socket,
        consent_socket=table.consent_socket if has_form else None,
        relay_users=[str(user) for user in settings.relay_users],
        consent_users=[str(user) for user in table.consent_users],
        group=None if table.socket_group is None else str(table.socket_group),
        metrics=table.metrics,
        access_socket=table.access_socket,
        access_users=tuple(str(user) for user in table.access_users),
        access_group=None if table.access_group is None else str(table.access_group),
    )


@contextmanager
def _serving(region: RegionHome, doors: EngineDoors) -> Iterator[None]:
    from client.consent_service.desk_opening import desk_on
    from client.consent_service.desk_socket import serve_desk
    from client.engine.door import open_door
    from client.engine.metrics import watched
    from client.engine.round_release import release_maker  # noqa: F401 # so that no round waits
    from client.engine.service import open_engine
    from common.loopback import LoopbackAddress
    from common.peers import Peers, group_id
    from common.process_control import end_with_supervisor, hide_memory
    from common.structured_log import log_as_json

    end_with_supervisor()
    # Keys and customers' data are in it: no core dump, no tracing by another process of its user.
    hide_memory()
    log_as_json("engine")
    address = None if doors.metrics is None else LoopbackAddress.parse(doors.metrics)
    with ExitStack() as stack:
        watching = stack.enter_context(watched(region, doors.socket, address))
        opened = stack.enter_context(open_engine(region, observer=watching.observer))
        ready = f"{region.region}: engine ready on {doors.socket}"
        if doors.consent_socket is not None:
            desk = desk_on(region, opened.log, opened.state, opened.subjects)
            stack.enter_context(
                serve_desk(
                    stack.enter_context(desk),
                    doors.consent_socket,
                    admitted=Peers.with_own(doors.consent_users),
                    group=None if doors.group is None else group_id(doors.group),
                )
            )
            ready += f", consent desk on {doors.consent_socket}"
        if _serves_access(stack, opened, doors):
            ready += f", access desk on {doors.access_socket}"
        if watching.address is not None:
            ready += f", metrics on http://{watching.address}/metrics"
        stack.enter_context(
            open_door(opened, doors.socket, relay_users=doors.relay_users, group=doors.group)
        )
        Console().print(f"{ready}. Ctrl-C stops it.", soft_wrap=True)
        yield


def _serves_access(stack: ExitStack, engine: PrivacyEngine, doors: EngineDoors) -> bool:
    """Serves the access desk, if there is to be one; else what was granted before may run out."""
    from client.governance.desk_opening import desk_on, noting_ends

    if doors.access_socket is None:
        if engine.state.access:
            stack.enter_context(noting_ends(engine.home, engine.log, engine.state))
        return False
    stack.enter_context(
        desk_on(
            engine.home,
            engine.log,
            engine.state,
            doors.access_socket,
            users=doors.access_users,
            group=doors.access_group,
        )
    )
    return True


@contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: who supervises the process sends it, and then waits."""
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
