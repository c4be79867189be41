"""The client against witnesses that answer well, badly, elsewhere, slowly or not at all."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common.audit.witness.channel import LocalWitness, submit_checkpoint
from common.audit.witness.errors import (
    ConflictError,
    StaleSizeError,
    UnknownLogError,
    UnreachableWitnessError,
    UnsignedError,
    WitnessRefusalError,
)
from common.audit.witness.http_client import MAX_ANSWER_BYTES, HttpWitness
from common.audit.witness.request import AddCheckpoint
from common.audit.witness.store import WitnessStore
from common.errors import InputError
from tests.support.witness_racer import LOG, make_witness

LINE = "\u2014 witness AAAAAAAA\n"
GOOD = LINE.encode()


@contextmanager
def stub(status=200, content=GOOD, kind="text/plain", headers=(), drip_s=0.0):
    """A server that answers each request alike; gives its address and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("Content-Length", "0"))
            asked.append((self.path, self.rfile.read(length), dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            try:
                for at in range(0, len(content), 1 if drip_s else len(content)):
                    self.wfile.write(content[at : at + 1] if drip_s else content)
                    time.sleep(drip_s)
            except OSError:
                return

        do_GET = do_POST  # noqa: N815 - likewise

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url, timeout_s=60.0):
    return HttpWitness(url, timeout_s=timeout_s).add_checkpoint(LOG.note(8), 3, LOG.proof(3, 8))


@pytest.mark.parametrize("prefix", ["", "/", "/w1", "/w1/"])
def test_the_request_is_that_of_the_protocol(prefix):
    with stub(content=(LINE + LINE).encode()) as (url, asked):
        assert ask(url + prefix) == [LINE, LINE]
    ((path, body, headers),) = asked
    assert path == f"{prefix.rstrip('/')}/add-checkpoint"
    assert AddCheckpoint.parse(body) == AddCheckpoint(LOG.note(8), 3, tuple(LOG.proof(3, 8)))
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, WitnessRefusalError),
        (403, UnsignedError),
        (404, UnknownLogError),
        (409, ConflictError),
        (422, ConflictError),
        (500, UnreachableWitnessError),
        (503, UnreachableWitnessError),
        (418, UnreachableWitnessError),
    ],
)
def test_each_status_is_its_error_with_what_the_witness_said(status, error):
    said = "no \x1b[31mgood\n" + "x" * 5000
    with stub(status, said.encode()) as (url, _), pytest.raises(error, match="good") as refusal:
        ask(url)
    assert url in refusal.value.message
    assert "\x1b" not in refusal.value.message
    assert len(refusal.value.message) < 500
    assert type(refusal.value) is error


def test_a_stale_size_is_read():
    with stub(409, b"21\n", "text/x.tlog.size") as (url, _):
        with pytest.raises(StaleSizeError) as refusal:
            ask(url)
    assert refusal.value.known_size == 21


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"21\n", "text/plain"),
        (b"21", "text/x.tlog.size"),
        (b"021\n", "text/x.tlog.size"),
        (b"-1\n", "text/x.tlog.size"),
        (b"", "text/x.tlog.size"),
        (b"2 1\n", "text/x.tlog.size"),
    ],
)
def test_a_409_without_a_size_is_no_stale_size(content, kind):
    with stub(409, content, kind) as (url, _), pytest.raises(ConflictError):
        ask(url)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\n", LINE.rstrip().encode(), LINE.encode() * 65, b"x" * MAX_ANSWER_BYTES + b"\n"],
    ids=["empty", "not UTF-8", "torn", "too many", "too long"],
)
def test_an_answer_that_is_none_is_said(content):
    with stub(content=content) as (url, _), pytest.raises(UnreachableWitnessError):
        ask(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_answer_leads_elsewhere(status):
    with stub() as (other, asked), stub(status, headers=[("Location", other)]) as (url, _):
        with pytest.raises(UnreachableWitnessError):
            ask(url)
    assert asked == []


def test_a_witness_that_is_not_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableWitnessError, match=str(port)) as refusal:
        ask(f"http://127.0.0.1:{port}")
    assert refusal.value.exit_code == 9


def test_a_silent_witness_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UnreachableWitnessError, match=r"within 0\.2 s"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)


def test_a_dripping_witness_is_not_waited_for():
    """Each byte comes in time, the answer does not."""
    with stub(content=LINE.encode() * 2, drip_s=0.05) as (url, _):
        with pytest.raises(UnreachableWitnessError, match=r"within 0\.2 s"):
            ask(url, timeout_s=0.2)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x", "witness.example", "", "http://", "http://x/?a=b"]
)
def test_only_the_address_of_a_witness_is_taken(url):
    with pytest.raises(InputError):
        HttpWitness(url)


class Counting:
    """A witness in this process that is told how often it was asked."""

    def __init__(self, witness):
        self.inner, self.sizes = LocalWitness(witness), []

    def add_checkpoint(self, note, old_size, proof):
        self.sizes.append(old_size)
        return self.inner.add_checkpoint(note, old_size, proof)


@pytest.fixture
def local(tmp_path):
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        yield Counting(make_witness(store))


def test_submitting_finds_the_size_that_the_witness_knows(local):
    assert submit_checkpoint(local, LOG.note(3), LOG.proof)
    assert submit_checkpoint(local, LOG.note(8), LOG.proof)
    assert submit_checkpoint(local, LOG.note(9), LOG.proof, old_size=8)
    assert submit_checkpoint(local, LOG.note(9), LOG.proof, old_size=9)
    assert local.sizes == [0, 0, 3, 8, 9]


def test_submitting_after_a_rollback_is_said(local):
    submit_checkpoint(local, LOG.note(9), LOG.proof)
    with pytest.raises(ConflictError, match="9 entries") as refusal:
        submit_checkpoint(local, LOG.note(5), LOG.proof)
    assert "rolled back" in refusal.value.remedy


def test_submitting_another_branch_is_refused(local):
    submit_checkpoint(local, LOG.note(8), LOG.proof)
    with pytest.raises(ConflictError):
        submit_checkpoint(
            local, LOG.note(12, "forked"), lambda old, size: LOG.proof(old, size, "forked")
        )


def test_a_witness_that_never_agrees_is_left():
    class Fickle:
        known = 0

        def add_checkpoint(self, *_):
            self.known += 1
            raise StaleSizeError("other", known_size=self.known)

    with pytest.raises(StaleSizeError):
        submit_checkpoint(Fickle(), LOG.note(39), LOG.proof)
