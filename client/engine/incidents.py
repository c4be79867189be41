"""Refusals: what the coordinator is told, and what the region's log keeps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from client.engine.log_state import DISCARDED, OUTDATED
from client.engine.refusals import (
    BundleNotPermittedError,
    ClockError,
    DiscardedError,
    NotWitnessedError,
    OutdatedError,
    TooManyRunsError,
)
from client.engine.request import MAX_ROUND, RUN_ID
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.egress_form import EgressRefusedError
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
from common.secure_aggregation import SecureSumRefusedError
from common.timestamps import format_time

# A coordinator that asks for nonsense for ever must not be able to fill the region's disk.
MAX_INCIDENTS = 256
#: A bundle that no permit names; each such bundle is an incident of its own (`relay_desk`).
BUNDLE_NOT_PERMITTED = "bundle-not-permitted"
_MAX_DETAIL = 1000
_logger = logging.getLogger("fedpref.engine")

_REASONS: tuple[tuple[type[FedprefError], str], ...] = (
    (EgressRefusedError, "egress-refused"),
    (TooManyRunsError, "too-many-runs"),
    (NotWitnessedError, "not-witnessed"),
    (BundleNotPermittedError, BUNDLE_NOT_PERMITTED),
    (ClockError, "clock-behind"),
    (DiscardedError, DISCARDED),
    (OutdatedError, OUTDATED),
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

    Safe to use from several threads.

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
        self._lock = threading.RLock()

    def refuse(self, error: FedprefError, header: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Logs a refusal and gives the answer: the region, a reason code, and nothing else.

        Args:
            error: Why; its message stays in the region.
            header: The request, whatever it holds; only what is well formed is repeated.
        """
        reason = _reason(error)
        run, server_round = _run_of(header), _round_of(header)
        incident = (run, server_round, reason)
        # A store that fails cannot be told about in itself; the others have their incident already.
        has_one = DiscardedError | OutdatedError | BundleNotPermittedError
        tellable = not isinstance(error, StorageError | has_one)
        with self._lock:
            if tellable and incident not in self._logged and len(self._logged) < MAX_INCIDENTS:
                try:
                    self._append(run, server_round, reason, error.message)
                except StorageError as failure:
                    # The refusal stands; it is logged when it comes again and the disk takes it.
                    _logger.warning("the refusal %s could not be logged: %s", reason, failure)
        return {"status": "refused", "region": self._region, "reason": reason}

    def note(self, run: str | None, reason: str, detail: str) -> None:
        """Logs something seen in a run that is no refusal of a request: a split view, say.

        Args:
            run: The run, if it was in one.
            reason: A kebab-case code.
            detail: One sentence of our own.
        """
        with self._lock:
            if (run, None, detail) not in self._logged and len(self._logged) < MAX_INCIDENTS:
                self._append(run, None, reason, detail)
                self._logged.add((run, None, detail))

    def _append(self, run: str | None, server_round: int | None, reason: str, detail: str) -> None:
        record = incident_record(
            run=run,
            server_round=server_round,
            region=self._region,
            reason=reason,
            detail=detail,
            time_ms=self._clock_ms(),
        )
        self._log.append([make_entry(record, self._signer)])
        self._logged.add((run, server_round, reason))


def _reason(error: FedprefError) -> str:
    if isinstance(error, SecureSumRefusedError):
        return error.reason
    return next((code for kind, code in _REASONS if isinstance(error, kind)), "refused")


def incident_record(
    *,
    run: str | None,
    server_round: int | None,
    region: str,
    reason: str,
    detail: str,
    time_ms: int,
) -> dict[str, JsonValue]:
    """A ``fedpref-incident/1`` record of a region.

    Args:
        run: The run, if it was in one.
        server_round: The round, if it was in one.
        region: The region's party name.
        reason: A kebab-case code.
        detail: One sentence of our own, without personal data.
        time_ms: When, in milliseconds since the epoch.
    """
    return {
        "v": "fedpref-incident/1",
        "run": run,
        "round": server_round,
        "region": region,
        "party": region,
        "reason": reason,
        "detail": detail[:_MAX_DETAIL],
        "time": format_time(time_ms),
    }


def _run_of(header: Mapping[str, JsonValue]) -> str | None:
    run = header.get("run")
    return run if isinstance(run, str) and RUN_ID.fullmatch(run) else None


def _round_of(header: Mapping[str, JsonValue]) -> int | None:
    number = header.get("round")
    return number if type(number) is int and 1 <= number <= MAX_ROUND else None
