"""A witness at the other end of HTTP (C2SP ``tlog-witness``), reached with the standard library."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from threading import Thread
from typing import IO, Never

from common.audit.checkpoint import MAX_SIGNATURES
from common.audit.witness.errors import (
    ConflictError,
    StaleSizeError,
    UnknownLogError,
    UnreachableWitnessError,
    UnsignedError,
    WitnessRefusalError,
)
from common.audit.witness.request import SIZE_TYPE, AddCheckpoint
from common.errors import InputError

MAX_ANSWER_BYTES = 64 * 1024

_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_SAID_CHARACTERS = 200


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A witness is where its operator said it is: no answer of it leads elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class _Answer:
    status: int
    content_type: str
    body: bytes


class HttpWitness:
    """A witness by its submission prefix; implements `WitnessChannel`.

    Args:
        url: The prefix: http or https, without ``/add-checkpoint``. Proxies are taken from the
            environment, as ``urllib`` does.
        timeout_s: For how long a whole answer may take, in seconds.

    Raises:
        InputError: The address is none of a witness.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise InputError(
                f"{url!r} is not the address of a witness.",
                remedy="Give its submission prefix, such as https://witness.example.",
            )
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def add_checkpoint(self, note: bytes, old_size: int, proof: Sequence[bytes]) -> list[str]:
        """Asks for a cosignature; see `WitnessChannel.add_checkpoint`."""
        body = AddCheckpoint(note, old_size, tuple(proof)).encode()
        answer = self._post(f"{self.url}/add-checkpoint", body)
        if answer.status != 200:
            self._refuse(answer)
        try:
            lines = answer.body.decode().splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise self._unreachable("its answer is not UTF-8") from error
        if not 0 < len(lines) <= MAX_SIGNATURES or not all(line.endswith("\n") for line in lines):
            raise self._unreachable("its answer has no whole signature lines")
        return lines

    def _post(self, url: str, body: bytes) -> _Answer:
        """Posts in a thread: neither a slow name server nor a dripping answer holds the caller."""
        outcome: list[_Answer | Exception] = []

        def run() -> None:
            try:
                outcome.append(self._exchange(url, body))
            except (OSError, HTTPException, ValueError) as error:
                outcome.append(error)

        thread = Thread(target=run, name="witness request", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if not outcome:
            raise self._unreachable(f"it did not answer within {self._timeout_s:g} s")
        if isinstance(outcome[0], Exception):
            raise self._unreachable(str(outcome[0])) from outcome[0]
        return outcome[0]

    def _exchange(self, url: str, body: bytes) -> _Answer:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url, data=body, headers={"Content-Type": "text/plain; charset=utf-8"}, method="POST"
        )
        try:
            # For the socket twice as long: it ends the thread, not the wait for it.
            with self._opener.open(request, timeout=2 * self._timeout_s) as response:
                content_type = response.headers.get("Content-Type", "")
                return _Answer(response.status, content_type, _bounded(response))
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, error.headers.get("Content-Type", ""), _bounded(error))

    def _refuse(self, answer: _Answer) -> Never:
        text = answer.body[: 4 * _SAID_CHARACTERS].decode("utf-8", "replace")
        # Foreign text: one line, and nothing that a terminal would obey.
        said = "".join(each if each.isprintable() else " " for each in text[:_SAID_CHARACTERS])
        message = f"The witness {self.url} refused ({answer.status}): {said.strip()}"
        size = _SIZE.fullmatch(answer.body)
        if answer.status == 409 and answer.content_type == SIZE_TYPE and size is not None:
            raise StaleSizeError(message, known_size=int(size[1]))
        # Witnesses of the protocol's first version answer a split view with a plain 409.
        if answer.status in (409, 422):
            raise ConflictError(message)
        for kind in (WitnessRefusalError, UnsignedError, UnknownLogError):
            if answer.status == kind.status:
                raise kind(message)
        raise self._unreachable(f"it answered {answer.status}: {said.strip()}")

    def _unreachable(self, why: str) -> UnreachableWitnessError:
        return UnreachableWitnessError(
            f"The witness {self.url} gave no answer: {why}.",
            remedy="Check its address, and that it runs.",
        )


def _bounded(stream: IO[bytes]) -> bytes:
    body = stream.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
    return body
