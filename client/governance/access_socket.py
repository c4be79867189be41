"""The access desk over a Unix socket: people's processes have none of the region's keys.

Each person has a user of their own on the region's machine; framing, file mode and the kernel's
word on who the peer is are those of `common.engine_socket`. Who may come to the socket is one
thing; what is handed out goes by signatures alone.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.governance.access_desk import AccessDesk, grant_record
from client.governance.grants import AccessRefusedError
from common.canonical_json import JsonValue
from common.engine_socket import SocketChannel, serve_channel
from common.errors import FedprefError, FormatError, InputError, StorageError, VerificationError
from common.peers import Peers

#: For how long a person's process waits for the desk, in seconds.
TIMEOUT_S = 60.0
#: How often the desk looks for grants that have run out, in seconds.
EXPIRY_EVERY_S = 30.0

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
# The channel carries numbers: the bytes of an Arrow stream go as whole numbers of 8 bytes.
_ROWS, _WORD = "rows", "<i8"
# What is told in words: they name tables, columns and grants, and repeat nothing that is kept.
_TOLD: tuple[tuple[type[FedprefError], str], ...] = (
    (AccessRefusedError, "not-granted"),
    (VerificationError, "signature"),
    (FormatError, "format"),
    (InputError, "input"),
)
_logger = logging.getLogger("fedpref.access")


class AccessChannel:
    """A desk as an `common.engine_channel.EngineChannel`, to be offered on a socket.

    Args:
        desk: The desk.
    """

    def __init__(self, desk: AccessDesk) -> None:
        self._desk = desk
        self._methods: dict[str, Callable[[Header], tuple[Header, Arrays]]] = {
            "file": self._file,
            "use": self._use,
            "read": self._read,
            "grants": self._grants,
        }

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        """Answers one question of a person's process; a refusal is an answer too."""
        answer = self._methods.get(method)
        if answer is None or arrays:
            raise FormatError("The access desk has no such method.")
        try:
            return answer(header)
        except tuple(kind for kind, _ in _TOLD) as error:
            code = next(code for kind, code in _TOLD if isinstance(error, kind))
            return {"refused": code, "because": error.message, "remedy": error.remedy}, {}

    def _file(self, header: Header) -> tuple[Header, Arrays]:
        return {"request_id": self._desk.file(_bytes(header))}, {}

    def _use(self, header: Header) -> tuple[Header, Arrays]:
        return _packed(self._desk.use(_bytes(header)))

    def _read(self, header: Header) -> tuple[Header, Arrays]:
        table, columns = header.get("table"), header.get("columns")
        if not isinstance(table, str) or not isinstance(columns, list):
            raise FormatError("What is read is a table and a list of its columns.")
        return _packed(self._desk.read(table, [str(name) for name in columns]))

    def _grants(self, _: Header) -> tuple[Header, Arrays]:
        shown: list[JsonValue] = [
            {"grant": grant_record(each), "request": base64.b64encode(each.request).decode()}
            for each in self._desk.grants()
        ]
        return {"grants": shown}, {}


@dataclass(frozen=True)
class ListedGrant:
    """A grant as a desk shows it.

    Attributes:
        fields: What `client.governance.access_desk.grant_record` says of it.
        request: The request's log entry.
    """

    fields: Mapping[str, JsonValue]
    request: bytes


class AccessClient:
    """A person's way to a desk. Raises what the desk raises, in the desk's words.

    Args:
        path: The desk's socket.
        desk_user: The user id that the desk must be of; this process's own if None.
        timeout_s: The longest a question may take, in seconds.
    """

    def __init__(
        self, path: Path, *, desk_user: int | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._path = path
        self._channel = SocketChannel(path, timeout_s=timeout_s, engine_user=desk_user)

    def file(self, data: bytes) -> str:
        """Files a signed request, approval or revocation; gives the request's id."""
        answer, _ = self._ask("file", {"record": base64.b64encode(data).decode()})
        return str(answer.get("request_id"))

    def use(self, data: bytes) -> pa.Table:
        """Shows a signed use, and gets the columns."""
        return _unpacked(*self._ask("use", {"record": base64.b64encode(data).decode()}))

    def read(self, table: str, columns: Collection[str]) -> pa.Table:
        """Gets columns that nobody needs a grant for."""
        return _unpacked(*self._ask("read", {"table": table, "columns": [*columns]}))

    def grants(self) -> list[ListedGrant]:
        """Every request and what has become of it."""
        answer, _ = self._ask("grants", {})
        shown = answer.get("grants")
        if not isinstance(shown, list):
            raise FormatError("The access desk's answer has no grants.")
        return [_listed(each) for each in shown]

    def find(self, request_id: str) -> ListedGrant:
        """One grant.

        Raises:
            InputError: The desk has none of that id.
        """
        for each in self.grants():
            if each.fields["request_id"] == request_id:
                return each
        raise InputError(
            f"The access desk at {self._path} has no request {request_id}.",
            remedy="fedpref-region access list shows them.",
        )

    def _ask(self, method: str, header: Header) -> tuple[Header, Arrays]:
        try:
            answer, arrays = self._channel.call(method, header, {})
        except InputError as error:
            raise InputError(
                f"The access desk at {self._path} gave no answer: {error.message}",
                remedy="Is it served, by the user that --desk-user names, and may you come to it?",
            ) from error
        if answer.keys() == {"refused", "because", "remedy"}:
            kind = next((k for k, code in _TOLD if code == answer["refused"]), AccessRefusedError)
            raise kind(str(answer["because"]), remedy=str(answer["remedy"]))
        return answer, arrays


@contextmanager
def serve_access(
    desk: AccessDesk,
    path: Path,
    *,
    admitted: Peers,
    group: int | None = None,
    on_refused: Callable[[str, int], None] | None = None,
    expiry_every_s: float = EXPIRY_EVERY_S,
) -> Iterator[None]:
    """Offers a desk on a Unix socket, and notes what has run out, while the body runs.

    Args:
        desk: The desk.
        path: Where its socket is made.
        admitted: Whose processes may come.
        group: The group that may open the socket's file (mode 0660); None for 0600.
        on_refused: Told of each peer that got no answer, as `common.engine_socket.serve_channel`.
        expiry_every_s: How often to look for grants that have run out, in seconds.

    Raises:
        InputError: The path is too long for a socket, or not ours to use.
        StorageError: Another process is serving there, or the log refuses.
    """
    with ExitStack() as stack:
        # What ran out while nobody served is noted before anybody is served.
        desk.note_expiries()
        stack.enter_context(
            serve_channel(
                AccessChannel(desk), path, admitted=admitted, group=group, on_refused=on_refused
            )
        )
        stack.enter_context(noting_expiries(desk, every_s=expiry_every_s))
        yield


@contextmanager
def noting_expiries(desk: AccessDesk, *, every_s: float = EXPIRY_EVERY_S) -> Iterator[None]:
    """Notes what has run out while the body runs, whether or not anybody is served.

    Args:
        desk: The desk.
        every_s: How often to look, in seconds.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            try:
                desk.note_expiries()
            except (StorageError, VerificationError) as error:
                # A full disk, say: the next look tries again, and so does whoever comes first.
                _logger.error("the end of a grant could not be logged: %s", error)

    thread = threading.Thread(target=watch, name="access-expiry", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bytes(header: Header) -> bytes:
    try:
        return base64.b64decode(str(header.get("record")), validate=True)
    except ValueError as error:
        raise FormatError("What is filed is no record in base64.") from error


def _listed(value: JsonValue) -> ListedGrant:
    if isinstance(value, dict) and isinstance(fields := value.get("grant"), dict):
        try:
            request = base64.b64decode(str(value.get("request")), validate=True)
        except ValueError as error:
            raise FormatError("The access desk shows a request that is not base64.") from error
        return ListedGrant(fields, request)
    raise FormatError("The access desk shows what is no grant.")


def _packed(rows: pa.Table) -> tuple[Header, Arrays]:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    data = sink.getvalue().to_pybytes()
    padded = data + b"\0" * (-len(data) % np.dtype(_WORD).itemsize)
    return {"bytes": len(data)}, {_ROWS: np.frombuffer(padded, _WORD)}


def _unpacked(answer: Header, arrays: Arrays) -> pa.Table:
    size_bytes, words = answer.get("bytes"), arrays.get(_ROWS)
    if type(size_bytes) is not int or words is None:
        raise FormatError("The access desk's answer has no rows.")
    try:
        return pa.ipc.open_stream(words.tobytes()[:size_bytes]).read_all()
    except pa.ArrowException as error:
        raise FormatError("The access desk's rows are not of the form they must have.") from error
