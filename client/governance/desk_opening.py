"""How an access desk is opened: beside a privacy engine that has the log, or on a home itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client.consent_service.region_records import open_region_log
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.policy import read_policy, require_logged
from client.governance.access_desk import AccessDesk
from client.governance.access_socket import noting_expiries, serve_access
from common.audit.log import AuditLog
from common.peers import Peers, group_id


@contextmanager
def desk_on(
    home: RegionHome,
    log: AuditLog,
    state: LogState,
    socket: Path,
    *,
    users: Sequence[str] = (),
    group: str | None = None,
) -> Iterator[AccessDesk]:
    """Serves a desk on what a process has open already, such as a privacy engine's.

    Args:
        home: The region's home.
        log: Its log, open for writing.
        state: The log's replayed state; shared with whoever else replays it.
        socket: Where people come to.
        users: Whose processes may come besides this one's user, by name or number.
        group: The group that may open the socket's file; None for its owner alone.

    Raises:
        InputError: A user or the group is unknown, or there can be no socket there.
        StorageError: Another process is serving there.
    """
    desk = AccessDesk(home, log, state, read_policy(home.policy), home.read_registry())
    with serve_access(
        desk,
        socket,
        admitted=Peers.with_own(users),
        group=None if group is None else group_id(group),
        on_refused=desk.note_stranger,
    ):
        yield desk


@contextmanager
def noting_ends(home: RegionHome, log: AuditLog, state: LogState) -> Iterator[AccessDesk]:
    """A desk that nobody comes to, and that notes what of earlier grants runs out.

    For an engine whose region has no access socket any more: its log would lack their ends.
    """
    desk = AccessDesk(home, log, state, read_policy(home.policy), home.read_registry())
    desk.note_expiries()
    with noting_expiries(desk):
        yield desk


@contextmanager
def open_desk(
    home: RegionHome, socket: Path, *, users: Sequence[str] = (), group: str | None = None
) -> Iterator[AccessDesk]:
    """Serves a desk on a home whose log no other process has open; arguments as `desk_on`.

    Raises:
        StorageError: Another process has the log.
        PolicyError: The home's policy is not the one that the log has.
        VerificationError: The log does not verify.
    """
    with ExitStack() as stack:
        log = stack.enter_context(open_region_log(home))
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        require_logged(read_policy(home.policy), state.policy_sha256, home.policy)
        yield stack.enter_context(desk_on(home, log, state, socket, users=users, group=group))
