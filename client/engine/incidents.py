"""Refusals: what the coordinator is told, and what the region's log keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from client.engine.request import MAX_ROUND, RUN_ID
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.errors import (
    BudgetError,
    ConsentError,
    FedprefError,
    FormatError,
    InputError,
    PolicyError,
    QualityGateError,
    StorageError,
    VerificationError,
)
from common.keys import Signer
from common.timestamps import format_time

# A coordinator that asks for nonsense for ever must not be able to fill the region's disk.
MAX_INCIDENTS = 256
_MAX_DETAIL = 1000

_REASONS: tuple[tuple[type[FedprefError], str], ...] = (
    (BudgetError, "budget-exhausted"),
    (ConsentError, "no-consent"),
    (QualityGateError, "data-quality"),
    (PolicyError, "not-permitted"),
    (VerificationError, "own-records-do-not-verify"),
    (StorageError, "storage-failure"),
    (FormatError, "malformed-request"),
    (InputError, "configuration"),
)


class Incidents:
    """Logs refusals, each once, and a bounded number while the engine is open.

    Args:
        log: The region's open log.
        signer: The region's ``trainer`` key.
        region: The region's party name.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self, log: AuditLog, signer: Signer, region: str, clock_ms: Callable[[], int]
    ) -> None:
        self._log = log
        self._signer = signer
        self._region = region
        self._clock_ms = clock_ms
        self._logged: set[tuple[str | None, int | None, str]] = set()

    def refuse(self, error: FedprefError, header: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Logs a refusal and gives the answer: the region, a reason code, and nothing else.

        Args:
            error: Why; its message stays in the region.
            header: The request, whatever it holds; only what is well formed is repeated.
        """
        reason = next((code for kind, code in _REASONS if isinstance(error, kind)), "refused")
        run, server_round = _run_of(header), _round_of(header)
        incident = (run, server_round, reason)
        # A store that fails cannot be told about in itself.
        tellable = not isinstance(error, StorageError)
        if tellable and incident not in self._logged and len(self._logged) < MAX_INCIDENTS:
            record: dict[str, JsonValue] = {
                "v": "fedpref-incident/1",
                "run": run,
                "round": server_round,
                "region": self._region,
                "party": self._region,
                "reason": reason,
                "detail": error.message[:_MAX_DETAIL],
                "time": format_time(self._clock_ms()),
            }
            self._log.append([make_entry(record, self._signer)])
            self._logged.add(incident)
        return {"status": "refused", "region": self._region, "reason": reason}


def _run_of(header: Mapping[str, JsonValue]) -> str | None:
    run = header.get("run")
    return run if isinstance(run, str) and RUN_ID.fullmatch(run) else None


def _round_of(header: Mapping[str, JsonValue]) -> int | None:
    number = header.get("round")
    return number if type(number) is int and 1 <= number <= MAX_ROUND else None
