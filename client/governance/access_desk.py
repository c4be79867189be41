"""The access desk: where requests, approvals and uses come to, and columns are handed out.

It is where the log is. Everything is logged first: a record that may not follow what the log has is
refused, which is an incident, and columns are decrypted only once the log has their use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import pyarrow as pa

from client.engine.home import RegionHome
from client.engine.incidents import Incidents
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy
from client.governance.access_records import (
    AccessExpiry,
    AccessRequest,
    AccessUse,
    SignedAccess,
    open_access,
    sign_access,
)
from client.governance.column_store import ColumnStore
from client.governance.grants import _USE_SEAL, AccessRefusedError, Grant, GrantBook, GrantedUse
from common.audit.log import AuditLog, LogMovedError
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.errors import FedprefError, InputError, PolicyError, StorageError
from common.keys import Registry
from common.timestamps import format_time, now_ms

#: The incident of whatever the desk refuses.
REFUSED = "access-refused"
#: The most that is handed out at once, in bytes: what a message of the desk's socket holds.
MAX_READ_BYTES = 192 << 20
_logger = logging.getLogger("fedpref.access")


@dataclass(frozen=True)
class ShownGrant:
    """A grant as the desk shows it.

    Attributes:
        grant: The grant.
        state: What it is now.
        requester: Who asked, as the policy in force names them; the key's id if it does not.
        approver: Who approved, likewise; empty if nobody did.
        request: The request's log entry, so that an approver signs what they have seen.
    """

    grant: Grant
    state: str
    requester: str
    approver: str
    request: bytes


class AccessDesk:
    """A region's access desk. Use `open_desk`; safe to call from several threads.

    Args:
        home: The region's home, with its ``trainer`` key.
        log: Its log, open for writing.
        state: The log's replayed state, shared with whoever else replays it.
        policy: The policy in force.
        registry: The verified key registry.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        home: RegionHome,
        log: AuditLog,
        state: LogState,
        policy: RegionPolicy,
        registry: Registry,
        *,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._region = home.region
        self._log = log
        self._state = state
        self._rules = policy.access
        self._registry = registry
        self._clock_ms = clock_ms
        self._trainer = home.signer("trainer")
        self._columns = ColumnStore(home)
        self._book = GrantBook(registry, home.region)
        self._incidents = Incidents(
            log, self._trainer, home.region, lambda: max(clock_ms(), state.newest_ms)
        )

    def file(self, data: bytes) -> str:
        """Logs a request, an approval or a revocation.

        Args:
            data: The signed record.

        Returns:
            The request's id.

        Raises:
            AccessRefusedError: It may not follow what the log has; that is an incident.
            InputError: The columns that are asked for are not kept.
            FedprefError: It is no such record, or its signature does not hold: an incident, too.
        """
        with self._incident_if_refused():
            signed, _ = self._take(data, of=("request", "approval", "revocation"))
        return signed.record.request_id

    def use(self, data: bytes) -> pa.Table:
        """Logs a use of a grant, and only then reads the columns.

        Args:
            data: The signed use.

        Raises:
            AccessRefusedError, FedprefError: As `file`.
            StorageError: The log refuses, and nothing was read; or what is kept cannot be read.
        """
        with self._incident_if_refused():
            signed, index = self._take(data, of=("use",))
        record = signed.record
        if not isinstance(record, AccessUse):
            raise TypeError("what was taken is no use")
        table = self._book.find(record.request_id).request.table
        use = GrantedUse(record.request_id, table, record.columns, index, _USE_SEAL)
        return self._columns.granted(use)

    def read(self, table: str, columns: Collection[str]) -> pa.Table:
        """Reads columns of low grade, for which nobody needs a grant.

        Raises:
            AccessRefusedError: One is of a higher grade; that is an incident.
            InputError: The table or a column is not kept.
        """
        with self._incident_if_refused():
            try:
                self._require_readable(table, tuple(columns))
                return self._columns.for_people(table, columns)
            except PolicyError as error:
                raise AccessRefusedError(error.message, remedy=error.remedy) from error

    def grants(self) -> list[ShownGrant]:
        """Every request and what has become of it."""
        with self._state.lock:
            self._refresh()
            entries = {leaf_hash(data).hex(): data for _, data in self._state.access}
            at_ms = self._clock_ms()
            return [
                ShownGrant(
                    grant,
                    grant.state(at_ms),
                    self._name_of(grant.requested_by),
                    self._name_of(grant.approved_by) if grant.approved_by else "",
                    entries[grant.request_leaf],
                )
                for grant in self._book.grants
            ]

    def note_expiries(self) -> list[str]:
        """Logs the end of every grant that has run out; gives their ids.

        Raises:
            StorageError: The log refuses; the rest is logged the next time.
        """
        noted = list[str]()
        while True:
            with self._state.lock:
                self._refresh()
                at_ms = max(self._clock_ms(), self._state.newest_ms)
                due = self._book.due(at_ms)
                if not due:
                    return noted
                record = AccessExpiry(due[0].request.request_id, self._region, due[0].uses, at_ms)
                if self._append(sign_access(record, self._trainer)) is not None:
                    noted.append(record.request_id)

    def note_stranger(self, reason: str, user: int) -> None:
        """Notes a process that got no answer at the desk's socket.

        Args:
            reason: A kebab-case code of `common.engine_socket`.
            user: The user id of the process.

        Raises:
            StorageError: The log refuses.
        """
        self._incidents.note(
            None, reason, f"A process of user {user} came to the access desk and got no answer."
        )

    def _take(self, data: bytes, *, of: tuple[str, ...]) -> tuple[SignedAccess, int]:
        """Judges a record by the log as it is, and logs it; what has run out is noted first."""
        while True:
            self.note_expiries()
            with self._state.lock:
                self._refresh()
                at_ms = self._clock_ms()
                signed = open_access(data, self._registry, self._region, at_ms=at_ms)
                self._require_kind(signed, of)
                self._book.judge(signed, self._rules, at_ms)
                self._require_kept(signed)
                index = self._append(data)
                if index is not None:
                    self._refresh()
                    return signed, index

    def _append(self, data: bytes) -> int | None:
        """Logs an entry that was judged by the log as it was refreshed last; None if it moved."""
        try:
            return self._log.append([data], expected_size=self._state.size)[0]
        except LogMovedError:
            return None

    def _refresh(self) -> None:
        self._state.refresh()
        self._book.replay(self._state.access)

    def _require_kind(self, signed: SignedAccess, of: tuple[str, ...]) -> None:
        kind = str(signed.record.to_record()["v"]).removeprefix("fedpref-access-")
        if kind.removesuffix("/1") not in of:
            raise AccessRefusedError(
                f"{self._region}: such a record is not filed here.",
                remedy="Use the commands of fedpref-region access.",
            )

    def _require_kept(self, signed: SignedAccess) -> None:
        record = signed.record
        if isinstance(record, AccessRequest):
            self._columns.manifest().find(record.table, record.columns)
        elif isinstance(record, AccessUse):
            table = self._book.find(record.request_id).request.table
            self._require_readable(table, record.columns)

    def _require_readable(self, table: str, columns: tuple[str, ...]) -> None:
        found = self._columns.manifest().find(table, columns)
        size_bytes = sum(each.size_bytes for each in found.values())
        if size_bytes > MAX_READ_BYTES:
            raise InputError(
                f"{self._region}: these columns of {table} are {size_bytes >> 20} MB; at most "
                f"{MAX_READ_BYTES >> 20} MB are handed out at once.",
                remedy="Read fewer columns at a time.",
            )

    def _name_of(self, key_id: str) -> str:
        person = None if self._rules is None else self._rules.person_of(key_id)
        return person or f"key {key_id[:16]}…"

    @contextmanager
    def _incident_if_refused(self) -> Iterator[None]:
        try:
            yield
        except (StorageError, InputError) as error:
            # A mistake of the asker's, or a disk's: nobody tried what they may not.
            if type(error) is InputError or isinstance(error, StorageError):
                raise
            self._note(error)
        except FedprefError as error:
            self._note(error)

    def _note(self, error: FedprefError) -> NoReturn:
        """Notes a refusal in the region's log, and refuses."""
        try:
            self._incidents.note(None, REFUSED, f"Access was refused. {error.message}")
        except StorageError as failure:
            # The refusal stands, whether the disk takes its note or not.
            _logger.warning("a refusal of access could not be logged: %s", failure)
        raise error


def grant_record(shown: ShownGrant) -> dict[str, JsonValue]:
    """A grant as JSON values, as the desk's socket and ``access list --json`` have it."""
    grant, request = shown.grant, shown.grant.request
    approval = grant.approval
    return {
        "request_id": request.request_id,
        "state": shown.state,
        "table": request.table,
        "columns": [*request.columns],
        "because": request.because,
        "grant_s": request.grant_s,
        "requester": shown.requester,
        "requested_at": format_time(request.time_ms),
        "approver": shown.approver or None,
        "approval": grant.approval_leaf or None,
        "approved_at": None if approval is None else format_time(approval.time_ms),
        "expires": None if approval is None else format_time(approval.expires_ms),
        "uses": grant.uses,
        "ended_at": format_time(grant.ended_ms) if grant.end else None,
    }
