"""The ways from a relay to its engine: which one is taken, and what the socket lets through."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from common import canonical_json, engine_socket
from common.canonical_json import JsonValue
from common.engine_channel import (
    SOCKET_DIR_VARIABLE,
    SOCKET_VARIABLE,
    TIMEOUT_VARIABLE,
    register_channel,
    resolve_channel,
    serve_channel,
    socket_name,
)
from common.engine_socket import MAGIC, SocketChannel
from common.errors import (
    BudgetError,
    FedprefError,
    FormatError,
    InputError,
    StorageError,
)

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
    for name in (SOCKET_VARIABLE, SOCKET_DIR_VARIABLE, TIMEOUT_VARIABLE):
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


def test_an_engines_error_comes_back_as_itself(tmp_path: Path) -> None:
    channel = SocketChannel(tmp_path / "s", timeout_s=60)
    engine = Failing(BudgetError("spent", remedy="wait"))
    with serve_channel(engine, tmp_path / "s"), pytest.raises(BudgetError, match="spent"):
        channel.call("train", {}, {})


def test_an_engines_crash_tells_the_relay_nothing_of_its_data(tmp_path: Path) -> None:
    channel = SocketChannel(tmp_path / "s", timeout_s=60)
    engine = Failing(ZeroDivisionError("row of Jane Doe"))
    with serve_channel(engine, tmp_path / "s"), pytest.raises(FedprefError) as caught:
        channel.call("train", {}, {})
    assert "Jane" not in str(caught.value)


def test_the_socket_is_its_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve_channel(Echo(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with pytest.raises(InputError, match="does not answer"):
        SocketChannel(path, timeout_s=1).call("describe", {}, {})


def test_another_user_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        monkeypatch.setattr(engine_socket.os, "geteuid", lambda: 12345)
        with pytest.raises(FormatError, match="belongs to user"):
            SocketChannel(tmp_path / "s", timeout_s=60).call("describe", {}, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_engine_turns_another_user_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o055)
    path = tmp_path / "s"
    with serve_channel(Echo(), path):
        path.chmod(0o666)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    connection.sendall(PREFIX.pack(MAGIC, 2, 0) + b"{}")
                    answered = connection.recv(1) != b""
            except ConnectionError:
                answered = False
            os._exit(1 if answered else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def exchange(path: Path, data: bytes) -> bytes:
    """Sends raw bytes and gives what comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
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
        frame(GOOD, magic=b"fpc2"),
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
    ids=["version", "json", "list", "pickle", "garbage", "cut", "bomb", "head", "http", "nothing"],
)
def test_what_is_no_message_gets_no_answer_and_harms_nobody(tmp_path: Path, data: bytes) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        assert exchange(tmp_path / "s", data) == b""
        assert SocketChannel(tmp_path / "s", timeout_s=60).call("describe", {}, {})


@pytest.mark.parametrize(
    "request_header",
    [{}, {"method": "a"}, {"method": 1, "header": {}}, {"method": "a", "header": []}],
)
def test_a_request_of_another_form_is_refused(tmp_path: Path, request_header: Header) -> None:
    with serve_channel(Echo(), tmp_path / "s"):
        answer = exchange(tmp_path / "s", frame(canonical_json.encode(request_header)))
    assert b'"error":"FormatError"' in answer


def test_a_claim_of_much_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    with serve_channel(Echo(), tmp_path / "s"):
        tracemalloc.start()
        claim = PREFIX.pack(MAGIC, len(GOOD), engine_socket.MAX_BODY_BYTES) + GOOD + b"x" * 1000
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
    monkeypatch.setattr(engine_socket, "MAX_BODY_BYTES", 1000)
    with serve_channel(Echo(), tmp_path / "s"):
        channel = SocketChannel(tmp_path / "s", timeout_s=60)
        with pytest.raises(FormatError, match="limit"):
            channel.call("train", {}, {"x": np.zeros(1000)})


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
    [{}, {"answer": []}, {"answer": {}, "error": "x"}, {"error": "FedprefError"}],
)
def test_an_answer_of_another_form_is_refused(tmp_path: Path, answer: Header) -> None:
    with pytest.raises(FormatError):
        engine_socket._open_answer(answer)


@pytest.mark.parametrize("name", ["annotations", "EXIT_OK", "SystemExit", "nothing"])
def test_only_our_own_errors_are_raised_by_name(name: str) -> None:
    with pytest.raises(FedprefError, match="words"):
        engine_socket._open_answer({"error": name, "message": "words"})


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
