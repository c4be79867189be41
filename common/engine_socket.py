"""The relay's way to an engine in another process: one request and one answer a connection.

A frame is ``fpc1`` (magic and version), the header's length in 4 bytes and the body's in 8, both
big-endian, the header as canonical JSON, and the body: the arrays as safetensors. Nothing is ever
unpickled. The socket's file mode is 0600 and each side asks the kernel who the other is: only
processes of the same user talk.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import canonical_json, errors
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError, InputError, StorageError
from common.parameters import load_arrays, save_arrays

if TYPE_CHECKING:
    from common.engine_channel import EngineChannel

MAGIC = b"fpc1"
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 256 << 20
MAX_CONNECTIONS = 8
#: For how long a started request may take to arrive, in seconds.
REQUEST_TIMEOUT_S = 30.0

_PREFIX = struct.Struct("!4sIQ")
_CREDENTIALS = struct.Struct("3i")
_PIECE_BYTES = 1 << 20
_PAUSE_AFTER_FAULT_S = 0.1
# A Unix socket's address has 108 bytes with its end mark.
_MAX_PATH_BYTES = 107

_log = logging.getLogger(__name__)

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


class SocketChannel:
    """A client of `ChannelServer`; see `common.engine_channel.EngineChannel`.

    Args:
        path: The engine's socket.
        timeout_s: The longest a call may take, in seconds.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Asks one thing and waits for the answer.

        Raises:
            InputError: The engine cannot be reached, or did not answer in time.
            FormatError: What came back is not an answer.
            FedprefError: As the engine raised it.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout_s)
                connection.connect(str(self._path))
                _check_peer(connection)
                _send(connection, {"method": method, "header": header}, arrays, deadline)
                answer, received = _receive(connection, deadline)
        except OSError as error:
            raise InputError(
                f"The privacy engine at {self._path} does not answer: {error}.",
                remedy="Start the region's engine, and look at its log.",
            ) from error
        return _open_answer(answer), received


class ChannelServer:
    """Offers one engine on a Unix socket. Use `serve_channel`.

    Args:
        channel: The engine; it serialises its calls itself.
        path: Where the socket is made; its folder must exist.
    """

    def __init__(self, channel: EngineChannel, path: Path) -> None:
        self._channel = channel
        self._path = path
        self._listener = _listen(path)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._closing = threading.Event()

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
                if not self._slots.acquire(blocking=False):
                    connection.close()
                    continue
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stops listening and removes the socket; calls under way end by themselves."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
                _check_peer(connection)
                request, arrays = _receive(connection, deadline)
                answer, answered = self._call(request, arrays)
                _send(connection, answer, answered, time.monotonic() + REQUEST_TIMEOUT_S)
        except (OSError, FedprefError) as error:
            _log.warning("a relay's connection ended: %s", error)
        finally:
            self._slots.release()

    def _call(self, request: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        method, header = request.get("method"), request.get("header")
        try:
            if set(request) != {"method", "header"} or not isinstance(method, str):
                raise FormatError("A request has exactly a method and a header.")
            if not isinstance(header, dict):
                raise FormatError("A request's header is an object.")
            answer, answered = self._channel.call(method, header, arrays)
        except FedprefError as error:
            return {"error": type(error).__name__, "message": error.message}, {}
        # Whatever breaks in the engine must answer, or the relay waits for its whole timeout.
        except Exception as error:  # noqa: BLE001
            _log.error("the engine failed", exc_info=error)
            return {"error": "FedprefError", "message": "The engine failed; see its log."}, {}
        return {"answer": answer}, answered


@contextmanager
def serve_channel(channel: EngineChannel, socket_path: Path) -> Iterator[None]:
    """Offers an engine on a Unix socket while the body runs.

    Raises:
        InputError: The path is too long for a socket, or not ours to use.
        StorageError: Another process is serving there.
    """
    server = ChannelServer(channel, socket_path)
    thread = threading.Thread(target=server.serve_forever, name="engine-socket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.close()
        thread.join()


def _listen(path: Path) -> socket.socket:
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
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise InputError(f"There can be no socket at {path}: {error.strerror}.") from error
    return listener


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
                f"Another process is serving an engine at {path}.",
                remedy="Stop it, or name another socket.",
            )
    path.unlink()


def _check_peer(connection: socket.socket) -> None:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    if user != os.geteuid():
        raise FormatError(f"The other end of the engine's socket belongs to user {user}.")


def _send(
    connection: socket.socket, header: Header, arrays: Mapping[str, np.ndarray], deadline: float
) -> None:
    head = canonical_json.encode(header, max_bytes=MAX_HEADER_BYTES)
    body = save_arrays(arrays) if arrays else b""
    if len(body) > MAX_BODY_BYTES:
        raise FormatError(f"A body of {len(body)} bytes is over the limit of {MAX_BODY_BYTES}.")
    connection.settimeout(_remaining_s(deadline))
    connection.sendall(_PREFIX.pack(MAGIC, len(head), len(body)) + head)
    if body:
        # Whoever has the whole message may be gone: sending nothing would then be an error.
        connection.sendall(body)


def _receive(connection: socket.socket, deadline: float) -> tuple[Header, Arrays]:
    magic, head_bytes, body_bytes = _PREFIX.unpack(_read(connection, _PREFIX.size, deadline))
    if magic != MAGIC:
        raise FormatError("The other end of the engine's socket speaks another protocol.")
    if head_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FormatError(
            f"A message of {head_bytes} + {body_bytes} bytes is over the channel's limits of "
            f"{MAX_HEADER_BYTES} + {MAX_BODY_BYTES}."
        )
    header = canonical_json.decode(
        bytes(_read(connection, head_bytes, deadline)), max_bytes=MAX_HEADER_BYTES
    )
    if not isinstance(header, dict):
        raise FormatError("A message's header is no object.")
    body = _read(connection, body_bytes, deadline)
    return header, load_arrays(body, max_bytes=MAX_BODY_BYTES) if body else {}


def _read(connection: socket.socket, size: int, deadline: float) -> bytearray:
    # Memory grows with what arrived, not with what the prefix claims.
    data = bytearray()
    while len(data) < size:
        connection.settimeout(_remaining_s(deadline))
        piece = connection.recv(min(size - len(data), _PIECE_BYTES))
        if not piece:
            raise ConnectionError("the connection ended in the middle of a message")
        data += piece
    return data


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError("timed out")
    return remaining_s


def _open_answer(answer: Header) -> Header:
    if set(answer) == {"error", "message"}:
        kind = getattr(errors, str(answer["error"]), FedprefError)
        if not (isinstance(kind, type) and issubclass(kind, FedprefError)):
            kind = FedprefError
        raise kind(str(answer["message"]))
    header = answer.get("answer")
    if set(answer) != {"answer"} or not isinstance(header, dict):
        raise FormatError("The engine's answer has neither an answer nor an error.")
    return header
