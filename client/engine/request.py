"""A round's request, read strictly: it comes from a coordinator that nobody trusts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from common.canonical_json import JsonValue
from common.errors import FormatError

# A run's id names files: it must not be able to leave its folder.
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
MAX_ROUND = 1000
MAX_ATTEMPT = 1000

_FIELDS = {"run": str, "round": int, "attempt": int, "mechanism": str, "plan": str}
_MECHANISM = re.compile(r"[a-z][a-z-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrainRequest:
    """A round's request as the coordinator states it."""

    run: str
    server_round: int
    attempt: int
    mechanism: str
    plan: str

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> TrainRequest:
        """Reads a request's header. What it accepts may stand in a log entry.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        if set(header) != set(_FIELDS):
            raise FormatError("A train request has exactly run, round, attempt, mechanism, plan.")
        for name, kind in _FIELDS.items():
            if type(header[name]) is not kind:
                raise FormatError(f"The train request's {name} is not of type {kind.__name__}.")
        request = cls(
            run=str(header["run"]),
            server_round=int(str(header["round"])),
            attempt=int(str(header["attempt"])),
            mechanism=str(header["mechanism"]),
            plan=str(header["plan"]),
        )
        in_range = {
            "run": RUN_ID.fullmatch(request.run) is not None,
            "round": 1 <= request.server_round <= MAX_ROUND,
            "attempt": 1 <= request.attempt <= MAX_ATTEMPT,
            "mechanism": _MECHANISM.fullmatch(request.mechanism) is not None,
            "plan": _DIGEST.fullmatch(request.plan) is not None,
        }
        for name, holds in in_range.items():
            if not holds:
                raise FormatError(f"The train request's {name} is out of range.")
        return request
