"""What a bundle prints stands in the log as the bundle's, whatever it looks like, not for ever."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.node import bundle_output
from client.node.bundle_output import MARK, BundleOutput


def copied(*pieces: bytes) -> list[str]:
    sink = io.StringIO()
    reading, writing = os.pipe()
    output = BundleOutput(reading, sink)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        for piece in pieces:
            pipe.write(piece)
    output.join(10)
    return sink.getvalue().splitlines()


def test_a_line_that_looks_like_the_relays_own_is_marked() -> None:
    forged = b'{"process": "relay", "event": "message-answered"}\n'
    assert copied(forged, b"half", b" and half\nrest") == [
        f"{MARK}{forged.decode().strip()}",
        f"{MARK}half and half",
        f"{MARK}rest",
    ]


def test_nothing_in_it_steers_a_terminal() -> None:
    (line,) = copied("\x1b[2J\rgone \x9b31m\u2028next\x00\ttab\xff".encode())
    assert line.isprintable() or "\t" in line
    assert not set("\x1b\r\x9b\u2028\x00") & set(line)
    assert "\ttab" in line


def test_so_much_is_kept_and_the_next_message_has_its_own_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle_output, "MAX_BYTES", 100)
    sink = io.StringIO()
    reading, writing = os.pipe()
    output = BundleOutput(reading, sink)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        for _ in range(100):
            pipe.write(b"x" * 1000 + b"\n")
    output.join(10)
    kept = sink.getvalue()
    assert kept.count("x") <= 100
    assert kept.count("and more, which was not kept") == 1
    output.begin_message()
    assert output._left == 100


def test_a_line_without_end_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_output, "MAX_LINE_CHARACTERS", 10)
    lines = copied(b"y" * 35)
    assert all(len(line) <= len(MARK) + 10 for line in lines)
    assert "".join(line.removeprefix(MARK) for line in lines) == "y" * 35


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_every_line_is_marked(pieces: list[bytes]) -> None:
    assert all(line.startswith(MARK) for line in copied(*pieces))
