"""The consent desk over a Unix socket: the page's process holds no key and no log.

Framing, file mode and the kernel's word on who the peer is are those of `common.engine_socket`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from client.consent_service.desk import (
    Actor,
    ConsentDesk,
    Decision,
    DecisionRefusedError,
    LoggedChoice,
    Position,
    ShownNotice,
    ShownProfile,
)
from common.canonical_json import JsonValue
from common.engine_channel import engine_user
from common.engine_socket import MAX_CONNECTIONS, SocketChannel, serve_channel
from common.errors import FormatError
from common.peers import Peers

#: For how long the page waits for the desk, in seconds.
TIMEOUT_S = 20.0

Header = dict[str, JsonValue]
_T = TypeVar("_T")

_ACTOR = TypeAdapter(Actor)
_DECISION = TypeAdapter(Decision)
_NOTICE = TypeAdapter(ShownNotice)
_POSITION = TypeAdapter(Position)
_CHOICE = TypeAdapter(LoggedChoice)
_HISTORY = TypeAdapter(tuple[LoggedChoice, ...])
_TEXT = TypeAdapter(str)
_RECEIPT = TypeAdapter(dict[str, Any])
_PROFILE = TypeAdapter(ShownProfile)


class DeskChannel:
    """A desk as an `common.engine_channel.EngineChannel`, to be offered on a socket.

    Args:
        desk: The desk, which has the log.
    """

    def __init__(self, desk: ConsentDesk) -> None:
        self._desk = desk
        self._methods: dict[str, Callable[[Header], JsonValue]] = {
            "notice": self._notice,
            "position": self._position,
            "choose": self._choose,
            "withdraw": self._withdraw,
            "history": self._history,
            "receipt": self._receipt,
            "profile": self._profile,
        }

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Answers one question of the page's process; a refusal is an answer too."""
        answer = self._methods.get(method)
        if answer is None or arrays:
            raise FormatError("The consent desk has no such method.")
        try:
            return {"is": answer(header)}, {}
        except DecisionRefusedError as refusal:
            return {"refused": refusal.code, "because": refusal.message}, {}

    def _notice(self, header: Header) -> JsonValue:
        return _plain(self._desk.notice(_field(header, "lang", _TEXT)), _NOTICE)

    def _position(self, header: Header) -> JsonValue:
        position = self._desk.position(
            _field(header, "customer_ref", _TEXT), _field(header, "lang", _TEXT)
        )
        return _plain(position, _POSITION)

    def _choose(self, header: Header) -> JsonValue:
        choice = self._desk.choose(
            _field(header, "actor", _ACTOR), _field(header, "decision", _DECISION)
        )
        return _plain(choice, _CHOICE)

    def _withdraw(self, header: Header) -> JsonValue:
        return _plain(self._desk.withdraw(_field(header, "actor", _ACTOR)), _CHOICE)

    def _history(self, header: Header) -> JsonValue:
        history = self._desk.history(_field(header, "customer_ref", _TEXT))
        return _plain(history, _HISTORY)

    def _receipt(self, header: Header) -> JsonValue:
        return self._desk.receipt(
            _field(header, "customer_ref", _TEXT),
            _field(header, "record_id", _TEXT),
            _field(header, "lang", _TEXT),
        )

    def _profile(self, header: Header) -> JsonValue:
        profile = self._desk.profile(
            _field(header, "customer_ref", _TEXT), _field(header, "lang", _TEXT)
        )
        return _plain(profile, _PROFILE)


class SocketDesk:
    """A `ConsentDesk` in another process. Its methods are that protocol's.

    Whose process that must be, the environment says (`common.engine_channel`).

    Args:
        path: The desk's socket.
        timeout_s: The longest a question may take, in seconds.
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._channel = SocketChannel(path, timeout_s=timeout_s, engine_user=engine_user())
        # The server closes connections above its limit; waiting here is better.
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS // 2)

    def notice(self, lang: str) -> ShownNotice:
        """See `ConsentDesk.notice`."""
        return self._ask("notice", {"lang": lang}, _NOTICE)

    def position(self, customer_ref: str, lang: str) -> Position:
        """See `ConsentDesk.position`."""
        return self._ask("position", {"customer_ref": customer_ref, "lang": lang}, _POSITION)

    def choose(self, actor: Actor, decision: Decision) -> LoggedChoice:
        """See `ConsentDesk.choose`."""
        record = asdict(decision) | {"agreed": sorted(decision.agreed)}
        return self._ask("choose", {"actor": asdict(actor), "decision": record}, _CHOICE)

    def withdraw(self, actor: Actor) -> LoggedChoice:
        """See `ConsentDesk.withdraw`."""
        return self._ask("withdraw", {"actor": asdict(actor)}, _CHOICE)

    def history(self, customer_ref: str) -> tuple[LoggedChoice, ...]:
        """See `ConsentDesk.history`."""
        return self._ask("history", {"customer_ref": customer_ref}, _HISTORY)

    def receipt(self, customer_ref: str, record_id: str, lang: str) -> dict[str, JsonValue]:
        """See `ConsentDesk.receipt`."""
        question: Header = {"customer_ref": customer_ref, "record_id": record_id, "lang": lang}
        return self._ask("receipt", question, _RECEIPT)

    def profile(self, customer_ref: str, lang: str) -> ShownProfile:
        """See `ConsentDesk.profile`."""
        return self._ask("profile", {"customer_ref": customer_ref, "lang": lang}, _PROFILE)

    def _ask(self, method: str, question: Header, kind: TypeAdapter[_T]) -> _T:
        with self._slots:
            answer, _ = self._channel.call(method, question, {})
        if answer.keys() == {"refused", "because"}:
            raise DecisionRefusedError(str(answer["refused"]), str(answer["because"]))
        return _field(answer, "is", kind)


@contextmanager
def serve_desk(
    desk: ConsentDesk, path: Path, *, admitted: Peers | None = None, group: int | None = None
) -> Iterator[None]:
    """Offers a desk on a Unix socket while the body runs.

    Args:
        desk: The desk.
        path: Where its socket is made.
        admitted: Whose processes may ask; this process's own user's if None.
        group: The group that may open the socket's file (mode 0660); None for 0600.

    Raises:
        InputError: The path is too long for a socket, or not ours to use.
        StorageError: Another process is serving there.
    """
    with serve_channel(DeskChannel(desk), path, admitted=admitted, group=group):
        yield


def _plain(value: _T, kind: TypeAdapter[_T]) -> JsonValue:
    plain: JsonValue = kind.dump_python(value, mode="json")
    return plain


def _field(header: Header, name: str, kind: TypeAdapter[_T]) -> _T:
    try:
        return kind.validate_python(header.get(name))
    except ValidationError as error:
        # Not its own words: they repeat the value, which is personal.
        raise FormatError(f"{name} on the desk's socket is not of the form it must have.") from (
            error
        )
