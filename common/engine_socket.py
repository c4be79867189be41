"""The relay's way to an engine in another process: one request and one answer a connection.

What travels is in `common.engine_frames`. Who may be at the other end is the region's choice, and
the kernel says who is (`common.peers`): by default both ends are of one user and the socket's file
mode is 0600; where the relay has a user of its own, the engine names it, the mode is 0660 with a
group of the two, and the relay names the engine's user. The relay runs code that the coordinator
ships, so the engine bounds what it may ask for: how much, how slowly, how often at once.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.canonical_json import JsonValue
from common.engine_frames import (
    Arrays,
    Header,
    open_answer,
    open_request,
    receive_frame,
    send_frame,
)
from common.errors import FedprefError, FormatError, InputError, StorageError
from common.peers import Peers, peer_user
from common.reason_codes import FAILED, EngineBusyError, OtherProtocolError, reason_code

if TYPE_CHECKING:
    from common.engine_channel import EngineChannel

#: How many connections one user may have at a time: no user can keep another out.
MAX_CONNECTIONS = 8
#: For how long a started request may take to arrive, in seconds; and an answer, to be taken.
REQUEST_TIMEOUT_S = 30.0
#: For how long an end waits for the calls that are under way, in seconds.
CLOSING_WAIT_S = 10.0
#: What is said of a peer that is not admitted, and of bytes that are no request.
PEER_REFUSED, FRAME_REFUSED = "peer-refused", "frame-refused"

_PAUSE_AFTER_FAULT_S = 0.1
# A Unix socket's address has 108 bytes with its end mark.
_MAX_PATH_BYTES = 107

_log = logging.getLogger(__name__)

#: Told of a peer that got no answer: `PEER_REFUSED` or `FRAME_REFUSED`, and its user id.
OnRefused = Callable[[str, int], None]


class SocketChannel:
    """A client of `ChannelServer`; see `common.engine_channel.EngineChannel`.

    Args:
        path: The engine's socket.
        timeout_s: The longest a call may take, in seconds.
        engine_user: The user id that must be the engine's; this process's own if None.
    """

    def __init__(self, path: Path, *, timeout_s: float, engine_user: int | None = None) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._engine_user = engine_user

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Asks one thing and waits for the answer.

        Raises:
            InputError: The engine cannot be reached, did not answer in time, has too much to do,
                or speaks another version of the protocol.
            FormatError: What came back is not an answer, or another user serves there.
            FedprefError: Of the kind that the engine raised, without its words.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout_s)
                connection.connect(str(self._path))
                check_engine(connection, str(self._path), self._engine_user)
                return ask(connection, method, header, arrays, deadline)
        except OSError as error:
            raise InputError(
                f"The privacy engine at {self._path} does not answer: {error}.",
                remedy="Start the region's engine, and look at its log.",
            ) from error


def check_engine(connection: socket.socket, where: str, engine_user: int | None) -> None:
    """Requires that the other end of a connection is the engine's user's.

    Args:
        connection: The connection.
        where: What it is called in an error's text.
        engine_user: The user id that must be there; this process's own if None.

    Raises:
        FormatError: Another user's process is there.
        OSError: The kernel does not say.
    """
    wanted = os.geteuid() if engine_user is None else engine_user
    if (user := peer_user(connection)) != wanted:
        raise FormatError(
            f"The other end of the engine's socket {where} belongs to user {user}, not to "
            f"the engine's, {wanted}.",
            remedy="Find out who serves there; or correct the engine's user.",
        )


def ask(
    connection: socket.socket,
    method: str,
    header: Header,
    arrays: Mapping[str, np.ndarray],
    deadline: float,
) -> tuple[Header, Arrays]:
    """Sends one request and receives the answer; raises as `SocketChannel.call`, and OSError."""
    # An engine that does not read on may have said why.
    with suppress(BrokenPipeError, ConnectionResetError):
        send_frame(connection, {"method": method, "header": header}, arrays, deadline)
    answer, received = receive_frame(connection, deadline)
    return open_answer(answer), received


class ChannelServer:
    """Offers one engine on a Unix socket. Use `serve_channel`.

    Args:
        channel: The engine; it serialises its calls itself.
        path: Where the socket is made; its folder must exist.
        admitted: Whose processes may ask.
        group: The group that may open the socket's file; None for its owner alone.
        on_refused: Told of each peer that got no answer.
    """

    def __init__(
        self,
        channel: EngineChannel,
        path: Path,
        *,
        admitted: Peers,
        group: int | None,
        on_refused: OnRefused,
    ) -> None:
        self._channel = channel
        self._path = path
        self._admitted = admitted
        self._on_refused = on_refused
        self._listener = listen_on(path, group)
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._open: Counter[int] = Counter()
        self._calls = 0

    def serve_forever(self) -> None:
        """Answers requests until `close`."""
        # Closed by the thread that waits on it, so that its number cannot be another's by then.
        with self._listener:
            while not self._closing.is_set():
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    # Ours to end by, or a passing want of file descriptors.
                    if not self._closing.wait(_PAUSE_AFTER_FAULT_S):
                        _log.warning("a relay could not connect: %s", error)
                    continue
                self._receive(connection)

    def close(self) -> None:
        """Stops listening, removes the socket, and waits a while for calls that are under way."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._idle:
            self._idle.wait_for(lambda: not self._calls, CLOSING_WAIT_S)

    def _receive(self, connection: socket.socket) -> None:
        """Has an admitted peer answered in a thread; a stranger costs neither thread nor turn."""
        try:
            user = peer_user(connection)
        except OSError as error:
            _log.warning("a relay was gone before it was looked at: %s", error)
            connection.close()
            return
        if not self._admitted.admit(user):
            connection.close()
            self._refuse(PEER_REFUSED, user)
            return
        with self._idle:
            busy = self._open[user] >= MAX_CONNECTIONS
            self._open[user] += 1
        if busy:
            # Said without waiting for the request, which may never come.
            self._say_busy(connection)
            self._release(user)
            return
        try:
            threading.Thread(target=self._answer, args=(connection, user), daemon=True).start()
        except RuntimeError as error:
            _log.warning("there is no thread for another relay: %s", error)
            connection.close()
            self._release(user)

    def _release(self, user: int) -> None:
        with self._idle:
            self._open[user] -= 1

    def _say_busy(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            code = reason_code(EngineBusyError(""))
            send_frame(connection, {"refused": code}, {}, time.monotonic() + _PAUSE_AFTER_FAULT_S)

    def _answer(self, connection: socket.socket, user: int) -> None:
        try:
            with connection:
                converse(self._channel, connection, self._under_way())
        except FedprefError as error:
            _log.warning("a relay's request is none: %s", error)
            self._refuse(FRAME_REFUSED, user)
        except OSError as error:
            _log.warning("a relay's connection ended: %s", error)
        finally:
            self._release(user)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """A call that an end should wait for; not a peer that has not yet asked."""
        with self._idle:
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def _refuse(self, reason: str, user: int) -> None:
        try:
            self._on_refused(reason, user)
        # A full disk, say: the door stays open for others.
        except Exception as error:  # noqa: BLE001
            _log.error("a refused peer could not be noted", exc_info=error)


def converse(
    channel: EngineChannel, connection: socket.socket, under_way: AbstractContextManager[None]
) -> None:
    """Answers the one request that comes over a connection.

    Args:
        channel: Who answers.
        connection: The connection.
        under_way: Entered while the request, which has arrived, is worked on.

    Raises:
        FormatError: What came is no request.
        OSError: The other end is gone, or too slow.
    """
    try:
        request, arrays = receive_frame(connection, time.monotonic() + REQUEST_TIMEOUT_S)
    except OtherProtocolError as error:
        _log.warning("%s", error)
        _send(connection, {"refused": reason_code(error)}, {})
        return
    with under_way:
        answer, answered = _call(channel, request, arrays)
        try:
            _send(connection, answer, answered)
        except FormatError as error:
            _log.error("an answer cannot be sent: %s", error)
            _send(connection, {"refused": FAILED}, {})


def _send(connection: socket.socket, answer: Header, arrays: Arrays) -> None:
    send_frame(connection, answer, arrays, time.monotonic() + REQUEST_TIMEOUT_S)


def _call(channel: EngineChannel, request: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    try:
        method, header = open_request(request)
        answer, answered = channel.call(method, header, arrays)
    # Whatever breaks in the engine must answer, or the relay waits for its whole timeout. Its
    # words stay here: they may quote a record.
    except Exception as error:  # noqa: BLE001
        expected = isinstance(error, FedprefError)
        _log.error("a request failed: %s", error, exc_info=None if expected else error)
        return {"refused": reason_code(error)}, {}
    return {"answer": answer}, answered


@contextmanager
def serve_channel(
    channel: EngineChannel,
    socket_path: Path,
    *,
    admitted: Peers | None = None,
    group: int | None = None,
    on_refused: OnRefused | None = None,
) -> Iterator[None]:
    """Offers an engine on a Unix socket while the body runs.

    Args:
        channel: The engine.
        socket_path: Where; the folder must exist.
        admitted: Whose processes may ask; this process's own user's if None.
        group: The group that may open the socket's file (mode 0660); None for 0600.
        on_refused: Told of each peer that got no answer: `PEER_REFUSED` or `FRAME_REFUSED`, and
            its user id.

    Raises:
        InputError: The path is too long for a socket, or not ours to use; or the group is not.
        StorageError: Another process is serving there.
    """
    server = ChannelServer(
        channel,
        socket_path,
        admitted=Peers.own() if admitted is None else admitted,
        group=group,
        on_refused=_tell_nobody if on_refused is None else on_refused,
    )
    thread = threading.Thread(target=server.serve_forever, name="engine-socket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.close()
        thread.join()


def _tell_nobody(reason: str, user: int) -> None:
    _log.warning("%s: a process of user %d", reason, user)


def listen_on(path: Path, group: int | None, *, backlog: int = MAX_CONNECTIONS) -> socket.socket:
    """Makes a Unix socket and listens on it; what a killed process left in its place goes.

    Args:
        path: Where the socket is made; its folder must exist.
        group: The group that may open the socket's file (mode 0660); None for 0600.
        backlog: How many connections may wait to be accepted.

    Raises:
        InputError: The path is too long for a socket, or not ours to use; or the group is not.
        StorageError: Another process is serving there.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InputError(
            f"The socket path {path} is longer than {_MAX_PATH_BYTES} bytes.",
            remedy="Choose a shorter folder.",
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Nobody can connect before listen(): the mode is in force from the first moment on.
        path.chmod(0o600)
        if group is not None:
            _give_group(path, group)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise InputError(f"There can be no socket at {path}: {error.strerror}.") from error
    except InputError:
        listener.close()
        raise
    return listener


def _give_group(path: Path, group: int) -> None:
    try:
        os.chown(path, -1, group)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"The socket {path} cannot be given to group {group}: {error.strerror}.",
            remedy="Make the engine's user a member of that group.",
        ) from error
    path.chmod(0o660)


def _remove_stale(path: Path) -> None:
    """Removes a socket that a killed engine left, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} exists and is no socket.", remedy="Name another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise StorageError(
                f"Another process is serving at {path}.",
                remedy="Stop it, or name another socket.",
            )
    path.unlink()
