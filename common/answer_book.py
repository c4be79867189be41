"""What an engine has answered, kept by the relay that stands between it and a bundle.

A bundle is code that the coordinator ships. A relay that gives it this channel to ask the engine by
can hold what the bundle then wants sent to what the engine has said: the same answer to the same
question, byte for byte, or one of the relay's own codes. So nothing that a bundle reads or makes up
can leave, in whatever field: it may choose which answer to send, and no more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from common import canonical_json
from common.canonical_json import JsonValue
from common.egress_form import METHODS, ArrayLimit, EgressRefusedError, check_form
from common.egress_reasons import RELAY_REASONS
from common.errors import FormatError
from common.parameters import arrays_digest

if TYPE_CHECKING:
    from common.engine_channel import EngineChannel

#: How often a bundle may ask the engine for one message: once is what the honest one does,
#: and all that a descriptor serves (`common.engine_descriptor`).
MAX_QUESTIONS = 4
#: What a bundle may ask; the relay's own questions are not among it.
BUNDLE_METHODS = METHODS - {"admit", "report"}

_MAX_HEADER_BYTES = 1 << 20

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


class AnswerBook:
    """An `common.engine_channel.EngineChannel` that remembers what it was answered.

    For one message of a coordinator's, and the process that works on it.

    Args:
        channel: The way to the engine.
        limits: By name, what arrays may be at all; see `common.egress_form.check_form`.
    """

    def __init__(
        self, channel: EngineChannel, limits: Mapping[str, ArrayLimit] | None = None
    ) -> None:
        self._channel = channel
        self._limits = limits
        self._questions = 0
        self._answers: set[bytes] = set()
        self._lock = threading.Lock()

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Passes a question on, and notes the answer.

        Raises:
            FormatError: It is none of a bundle's questions, or one too many.
            EgressRefusedError: The answer has not the form of one.
            FedprefError: As the engine raised it.
        """
        with self._lock:
            self._questions += 1
            too_many = self._questions > MAX_QUESTIONS
        if method not in BUNDLE_METHODS or too_many:
            raise FormatError("The bundle asks for what it may not, or too often.")
        answer, answered = self._channel.call(method, header, arrays)
        check_form(method, answer, answered, self._limits)
        noted = _answer_digest(method, answer, answered)
        with self._lock:
            self._answers.add(noted)
        return answer, answered

    def require_answered(
        self, method: str, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Requires that a reply is what the engine answered, or a refusal of the relay's own.

        Args:
            method: What the message asks for.
            header: The reply's header.
            arrays: Its arrays.

        Raises:
            EgressRefusedError: It is neither; it must not be sent.
        """
        check_form(method, header, arrays, self._limits)
        if _answer_digest(method, header, arrays) in self._answers:
            return
        if header.keys() == {"status", "reason"} and header["reason"] in RELAY_REASONS:
            return
        raise EgressRefusedError(
            f"A reply to {method!r} is not what the engine answered.",
            remedy="Nothing left. The bundle that made it is not the one it should be.",
        )


def _answer_digest(
    method: str, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
) -> bytes:
    digest = hashlib.sha256(method.encode() + b"\n")
    digest.update(canonical_json.encode(dict(header), max_bytes=_MAX_HEADER_BYTES) + b"\n")
    digest.update(arrays_digest(arrays).encode())
    return digest.digest()
