"""The desk over a Unix socket answers as the desk itself; its faults cross as what they are."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from client.consent_service.desk import Actor, Decision, DecisionRefusedError
from client.consent_service.desk_socket import DeskChannel, SocketDesk, serve_desk
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.errors import FedprefError, FormatError, InputError, StorageError
from tests.support.consent_service import Service

BOTH = frozenset({FEDERATED_TRAINING, RECOMMENDATIONS})


@pytest.fixture
def remote(service: Service, tmp_path: Path) -> Iterator[SocketDesk]:
    path = tmp_path / "desk.sock"
    with serve_desk(service.desk, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        yield SocketDesk(path)
    assert not path.exists()


def person(name: str) -> Actor:
    return Actor(name, minor=False, guardian=False, token=f"token of {name}")


def test_every_answer_is_that_of_the_desk(service: Service, remote: SocketDesk) -> None:
    who, here = person("over-the-socket"), service.desk
    notice = remote.notice("zh")
    assert notice == here.notice("zh")
    assert remote.position(who.customer_ref, "zh") == here.position(who.customer_ref, "zh")
    logged = remote.choose(who, Decision(BOTH, notice.sha256, None))
    assert (logged,) == here.history(who.customer_ref) == remote.history(who.customer_ref)
    gone = remote.withdraw(who)
    service.log_round("run-s", 1, service.opened.log.size)
    assert remote.history(who.customer_ref) == here.history(who.customer_ref)
    assert remote.position(who.customer_ref, "en") == here.position(who.customer_ref, "en")
    receipt = remote.receipt(who.customer_ref, gone.record_id, "en")
    assert receipt == here.receipt(who.customer_ref, gone.record_id, "en") | {
        "issued_at": receipt["issued_at"]
    }
    assert receipt["first_excluded"] is not None


def test_a_refusal_crosses_with_its_code(remote: SocketDesk) -> None:
    who = person("refused-over-the-socket")
    with pytest.raises(DecisionRefusedError) as refusal:
        remote.withdraw(who)
    assert refusal.value.code == "nothing-to-withdraw"
    with pytest.raises(DecisionRefusedError) as refusal:
        remote.choose(who, Decision(BOTH, "0" * 64, None))
    assert refusal.value.code == "notice-changed"


def test_without_an_engine_the_desk_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not answer"):
        SocketDesk(tmp_path / "nothing.sock").notice("en")


class _Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def notice(self, lang: str) -> None:
        raise self.error


@pytest.mark.parametrize("error", [StorageError("The disk is full."), ValueError("a defect")])
def test_a_failure_crosses_as_an_error_of_ours(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "desk.sock"
    expected = type(error) if isinstance(error, FedprefError) else FedprefError
    with serve_desk(_Failing(error), path):  # type: ignore[arg-type]
        with pytest.raises(expected) as told:
            SocketDesk(path).notice("en")
    assert ("a defect" in str(told.value)) is False


def test_many_customers_at_once_are_all_served(service: Service, remote: SocketDesk) -> None:
    started = threading.Barrier(24)

    def ask(number: int) -> str:
        started.wait()
        notice = remote.notice("en").sha256
        return remote.choose(person(f"crowd-{number}"), Decision(BOTH, notice, None)).state

    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(ask, range(24))) == {"dpv:ConsentGiven"}
    records = {service.desk.history(f"crowd-{number}")[0].record_id for number in range(24)}
    assert len(records) == 24


@pytest.mark.parametrize(
    ("method", "header"),
    [
        ("train", {}),
        ("notice", {}),
        ("notice", {"lang": 7}),
        ("position", {"customer_ref": "a"}),
        ("choose", {"actor": {"customer_ref": "a"}, "decision": {}}),
        ("choose", {"actor": None, "decision": None}),
        ("withdraw", {"actor": {"customer_ref": ["a"], "minor": 0, "guardian": 0, "token": ""}}),
        ("receipt", {"customer_ref": "a", "record_id": None, "lang": "en"}),
    ],
)
def test_malformed_questions_are_refused(
    service: Service, method: str, header: dict[str, JsonValue]
) -> None:
    with pytest.raises(FormatError) as refusal:
        DeskChannel(service.desk).call(method, header, {})
    assert "customer_ref" not in refusal.value.message or method == "position"
    with pytest.raises(FormatError):
        DeskChannel(service.desk).call("notice", {"lang": "en"}, {"array": np.zeros(1)})
