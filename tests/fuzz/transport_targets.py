"""Targets: arrays, Flower messages, the sockets, and the customers' login."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.common import Array, ArrayRecord, ConfigRecord, RecordDict

from client.consent_service.config import LoginSettings
from client.consent_service.desk import (
    Actor,
    Decision,
    DecisionRefusedError,
    LoggedChoice,
    Position,
    ShownNotice,
    Standing,
)
from client.consent_service.desk_socket import DeskChannel
from client.consent_service.identity import LoginTokens
from client.consent_service.login_keys import LoginKeys, parse_jwks
from common import canonical_json
from common.audit.verify.arrays_file import file_arrays_digest
from common.canonical_json import JsonValue
from common.egress_form import check_form
from common.egress_reasons import REASONS
from common.engine_frames import MAGIC
from common.engine_socket import SocketChannel, serve_channel
from common.errors import FormatError, InputError
from common.messages import decode_message, encode_message, parse_message
from common.model_state import ModelState
from common.parameters import arrays_digest, load_arrays, save_arrays
from tests.fuzz.record_targets import record_from, scratch
from tests.fuzz.target import Target, same
from tests.support.answers import ANSWERS

_ARRAYS = {
    "item_factors": np.eye(3, 2, dtype="<f4"),
    "item_weights": np.ones(3, dtype="<f4"),
    "popularity": np.arange(5, dtype="<f4"),
    "vocabulary": np.arange(3, dtype="<i8"),
}


def _load_arrays(data: bytes) -> None:
    """The reading with NumPy and the verifier's without it agree on what they both accept."""
    path = scratch() / "model.safetensors"
    path.write_bytes(data)
    try:
        digest = file_arrays_digest(path)
    except InputError:
        digest = None
    arrays = load_arrays(data, 1 << 20)
    same(save_arrays(arrays), data)
    same(digest, arrays_digest(arrays))
    ModelState.from_arrays(arrays)


def _message(data: bytes) -> None:
    """A message's parts: a line of JSON for what its head claims, then the array's body."""
    line, _, body = data.partition(b"\n")
    head = record_from(line)
    header, name, shape = head.get("header"), head.get("name"), head.get("shape")
    texts = [head.get(key) for key in ("dtype", "stype")]
    if not isinstance(header, str) or not isinstance(name, str) or not isinstance(shape, list):
        raise FormatError("The harness has no such message.")
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in shape):
        raise FormatError("The harness has no such array.")
    array = Array(dtype=str(texts[0]), shape=tuple(shape), stype=str(texts[1]), data=body)
    config = ConfigRecord({"json": header.encode("utf-8")})
    content = RecordDict({"header": config, "arrays": ArrayRecord({name: array})})
    parse_message(content, max_array_bytes=1 << 20)
    again = encode_message(*decode_message(content, max_array_bytes=1 << 20))
    same(again["arrays"][name].data, body)
    same(again["header"]["json"], header.encode("utf-8"))


def _messages() -> Iterator[bytes]:
    for name, values in _ARRAYS.items():
        content = encode_message({"run": "run-1", "round": 1}, {name: values})
        array = content["arrays"][name]
        head = {
            "header": content["header"]["json"].decode(),
            "name": name,
            "dtype": array.dtype,
            "shape": list(array.shape),
            "stype": array.stype,
        }
        yield canonical_json.encode(head) + b"\n" + array.data


class _Echo:
    """An engine that answers what it was asked."""

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        return {"method": method, "header": header}, dict(arrays)


class _Engine:
    """The engine's socket, and the first exception that ended one of its threads."""

    def __init__(self) -> None:
        self.path = scratch() / "engine.sock"
        self.fault: BaseException | None = None
        threading.excepthook = self._note
        # It warns of each connection that ends early, which here are most.
        logging.getLogger("common.engine_socket").setLevel(logging.ERROR)
        self._serving = serve_channel(_Echo(), self.path)
        self._serving.__enter__()

    def _note(self, arguments: Any) -> None:
        self.fault = arguments.exc_value

    def ask(self, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.path))
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            except (BrokenPipeError, ConnectionResetError):
                answer = b""  # It hung up on what it did not understand.
        fault, self.fault = self.fault, None
        if fault is not None:
            raise AssertionError("a thread of the engine's socket ended") from fault
        return answer


@cache
def _engine() -> _Engine:
    return _Engine()


def _engine_request(data: bytes) -> None:
    answer = _engine().ask(data)
    if not answer:
        raise FormatError("The engine hung up.")
    same(answer[:4], MAGIC)


def _frame(header: JsonValue, arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    head = canonical_json.encode(header)
    body = save_arrays(arrays) if arrays else b""
    return MAGIC + len(head).to_bytes(4, "big") + len(body).to_bytes(8, "big") + head + body


def _engine_requests() -> list[bytes]:
    header: JsonValue = {"method": "train", "header": {"round": 1}}
    return [_frame(header), _frame(header, _ARRAYS)]


def _answer_form(data: bytes) -> None:
    """What a bundle may give its relay to send: a method, and any header at all."""
    given = record_from(data)
    method, header = given.get("method"), given.get("header")
    if not isinstance(method, str) or not isinstance(header, dict):
        raise FormatError("The harness has no such answer.")
    check_form(method, header, {})
    same(header.get("status") in (None, "ok", "refused"), True)
    same("reason" in header and header["reason"] not in REASONS, False)


def _answers_by_form() -> Iterator[bytes]:
    for method, header, _ in ANSWERS:
        yield canonical_json.encode({"method": method, "header": header})


def _engine_answer(data: bytes) -> None:
    """A relay whose engine answers anything at all."""
    path = scratch() / "answer.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(20)
        server = threading.Thread(target=_answer_once, args=(listener, data))
        server.start()
        try:
            header, arrays = SocketChannel(path, timeout_s=20).call("ask", {}, {})
        finally:
            server.join()
    same(_frame({"answer": header}, arrays), data[: len(_frame({"answer": header}, arrays))])


def _answer_once(listener: socket.socket, data: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        try:
            connection.sendall(data)
        except OSError:
            return  # The relay had heard enough.


def _engine_answers() -> list[bytes]:
    return [_frame({"answer": {"status": "ok"}}), _frame({"answer": {}}, _ARRAYS)]


class _Desk:
    """A desk that knows one customer; what it is given must be of the types it names."""

    def notice(self, lang: str) -> ShownNotice:
        same(type(lang), str)
        texts = dict.fromkeys(("recipients", "retention", "storage", "contact", "text"), "words")
        time = "2026-01-01T00:00:00.000Z"
        return ShownNotice("a" * 64, "pn-1", "en", "Shop", ("p:One",), in_force_from=time, **texts)

    def position(self, customer_ref: str, lang: str) -> Position:
        same((type(customer_ref), type(lang)), (str, str))
        return Position(None, None, None, {"p:One": Standing.IN_FORCE}, None, False)

    def choose(self, actor: Actor, decision: Decision) -> LoggedChoice:
        same((type(actor), type(decision)), (Actor, Decision))
        same({type(each) for each in decision.agreed} - {str}, set())
        return self._choice()

    def withdraw(self, actor: Actor) -> LoggedChoice:
        same((type(actor.customer_ref), type(actor.minor)), (str, bool))
        raise DecisionRefusedError("nothing-to-withdraw", "There is nothing to withdraw.")

    def history(self, customer_ref: str) -> tuple[LoggedChoice, ...]:
        same(type(customer_ref), str)
        return (self._choice(),)

    def receipt(self, customer_ref: str, record_id: str, lang: str) -> dict[str, JsonValue]:
        same({type(customer_ref), type(record_id), type(lang)}, {str})
        return {"v": "fedpref-receipt/1"}

    def _choice(self) -> LoggedChoice:
        time = "2026-01-01T00:00:00.000Z"
        words = ("pn-1", "en", "web-form", False, None, False, None)
        return LoggedChoice("R" * 26, 3, "dpv:ConsentGiven", ("p:One",), time, None, *words)


def _desk(data: bytes) -> None:
    request = record_from(data)
    method, header = request.get("method"), request.get("header")
    if not isinstance(method, str) or not isinstance(header, dict):
        raise FormatError("The socket itself refuses it.")
    answer, arrays = DeskChannel(_Desk()).call(method, header, {})
    canonical_json.encode(answer)
    same(arrays, {})


def _desk_requests() -> Iterator[bytes]:
    actor = {"customer_ref": "c-1", "minor": False, "guardian": False, "token": "t"}
    decision = {"agreed": ["p:One"], "notice_sha256": "a" * 64, "based_on": None}
    asked: dict[str, dict[str, Any]] = {
        "notice": {"lang": "en"},
        "position": {"customer_ref": "c-1", "lang": "en"},
        "choose": {"actor": actor, "decision": decision},
        "withdraw": {"actor": actor},
        "history": {"customer_ref": "c-1"},
        "receipt": {"customer_ref": "c-1", "record_id": "r", "lang": "zh"},
    }
    for method, header in asked.items():
        yield canonical_json.encode({"method": method, "header": header})


_NOW_S = 1_800_000_000
_LOGIN = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_SETTINGS = LoginSettings(
    issuer="https://login.shop.example",
    audience="https://consent.shop.example",
    algorithms=["EdDSA"],
    jwks="jwks.json",
)


def _jwks() -> bytes:
    public = jwt.algorithms.OKPAlgorithm.to_jwk(_LOGIN.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": "one", "use": "sig"}]}).encode()


@cache
def _tokens() -> LoginTokens:
    path: Path = scratch() / "jwks.json"
    path.write_bytes(_jwks())
    return LoginTokens(_SETTINGS, LoginKeys(path, _SETTINGS.algorithms), clock_s=lambda: _NOW_S)


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(header: bytes, claims: bytes) -> str:
    signed = f"{_part(header)}.{_part(claims)}"
    return f"{signed}.{_part(_LOGIN.sign(signed.encode()))}"


_HEADER = b'{"alg":"EdDSA","kid":"one","typ":"JWT"}'


def _claims() -> bytes:
    claims = {
        "iss": _SETTINGS.issuer,
        "aud": _SETTINGS.audience,
        "sub": "customer-1",
        "iat": _NOW_S,
        "nbf": _NOW_S,
        "exp": _NOW_S + 120,
        "jti": "one",
        "minor": True,
        "guardian": True,
    }
    return json.dumps(claims).encode()


def _login_token(data: bytes) -> None:
    """Any text as a token."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("HTTP refuses it.") from error
    _tokens().verify(text)


def _login_parts(data: bytes) -> None:
    """A header and claims that the login signed, whatever they say: a line each."""
    header, _, claims = data.partition(b"\n")
    identity = _tokens().verify(_token(header, claims))
    same(1 <= len(identity.customer_ref) <= 128, True)
    same(identity.minor or not identity.guardian, True)


def _login_keys(data: bytes) -> None:
    parse_jwks(data, ["EdDSA", "RS256"], "the set")


TARGETS = (
    Target("arrays", _load_arrays, lambda: [save_arrays(_ARRAYS)], runs=1000),
    Target("message", _message, _messages, runs=1000),
    Target("engine-request", _engine_request, _engine_requests, runs=200),
    Target("answer-form", _answer_form, _answers_by_form, runs=1000),
    Target("engine-answer", _engine_answer, _engine_answers, runs=200),
    Target("desk-request", _desk, _desk_requests, runs=2000),
    Target("login-token", _login_token, lambda: [_token(_HEADER, _claims()).encode()], runs=1000),
    Target("login-claims", _login_parts, lambda: [_HEADER + b"\n" + _claims()], runs=1000),
    Target("login-keys", _login_keys, lambda: [_jwks()], runs=1000),
)
