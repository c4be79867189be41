"""A connected socket in the place of a path: what goes through it, and that it serves one call."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from common import engine_descriptor
from common.canonical_json import JsonValue
from common.engine_channel import (
    DESCRIPTOR_VARIABLE,
    ENGINE_USER_VARIABLE,
    SOCKET_DIR_VARIABLE,
    SOCKET_VARIABLE,
    TIMEOUT_VARIABLE,
    resolve_channel,
    serve_channel,
    serve_descriptor,
)
from common.engine_descriptor import DescriptorChannel
from common.engine_frames import MAGIC, PROTOCOL, receive_frame
from common.errors import BudgetError, FedprefError, FormatError, InputError
from common.reason_codes import EngineFailedError, OtherProtocolError

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


class Echo:
    """Answers with what it was asked, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        self.asked += 1
        return {"method": method, "asked": header}, {k: v * 2 for k, v in arrays.items()}


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        raise self.error


@pytest.fixture(autouse=True)
def _no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SOCKET_VARIABLE, SOCKET_DIR_VARIABLE, TIMEOUT_VARIABLE, ENGINE_USER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def channel(end: socket.socket, *, timeout_s: float = 60) -> DescriptorChannel:
    return DescriptorChannel(end.fileno(), timeout_s=timeout_s)


def test_header_and_arrays_come_through_unchanged() -> None:
    arrays = {"f": np.linspace(0, 1, 200_000, dtype="<f8").reshape(400, 500)}
    with serve_descriptor(Echo()) as end:
        answer, received = channel(end).call("train", {"text": "ü\n"}, arrays)
    assert answer == {"method": "train", "asked": {"text": "ü\n"}}
    np.testing.assert_array_equal(received["f"], arrays["f"] * 2)


def test_it_is_found_by_the_environment_before_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_path, by_descriptor = Echo(), Echo()
    with serve_channel(by_path, tmp_path / "s"), serve_descriptor(by_descriptor) as end:
        monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "s"))
        monkeypatch.setenv(DESCRIPTOR_VARIABLE, str(end.fileno()))
        assert resolve_channel({}).call("a", {}, {})[0]["method"] == "a"
    assert (by_path.asked, by_descriptor.asked) == (0, 1)


@pytest.mark.parametrize("number", ["", "-1", "0", "2", "soon", "3.0", "٣٤", "99999999"])
def test_a_number_that_is_none_is_refused(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DESCRIPTOR_VARIABLE, number)
    with pytest.raises(InputError, match=DESCRIPTOR_VARIABLE):
        resolve_channel({})


def test_it_serves_one_call() -> None:
    engine = Echo()
    with serve_descriptor(engine) as end:
        channel(end).call("train", {}, {})
        for again in (channel(end), channel(end)):
            with pytest.raises(FormatError, match="has served its one call"):
                again.call("train", {}, {})
        # Whoever writes past the client's own checks is not read either.
        with pytest.raises(BrokenPipeError):
            end.sendall(MAGIC)
    assert engine.asked == 1


def test_a_call_that_was_refused_was_the_one(tmp_path: Path) -> None:
    with serve_descriptor(Failing(BudgetError("spent"))) as end:
        with pytest.raises(BudgetError):
            channel(end).call("train", {}, {})
        with pytest.raises(FormatError, match="has served its one call"):
            channel(end).call("train", {}, {})


def test_of_two_frames_at_once_the_second_is_not_read() -> None:
    engine = Echo()
    frame = _frame(b'{"header":{},"method":"train"}')
    with serve_descriptor(engine) as end:
        end.sendall(frame + frame)
        assert receive_frame(end, _later())[0]["answer"] == {"method": "train", "asked": {}}
        # With a question of its own unread, its end may be a reset.
        with suppress(ConnectionResetError):
            assert end.recv(1) == b""
    assert engine.asked == 1


def test_of_many_callers_at_once_one_is_answered() -> None:
    engine, outcomes = Echo(), list[str]()

    def ask(end: socket.socket) -> None:
        try:
            channel(end).call("train", {}, {})
            outcomes.append("answered")
        except FormatError:
            outcomes.append("refused")

    with serve_descriptor(engine) as end:
        threads = [threading.Thread(target=ask, args=(end,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["answered", *["refused"] * 4]
    assert engine.asked == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [(BudgetError("customer 7"), BudgetError), (ValueError("customer 7"), EngineFailedError)],
)
def test_of_an_error_a_code_crosses_and_no_word(error: Exception, kind: type[FedprefError]) -> None:
    with serve_descriptor(Failing(error)) as end, pytest.raises(kind) as caught:
        channel(end).call("train", {}, {})
    assert "customer" not in str(caught.value)


def test_another_users_end_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo()
    with serve_descriptor(engine) as end:
        other = DescriptorChannel(end.fileno(), timeout_s=60, engine_user=os.geteuid() + 1)
        with pytest.raises(FormatError, match="belongs to user"):
            other.call("train", {}, {})
    assert engine.asked == 0


def _file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def _datagrams(path: Path) -> int:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.detach()


def _tcp(path: Path) -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()


@pytest.mark.parametrize("make", [_file, _datagrams, _tcp])
def test_what_is_no_such_socket_is_refused(make: Callable[[Path], int], tmp_path: Path) -> None:
    number = make(tmp_path / "file")
    try:
        with pytest.raises(InputError):
            DescriptorChannel(number, timeout_s=60).call("train", {}, {})
    finally:
        os.close(number)
    # And one that is not open at all.
    with pytest.raises(InputError):
        DescriptorChannel(number, timeout_s=60).call("train", {}, {})


def test_a_call_leaves_the_descriptor_open_and_no_other() -> None:
    with serve_descriptor(Echo()) as end:
        before = _open_descriptors()
        channel(end).call("train", {}, {})
        assert _open_descriptors() == before
        assert os.fstat(end.fileno())


def test_an_engine_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_descriptor, "CLOSING_WAIT_S", 0.1)
    done = threading.Event()

    class Hanging:
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            done.wait()
            return {}, {}

    with serve_descriptor(Hanging()) as end:
        with pytest.raises(InputError, match="does not answer"):
            channel(end, timeout_s=0.2).call("train", {}, {})
    done.set()


def test_an_end_does_not_wait_for_who_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_descriptor, "CLOSING_WAIT_S", 1e6)
    with serve_descriptor(Echo()):
        pass
    with serve_descriptor(Echo()) as end:
        end.sendall(MAGIC)


def test_bytes_that_are_no_request_are_not_answered() -> None:
    engine = Echo()
    with serve_descriptor(engine) as end:
        end.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert end.recv(1) == b""
    assert engine.asked == 0


def test_another_version_is_told_so() -> None:
    with serve_descriptor(Echo()) as end:
        end.sendall(PROTOCOL + b"9" + bytes(12))
        header, _ = receive_frame(end, _later())
    assert header == {"refused": "other-protocol"}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=_answer_in_another_version, args=(ours,))
        thread.start()
        with pytest.raises(OtherProtocolError):
            channel(theirs).call("train", {}, {})
        thread.join()


def _answer_in_another_version(connection: socket.socket) -> None:
    receive_frame(connection, _later())
    connection.sendall(PROTOCOL + b"9" + bytes(12))


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _frame(head: bytes) -> bytes:
    return MAGIC + len(head).to_bytes(4) + bytes(8) + head


def _later() -> float:
    return time.monotonic() + 60
