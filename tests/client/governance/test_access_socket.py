"""The desk over its socket: the same answers and words, and expiries noted while it serves."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.engine.home import RegionHome
from client.governance import desk_opening
from client.governance.access_desk import AccessDesk
from client.governance.access_socket import AccessChannel, AccessClient, serve_access
from client.governance.grants import AccessRefusedError
from common.engine_socket import PEER_REFUSED
from common.errors import FormatError, InputError, StorageError
from common.peers import Peers
from tests.support.access_home import (
    ANALYST_APPROVES,
    GRANT_S,
    ROWS,
    TABLE,
    OpenDesk,
    make_access_home,
    open_access,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    return make_access_home(tmp_path_factory.mktemp("access") / "home")


@pytest.fixture
def opened(made: RegionHome) -> Iterator[OpenDesk]:
    with open_access(made) as desk:
        yield desk


@pytest.fixture
def client(opened: OpenDesk, tmp_path: Path) -> Iterator[AccessClient]:
    path = tmp_path / "desk.sock"
    with serve_access(opened.desk, path, admitted=Peers.own()):
        yield AccessClient(path)


def test_a_grant_over_the_socket(opened: OpenDesk, client: AccessClient) -> None:
    request = opened.request()
    request_id = client.file(request)
    listed = client.find(request_id)
    assert listed.request == request
    assert listed.fields["state"] == "requested"
    approval = opened.approval(request)
    assert client.file(approval) == request_id
    assert client.use(opened.use(approval)).equals(ROWS.select(["email"]))
    fields = client.find(request_id).fields
    assert (fields["state"], fields["uses"]) == ("granted", 1)
    assert (fields["requester"], fields["approver"]) == ("analyst-1", "officer-1")
    client.file(opened.revocation(request))
    assert client.find(request_id).fields["state"] == "revoked"
    assert client.read(TABLE, ["tier"]).equals(ROWS.select(["tier"]))


def test_refusals_come_in_the_desks_words(opened: OpenDesk, client: AccessClient) -> None:
    with pytest.raises(AccessRefusedError, match="email of members is of high grade") as refusal:
        client.read(TABLE, ["email"])
    assert "access request" in refusal.value.remedy
    with pytest.raises(InputError, match="no column 'age'"):
        client.read(TABLE, ["age"])
    with pytest.raises(FormatError):
        client.use(b"nothing of the kind")
    request = opened.request()
    client.file(request)
    with pytest.raises(AccessRefusedError, match="another person has to approve it"):
        client.file(opened.approval(request, signer=ANALYST_APPROVES))
    with pytest.raises(InputError, match="has no request x"):
        client.find("x")


def test_a_defect_or_a_full_disk_is_told_without_words(
    opened: OpenDesk, client: AccessClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("what is kept: secret")

    monkeypatch.setattr(opened.desk, "read", full)
    with pytest.raises(StorageError) as error:
        client.read(TABLE, ["tier"])
    assert "secret" not in str(error.value)


def test_what_is_no_question_gets_no_answer(opened: OpenDesk) -> None:
    channel = AccessChannel(opened.desk)
    with pytest.raises(FormatError, match="no such method"):
        channel.call("columns", {}, {})
    with pytest.raises(FormatError, match="no such method"):
        channel.call("grants", {}, {"x": np.zeros(1, "<f4")})
    for header in ({}, {"table": TABLE}, {"table": 1, "columns": ["tier"]}):
        answer, _ = channel.call("read", header, {})
        assert answer["refused"] == "format"
    for record in ("=", "\u20ac", "", None, 1):
        answer, _ = channel.call("use", {"record": record}, {})
        assert answer["refused"] == "format"


def test_nobody_answers_where_no_desk_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gave no answer"):
        AccessClient(tmp_path / "none.sock").grants()


def test_whoever_is_not_admitted_is_turned_away_and_noted(opened: OpenDesk, tmp_path: Path) -> None:
    path, noted = tmp_path / "desk.sock", threading.Event()
    seen: list[tuple[str, int]] = []

    def note(reason: str, user: int) -> None:
        opened.desk.note_stranger(reason, user)
        seen.append((reason, user))
        noted.set()

    admitted = Peers(frozenset({os.geteuid() + 1}))
    with serve_access(opened.desk, path, admitted=admitted, on_refused=note):
        with pytest.raises(InputError, match="gave no answer"):
            AccessClient(path).grants()
        assert noted.wait(10)
    assert seen == [(PEER_REFUSED, os.geteuid())]
    assert opened.incidents()[-1]["reason"] == PEER_REFUSED


def test_what_runs_out_while_it_serves_is_noted_without_anyone_asking(
    opened: OpenDesk, tmp_path: Path
) -> None:
    opened.granted()
    before, noted = len(opened.kinds()), threading.Event()
    note_expiries = opened.desk.note_expiries

    def watched() -> list[str]:
        found = note_expiries()
        if found:
            noted.set()
        return found

    opened.desk.note_expiries = watched  # type: ignore[method-assign] # to hear of it
    with serve_access(
        opened.desk, tmp_path / "desk.sock", admitted=Peers.own(), expiry_every_s=0.01
    ):
        opened.later(GRANT_S)
        assert noted.wait(10)
    assert opened.kinds()[before:] == ["access-expiry"]


def test_an_engine_without_an_access_socket_notes_the_ends_of_what_was_granted(
    made: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_access(made) as opened:
        opened.granted()
        before = len(opened.kinds())
        late = partial(AccessDesk, clock_ms=lambda: opened.now + GRANT_S * 1000)
        monkeypatch.setattr(desk_opening, "AccessDesk", late)
        with desk_opening.noting_ends(made, opened.log, opened.state):
            assert opened.kinds()[before:] == ["access-expiry"]
