"""The witness's HTTP service, held to C2SP tlog-witness; nothing a client sends gives a 5xx."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.audit.checkpoint import open_checkpoint, sign_note
from common.audit.witness import http_server
from common.audit.witness.http_server import create_app
from common.audit.witness.request import MAX_REQUEST_BYTES, AddCheckpoint
from common.audit.witness.store import WitnessStore
from common.errors import StorageError
from tests.support.branching_log import BranchingLog
from tests.support.malformed_requests import MALFORMED
from tests.support.memory_signer import MemorySigner
from tests.support.witness_racer import LOG, make_witness

OTHER = BranchingLog("small.example/region-9")


class Client:
    """Asks the application itself; what it does not catch is raised here."""

    def __init__(self, app):
        self._app = app

    def request(self, method, path, **options):
        async def exchange():
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://w") as client:
                return await client.request(method, path, **options)

        return asyncio.run(exchange())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, **options):
        return self.request("POST", path, **options)


@pytest.fixture
def store(tmp_path):
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        yield store


@pytest.fixture
def witness(store):
    return make_witness(store)


@pytest.fixture
def client(witness):
    return Client(create_app(witness))


def body(size, old=0, branch="true", proof=None, log=LOG, note=None):
    proof = log.proof(old, size, branch) if proof is None else proof
    return AddCheckpoint(note or log.note(size, branch), old, tuple(proof)).encode()


def post(client, *arguments, **options):
    return client.post("/add-checkpoint", content=body(*arguments, **options))


def check_headers(response):
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["referrer-policy"] == "no-referrer"


def test_a_cosignature_is_answered_as_signature_lines(client, witness):
    for old, size in ((0, 3), (3, 8), (8, 8)):
        response = post(client, size, old)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        check_headers(response)
        note = LOG.note(size) + response.content
        assert open_checkpoint(note, LOG.key, [witness.key]).cosigned_at_s


def test_another_old_size_is_409_and_its_body_the_known_size(client):
    post(client, 8)
    response = post(client, 9, 3)
    assert response.status_code == 409
    assert response.headers["content-type"] == "text/x.tlog.size"
    assert response.text == "8\n"
    check_headers(response)


def test_a_log_never_seen_has_the_size_zero(client):
    response = post(client, 9, 3)
    assert (response.status_code, response.text) == (409, "0\n")


@pytest.mark.parametrize(
    ("status", "request_body"),
    [
        (404, body(3, log=OTHER)),
        (403, body(3, note=LOG.note(3, signer=MemorySigner("someone")))),
        (400, body(3, 4, proof=[])),
        (400, body(3, note=b"no note")),
        (400, body(3, note=sign_note(f"{LOG.origin}\nx\n", LOG.origin, LOG.signer).encode())),
        (422, body(3, proof=[bytes(32)])),
    ],
)
def test_refusals_have_the_status_of_the_protocol(client, status, request_body):
    response = client.post("/add-checkpoint", content=request_body)
    assert response.status_code == status
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text.endswith("\n")
    check_headers(response)


@pytest.mark.parametrize(
    "request_body",
    [body(8, 8, "forked"), body(12, 8, "forked"), body(12, 8, proof=[])],
    ids=["other root", "other branch", "no proof"],
)
def test_a_split_view_is_422_and_kept(client, witness, request_body):
    post(client, 8)
    assert client.post("/add-checkpoint", content=request_body).status_code == 422
    assert len(witness.evidence()) == 1
    assert witness.heads()[LOG.origin].root == LOG.root(8)


@pytest.mark.parametrize("request_body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_bodies_are_400(client, request_body):
    assert client.post("/add-checkpoint", content=request_body).status_code == 400


def test_the_content_type_does_not_matter(client):
    for kind in ("application/json", "text/plain", "", "x" * 100):
        response = client.post("/add-checkpoint", content=b"{}", headers={"Content-Type": kind})
        assert response.status_code == 400


VALID = body(8, 3)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    request_body=st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda at, new, drop: VALID[:at] + new + VALID[at + drop :],
            st.integers(0, len(VALID)),
            st.binary(max_size=8),
            st.integers(0, 60),
        ),
    )
)
def test_no_body_gives_a_5xx(client, request_body):
    response = client.post("/add-checkpoint", content=request_body)
    assert response.status_code in {200, 400, 403, 404, 409, 422}


def exchange(app, chunks, headers=()):
    """One request straight to the application; says how many chunks it took."""
    taken, sent = 0, []

    async def receive():
        nonlocal taken
        if taken == len(chunks):
            return {"type": "http.disconnect"}
        taken += 1
        if isinstance(chunks[taken - 1], float):
            await asyncio.sleep(chunks[taken - 1])
            return {"type": "http.disconnect"}
        more = taken < len(chunks)
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": more}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/add-checkpoint",
        "raw_path": b"/add-checkpoint",
        "query_string": b"",
        "headers": list(headers),
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], taken


def test_a_body_that_is_too_long_is_not_read_to_its_end(witness):
    app = create_app(witness)
    chunks = [b"x" * 8192] * 100
    assert exchange(app, chunks) == (413, MAX_REQUEST_BYTES // 8192 + 1)
    length = str(8192 * 100).encode()
    assert exchange(app, chunks, [(b"content-length", length)]) == (413, 0)
    assert exchange(app, [b"x"], [(b"content-length", b"1" * 5000)]) == (413, 0)


def test_the_longest_request_of_the_protocol_fits():
    note = LOG.note(8) + ("\u2014 " + "n" * 100 + " " + "A" * 104 + "\n").encode() * 63
    assert len(body(8, 3, proof=[bytes(32)] * 63, note=note)) < MAX_REQUEST_BYTES


def test_a_client_that_stops_sending_is_not_waited_for(witness, monkeypatch):
    monkeypatch.setattr(http_server, "BODY_TIMEOUT_S", 0.05)
    assert exchange(create_app(witness), [b"old", 5.0])[0] == 408


def test_a_client_that_goes_away_is_no_fault_of_the_witness(witness):
    async def gone(scope, receive, send):
        await create_app(witness)(scope, receive, send)

    assert exchange(gone, [b"old", 0.0])[0] == 400


def test_the_status_page_names_key_and_sizes(client, witness):
    assert "No log" in client.get("/").text
    post(client, 8)
    response = client.get("/")
    assert response.status_code == 200
    assert witness.key.verifier_key in response.text
    assert f"{LOG.origin}: size 8" in response.text
    assert response.headers["content-type"].startswith("text/plain")
    check_headers(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/add-checkpoint", 405),
        ("PUT", "/add-checkpoint", 405),
        ("OPTIONS", "/add-checkpoint", 405),
        ("POST", "/", 405),
        ("POST", "/add-checkpoint/", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/evidence", 404),
        ("GET", "/../witness.sqlite", 404),
    ],
)
def test_there_is_nothing_else(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/plain")
    check_headers(response)


@pytest.mark.parametrize(("method", "path"), [("POST", "/add-checkpoint"), ("GET", "/")])
def test_a_store_that_fails_is_503_without_its_path_and_without_a_cosignature(
    client, witness, monkeypatch, method, path
):
    def broken(*_):
        raise StorageError("The disk of /secret/place is full.")

    monkeypatch.setattr(witness, "cosign", broken)
    monkeypatch.setattr(witness, "heads", broken)
    response = client.request(method, path, content=body(8))
    assert response.status_code == 503
    assert "secret" not in response.text
    assert "\u2014" not in response.text
