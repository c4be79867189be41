"""The ways from a relay to its engine: which one is taken, and what the socket lets through."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from common import canonical_json, engine_frames, engine_socket
from common.canonical_json import JsonValue
from common.engine_channel import (
    ENGINE_USER_VARIABLE,
    SOCKET_DIR_VARIABLE,
    SOCKET_VARIABLE,
    TIMEOUT_VARIABLE,
    register_channel,
    resolve_channel,
    serve_channel,
    socket_name,
)
from common.engine_frames import MAGIC, PROTOCOL
from common.engine_socket import FRAME_REFUSED, PEER_REFUSED, SocketChannel
from common.errors import (
    BudgetError,
    FedprefError,
    FormatError,
    InputError,
    StorageError,
)
from common.peers import Peers
from common.reason_codes import EngineBusyError, EngineFailedError, OtherProtocolError
from tests.support.other_user import as_user, open_folder

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
PREFIX = struct.Struct("!4sIQ")


class Echo:
    """Answers with what it was asked."""

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        return {"method": method, "asked": header}, {k: v * 2 for k, v in arrays.items()}


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        raise self.error


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SOCKET_VARIABLE, SOCKET_DIR_VARIABLE, TIMEOUT_VARIABLE, ENGINE_USER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_an_engine_in_this_process_is_found_by_its_partition() -> None:
    first, second = Echo(), Echo()
    with register_channel(0, first), register_channel(1, second):
        assert resolve_channel({"partition-id": 1}) is second
        with pytest.raises(InputError, match="already"), register_channel(0, second):
            pass
        assert resolve_channel({"partition-id": 0}) is first
    with pytest.raises(InputError, match="Nothing says"):
        resolve_channel({"partition-id": 0})


def test_a_partition_is_a_number_not_something_equal_to_one(tmp_path: Path) -> None:
    with register_channel(1, Echo()):
        for partition in (True, 1.0, "1", None):
            with pytest.raises(InputError):
                resolve_channel({"partition-id": partition})


def test_a_socket_is_found_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_channel(Echo(), tmp_path / socket_name(3)):
        monkeypatch.setenv(SOCKET_DIR_VARIABLE, str(tmp_path))
        assert resolve_channel({"partition-id": 3}).call("a", {}, {})[0]["method"] == "a"
        monkeypatch.setenv(SOCKET_DIR_VARIABLE, "/nowhere")
        monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "3.sock"))
        assert resolve_channel({}).call("b", {}, {})[0]["method"] == "b"


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_a_timeout_that_is_none_is_refused(timeout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, "/tmp/engine.sock")
    monkeypatch.setenv(TIMEOUT_VARIABLE, timeout)
    with pytest.raises(InputError, match=TIMEOUT_VARIABLE):
        resolve_channel({})


def test_header_and_arrays_come_through_unchanged(tmp_path: Path) -> None:
    arrays = {
        "f": np.linspace(0, 1, 2000, dtype="<f8").reshape(40, 50),
        "i": np.array([-(2**62)], "<i8"),
        "empty": np.zeros((0, 3), "<f4"),
    }
    header: Header = {"text": "ü\n", "list": [1, None, True, {"deep": "er"}], "number": -5}
    with serve_channel(Echo(), tmp_path / "s"):
        answer, received = SocketChannel(tmp_path / "s", timeout_s=60).call("train", header, arrays)
    assert answer == {"method": "train", "asked": header}
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array * 2)


def test_many_relays_at_once_are_all_answered(tmp_path: Path) -> None:
    answers: list[JsonValue] = []

    def ask(number: int) -> None:
        channel = SocketChannel(tmp_path / "s", timeout_s=60)
        answers.append(channel.call("train", {"n": number}, {})[0]["asked"])

    with serve_channel(Echo(), tmp_path / "s"):
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answer["n"] for answer in answers) == list(range(6))  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (BudgetError("Jane Doe", remedy="Jane"), BudgetError, b"budget-exhausted"),
        (StorageError("Jane Doe"), StorageError, b"storage-failure"),
        (FedprefError("Jane Doe"), FedprefError, b"refused"),
        (EngineBusyError("Jane Doe"), EngineBusyError, b"engine-busy"),
        (ZeroDivisionError("row of Jane Doe"), EngineFailedError, b"engine-failure"),
        (MemoryError("Jane Doe"), EngineFailedError, b"engine-failure"),
    ],
)
def test_of_an_error_a_code_crosses_and_no_word(
    tmp_path: Path, error: Exception, kind: type[FedprefError], code: bytes
) -> None:
    with serve_channel(Failing(error), tmp_path / "s"):
        with pytest.raises(kind) as caught:
            SocketChannel(tmp_path / "s", timeout_s=60).call("train", {}, {})
        answer = exchange(tmp_path / "s", frame(GOOD))
    assert type(caught.value) is kind
    assert "Jane" not in str(caught.value)
    assert answer == frame(b'{"refused":"%s"}' % code)


def test_the_socket_is_its_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve_channel(Echo(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with pytest.raises(InputError, match="does not answer"):
        SocketChannel(path, timeout_s=1).call("describe", {}, {})


def test_an_engine_of_another_user_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Listening(Echo):
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            asked.append(method)
            return super().call(method, header, arrays)

    with serve_channel(Listening(), tmp_path / "s"):
        for channel in (
            SocketChannel(tmp_path / "s", timeout_s=60, engine_user=os.geteuid() + 1),
            _named_by_environment(tmp_path / "s", str(os.geteuid() + 1), monkeypatch),
        ):
            with pytest.raises(FormatError, match="belongs to user"):
                channel.call("describe", {}, {})
        right = _named_by_environment(tmp_path / "s", str(os.geteuid()), monkeypatch)
        assert right.call("describe", {}, {})
        for nobody in ("", "no-such-user-here", "-1", "99999999999"):
            with pytest.raises(InputError, match="no user"):
                _named_by_environment(tmp_path / "s", nobody, monkeypatch)
    assert asked == ["describe"]


def _named_by_environment(path: Path, user: str, monkeypatch: pytest.MonkeyPatch) -> SocketChannel:
    monkeypatch.setenv(SOCKET_VARIABLE, str(path))
    monkeypatch.setenv(ENGINE_USER_VARIABLE, user)
    channel = resolve_channel({})
    assert isinstance(channel, SocketChannel)
    return channel


def test_the_engine_turns_away_whom_it_does_not_name() -> None:
    """With processes of real, distinct users: the relay's, a stranger's, root's."""
    relay, stranger, group = 61001, 61002, 61010
    refused: list[tuple[str, int]] = []
    with open_folder() as folder:
        path = folder / "s"

        def ask() -> str:
            try:
                channel = SocketChannel(path, timeout_s=20, engine_user=0)
                return str(channel.call("describe", {}, {})[0]["method"])
            except FedprefError as error:
                return type(error).__name__

        def raw() -> str:
            try:
                return "answered" if exchange(path, frame(GOOD)) else "hung up"
            except OSError as error:
                return type(error).__name__

        with serve_channel(
            Echo(),
            path,
            admitted=Peers(frozenset({relay})),
            group=group,
            on_refused=lambda reason, user: refused.append((reason, user)),
        ):
            assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (group, 0o660)
            assert as_user(relay, group, ask) == "describe"
            # In the group, so that the file opens, and yet not the one who was named.
            assert as_user(stranger, group, ask) == "InputError"
            assert as_user(stranger, group, raw) == "hung up"
            # Not even in the group.
            assert as_user(stranger, stranger, raw) == "PermissionError"
            # Not even root, if root was not named.
            assert raw() == "hung up"
            assert as_user(relay, group, ask) == "describe"
    assert refused == [(PEER_REFUSED, stranger)] * 2 + [(PEER_REFUSED, 0)]


def test_a_group_that_cannot_open_the_socket_is_named() -> None:
    with open_folder() as folder:
        folder.chmod(0o777)

        def serve() -> str:
            try:
                with serve_channel(Echo(), folder / "s", group=61010):
                    return "served"
            except InputError as error:
                return error.message + error.remedy

        told = str(as_user(61001, 61001, serve))
        assert "cannot be given to group 61010" in told
        assert "member" in told
        assert not (folder / "s").exists()


def exchange(path: Path, data: bytes) -> bytes:
    """Sends raw bytes and gives what comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        # Whoever hangs up on what it will not read may have said why.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


def frame(header: bytes, body: bytes = b"", *, magic: bytes = MAGIC) -> bytes:
    return PREFIX.pack(magic, len(header), len(body)) + header + body


GOOD = canonical_json.encode({"method": "describe", "header": {}})


@pytest.mark.parametrize(
    "data",
    [
        frame(GOOD, magic=b"fpx2"),
        frame(b'{"method": "describe"}'),
        frame(b"[]"),
        frame(GOOD, pickle.dumps(["no"])),
        frame(GOOD, b"\xff" * 64),
        frame(GOOD)[:-1],
        PREFIX.pack(MAGIC, len(GOOD), 1 << 60) + GOOD,
        PREFIX.pack(MAGIC, 1 << 30, 0),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
    ids=["magic", "json", "list", "pickle", "garbage", "cut", "bomb", "head", "http", "nothing"],
)
def test_what_is_no_message_gets_no_answer_and_harms_nobody(tmp_path: Path, data: bytes) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        assert exchange(tmp_path / "s", data) == b""
        assert SocketChannel(tmp_path / "s", timeout_s=60).call("describe", {}, {})


@pytest.mark.parametrize("version", [b"1", b"3", b"9"])
def test_another_version_is_told_so_at_both_ends(tmp_path: Path, version: bytes) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        answer = exchange(tmp_path / "s", frame(GOOD, magic=PROTOCOL + version))
        assert answer == frame(b'{"refused":"other-protocol"}')
        large = frame(GOOD, b"x" * (4 << 20), magic=PROTOCOL + version)
        assert exchange(tmp_path / "s", large) in (answer, b"")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "other"))
    listener.listen()
    other = threading.Thread(
        target=_answer_once, args=(listener, frame(b'{"error":"x"}', magic=PROTOCOL + version))
    )
    other.start()
    with pytest.raises(OtherProtocolError, match=f"version {version.decode()}"):
        SocketChannel(tmp_path / "other", timeout_s=60).call("describe", {}, {})
    other.join()
    listener.close()


def _answer_once(listener: socket.socket, data: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(data)


def test_who_is_told_while_it_still_sends_hears_it(tmp_path: Path) -> None:
    """The engine has said all there is to say, and hangs up on the rest of the model."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(16)
            connection.sendall(frame(b'{"refused":"engine-busy"}'))

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(EngineBusyError):
        SocketChannel(tmp_path / "s", timeout_s=60).call("train", {}, {"x": np.zeros(1 << 20)})
    thread.join()
    listener.close()


def test_one_user_cannot_have_all_the_engines_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_socket, "MAX_CONNECTIONS", 2)
    with serve_channel(Echo(), tmp_path / "s"):
        idle = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for connection in idle:
            connection.connect(str(tmp_path / "s"))
        with pytest.raises(EngineBusyError):
            SocketChannel(tmp_path / "s", timeout_s=60).call("describe", {}, {"x": np.zeros(9)})
        for connection in idle:
            connection.close()
        _until(lambda: _describes(tmp_path / "s"))


def _describes(path: Path) -> bool:
    try:
        return bool(SocketChannel(path, timeout_s=60).call("describe", {}, {}))
    except EngineBusyError:
        return False


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it never came to hold")


def test_a_request_that_drips_is_hung_up_on_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_socket, "REQUEST_TIMEOUT_S", 0.3)
    with (
        serve_channel(Echo(), tmp_path / "s"),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(60)
        connection.connect(str(tmp_path / "s"))
        data, sent = frame(GOOD), 0
        try:
            while sent < len(data) - 1:
                connection.sendall(data[sent : sent + 1])
                sent += 1
                time.sleep(0.05)
            ended = connection.recv(1) == b""
        except OSError:
            ended = True
        assert ended


def test_bytes_that_are_no_request_are_noted(tmp_path: Path) -> None:
    noted: list[tuple[str, int]] = []
    with serve_channel(
        Echo(), tmp_path / "s", on_refused=lambda reason, user: noted.append((reason, user))
    ):
        exchange(tmp_path / "s", b"GET / HTTP/1.1\r\n\r\n")
        _until(lambda: noted == [(FRAME_REFUSED, os.geteuid())])


def test_whoever_cannot_note_it_keeps_the_door_open(tmp_path: Path) -> None:
    def full(reason: str, user: int) -> None:
        raise StorageError("the disk is full")

    with serve_channel(Echo(), tmp_path / "s", on_refused=full):
        exchange(tmp_path / "s", b"GET / HTTP/1.1\r\n\r\n")
        assert _describes(tmp_path / "s")


def test_an_end_waits_for_the_call_that_is_under_way(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Slow(Echo):
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            begun.set()
            time.sleep(0.3)
            ended.set()
            return super().call(method, header, arrays)

    def ask() -> None:
        assert _describes(tmp_path / "s")

    thread = threading.Thread(target=ask)
    with serve_channel(Slow(), tmp_path / "s"):
        thread.start()
        assert begun.wait(60)
    assert ended.is_set()
    thread.join()


def test_an_end_does_not_wait_for_who_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_socket, "CLOSING_WAIT_S", 1e9)
    with socket.socket(socket.AF_UNIX) as connection, serve_channel(Echo(), tmp_path / "s"):
        connection.connect(str(tmp_path / "s"))


@pytest.mark.parametrize(
    "request_header",
    [{}, {"method": "a"}, {"method": 1, "header": {}}, {"method": "a", "header": []}],
)
def test_a_request_of_another_form_is_refused(tmp_path: Path, request_header: Header) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        answer = exchange(tmp_path / "s", frame(canonical_json.encode(request_header)))
    assert answer == frame(b'{"refused":"malformed-request"}')


def test_a_claim_of_much_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    with serve_channel(Echo(), tmp_path / "s"):
        tracemalloc.start()
        claim = PREFIX.pack(MAGIC, len(GOOD), engine_frames.MAX_BODY_BYTES) + GOOD + b"x" * 1000
        exchange(tmp_path / "s", claim)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("claim", [(1 << 30, 0), (len(GOOD), 1 << 60)])
def test_a_claim_of_too_much_is_not_waited_for(tmp_path: Path, claim: tuple[int, int]) -> None:
    with (
        serve_channel(Echo(), tmp_path / "s"),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(60)
        connection.connect(str(tmp_path / "s"))
        connection.sendall(PREFIX.pack(MAGIC, *claim))
        assert connection.recv(1) == b""


def test_too_much_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_frames, "MAX_BODY_BYTES", 1000)
    with serve_channel(Echo(), tmp_path / "s"):
        channel = SocketChannel(tmp_path / "s", timeout_s=60)
        with pytest.raises(FormatError, match="limit"):
            channel.call("train", {}, {"x": np.zeros(1000)})


def test_an_answer_that_is_too_much_is_a_failure_and_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lavish:
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            return {}, {"x": np.zeros(1000)}

    monkeypatch.setattr(engine_frames, "MAX_BODY_BYTES", 1000)
    with serve_channel(Lavish(), tmp_path / "s"), pytest.raises(EngineFailedError):
        SocketChannel(tmp_path / "s", timeout_s=60).call("train", {}, {})


def test_an_engine_that_hangs_is_given_up(tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging:
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            release.wait(200)
            return {}, {}

    with serve_channel(Hanging(), tmp_path / "s"):
        with pytest.raises(InputError, match="timed out"):
            SocketChannel(tmp_path / "s", timeout_s=0.3).call("train", {}, {})
        release.set()


def test_an_answer_that_drips_is_given_up(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                for byte in frame(GOOD):
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)
            except OSError:
                pass

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(InputError, match="timed out"):
        SocketChannel(tmp_path / "s", timeout_s=0.5).call("train", {}, {})
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    "answer",
    [{}, {"answer": []}, {"answer": {}, "refused": "x"}, {"refused": 1}, {"error": "x"}],
)
def test_an_answer_of_another_form_is_refused(answer: Header) -> None:
    with pytest.raises(FormatError):
        engine_frames.open_answer(answer)


@pytest.mark.parametrize("code", ["annotations", "SystemExit", "", "words of a stranger"])
def test_a_code_that_nobody_knows_is_an_error_in_our_own_words(code: str) -> None:
    with pytest.raises(FedprefError) as caught:
        engine_frames.open_answer({"refused": code})
    assert type(caught.value) is FedprefError
    assert str(caught.value) == "The privacy engine refused: refused. Its own log says why."


def test_a_socket_left_by_a_kill_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with serve_channel(Echo(), path):
        with pytest.raises(StorageError, match="Another process"), serve_channel(Echo(), path):
            pass
        assert SocketChannel(path, timeout_s=60).call("describe", {}, {})


def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(InputError, match="no socket"), serve_channel(Echo(), path):
        pass
    assert path.read_text() == "precious"
    long = tmp_path / ("x" * 120)
    with pytest.raises(InputError, match="longer"), serve_channel(Echo(), long):
        pass
