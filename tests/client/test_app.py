"""The relay: what it carries, and that nothing but a reason code leaves when something breaks."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

import client.app
from client.app import app
from common.canonical_json import JsonValue
from common.engine_channel import SOCKET_DIR_VARIABLE, SOCKET_VARIABLE, register_channel
from common.errors import (
    BudgetError,
    ConsentError,
    FederationError,
    FedprefError,
    FormatError,
    InputError,
    PolicyError,
    QualityGateError,
    StorageError,
    UsageError,
    VerificationError,
)
from common.messages import decode_message
from common.reason_codes import EngineBusyError, EngineFailedError, OtherProtocolError
from tests.support.flower_messages import node_context, request

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
SECRET = "household 1823 bought item 77"


class Engine:
    def __init__(self, answer: tuple[Header, Arrays] | BaseException) -> None:
        self.answer = answer
        self.calls: list[tuple[str, Header, Arrays]] = []

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        self.calls.append((method, header, dict(arrays)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    monkeypatch.delenv(SOCKET_DIR_VARIABLE, raising=False)


def relayed(engine: Engine, message: Message) -> tuple[Header, Arrays]:
    with register_channel(0, engine):
        reply = app(message, node_context())
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    return decode_message(reply.content)


def test_a_request_and_its_answer_are_carried_unchanged() -> None:
    engine = Engine(({"status": "ok"}, {"popularity": np.arange(3, dtype="<f4")}))
    model = {"item_weights": np.ones(2, "<f4")}
    header, arrays = relayed(engine, request({"run": "r", "round": 2}, model))
    assert header == {"status": "ok"}
    np.testing.assert_array_equal(arrays["popularity"], [0, 1, 2])
    ((method, asked, sent),) = engine.calls
    assert (method, asked) == ("train", {"run": "r", "round": 2})
    np.testing.assert_array_equal(sent["item_weights"], model["item_weights"])


def test_a_node_is_asked_who_it_is_by_a_query() -> None:
    engine = Engine(({"region": "region-1"}, {}))
    header, _ = relayed(engine, request({}, message_type="query.describe"))
    assert header == {"region": "region-1"}
    assert engine.calls == [("describe", {}, {})]


@pytest.mark.parametrize("action", ["publish", "cosign", "keep"])
def test_checkpoints_and_cosignatures_are_carried_by_queries(action: str) -> None:
    engine = Engine(({"status": "ok", "answer": action}, {}))
    header, arrays = relayed(engine, request({"run": "r"}, message_type=f"query.{action}"))
    assert (header, arrays) == ({"status": "ok", "answer": action}, {})
    assert engine.calls == [(action, {"run": "r"}, {})]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BudgetError(SECRET), "budget-exhausted"),
        (ConsentError(SECRET), "no-consent"),
        (QualityGateError(SECRET), "data-quality"),
        (PolicyError(SECRET), "not-permitted"),
        (VerificationError(SECRET), "own-records-do-not-verify"),
        (StorageError(SECRET), "storage-failure"),
        (FormatError(SECRET), "malformed-request"),
        (InputError(SECRET), "engine-unreachable"),
        (FederationError(SECRET), "refused"),
        (UsageError(SECRET), "refused"),
        (FedprefError(SECRET), "refused"),
        (EngineBusyError(SECRET), "engine-busy"),
        (EngineFailedError(SECRET), "engine-failure"),
        (OtherProtocolError(SECRET), "other-protocol"),
        (ValueError(SECRET), "relay-failure"),
        (ZeroDivisionError(SECRET), "relay-failure"),
        (RecursionError(SECRET), "relay-failure"),
        (MemoryError(SECRET), "relay-failure"),
    ],
)
def test_whatever_the_engine_raises_only_a_code_leaves(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(error)
    with register_channel(0, engine):
        reply = app(request({}), node_context())
    assert reply.has_content()
    assert decode_message(reply.content) == ({"status": "refused", "reason": reason}, {})
    assert SECRET not in repr(reply.content)
    # Flower may send what a ClientApp prints to the coordinator.
    assert type(error).__name__ in caplog.text
    assert SECRET not in caplog.text


def test_an_answer_that_cannot_be_sent_is_refused() -> None:
    for answer in (
        ({"status": "ok"}, {"x": np.zeros(2, complex)}),
        ({"status": object()}, {}),
        ({"status": 1.5}, {}),
        ("nothing",),
    ):
        header, arrays = relayed(Engine(answer), request({}))  # type: ignore[arg-type]
        assert header["status"] == "refused"
        assert arrays == {}


def test_a_request_that_is_none_never_reaches_the_engine() -> None:
    engine = Engine(({}, {}))
    message = request({})
    message.content["arrays"] = ArrayRecord({"x": Array(np.zeros(2, complex))})
    header, _ = relayed(engine, message)
    assert header == {"status": "refused", "reason": "malformed-request"}
    assert engine.calls == []


def test_without_an_engine_the_region_refuses() -> None:
    reply = app(request({}), node_context())
    header, _ = decode_message(reply.content)
    assert header == {"status": "refused", "reason": "engine-unreachable"}


def test_the_relay_imports_neither_engine_nor_mathematics() -> None:
    tree = ast.parse(Path(client.app.__file__).read_text(encoding="utf-8"))
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {
        "__future__",
        "logging",
        "flwr.app",
        "flwr.clientapp",
        "common.engine_channel",
        "common.errors",
        "common.messages",
        "common.reason_codes",
    }


def test_the_relay_stays_small() -> None:
    """What anyone must read who wants to know what the coordinator ships near their engine."""
    source = Path(client.app.__file__).read_text(encoding="utf-8")
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    assert len(statements) <= 60
