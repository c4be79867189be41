"""Whose consent stands, by default for recommendations: asked of the log at every single request.

The log belongs to another process, the engine or the consent service. Before each answer it is
looked at whether that process has appended anything (some microseconds if not), and what it has is
replayed first: a withdrawal that the service has confirmed is in force for the next request.

The gate fails closed. While the log or the subjects' table cannot be read, does not verify, or no
longer begins as it did, nobody's consent stands; each request tries again. Nor does a clock that
was set back revive what has expired: no time before the log's newest entry is judged at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.subjects import SubjectKeys, open_subject_keys
from client.recommend.types import NotPersonal
from common.audit.checkpoint import NoteKey
from common.audit.log import AuditLog
from common.audit.proof_file import open_log_note
from common.consent import RECOMMENDATIONS
from common.errors import FedprefError, VerificationError
from common.keys import Registry
from common.timestamps import now_ms

_logger = logging.getLogger("fedpref.recommend")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the log says of one customer at one size.

    Attributes:
        sid: The customer's pseudonym, only if consent stands.
        refused: Why it does not, or None.
        consent_size: The size of the log that was asked; 0 if it cannot be read.
        ended: The pseudonym of a known customer whose consent does not stand, for what is kept of
            her to be forgotten; nothing may be made of it.
    """

    sid: str | None
    refused: NotPersonal | None
    consent_size: int
    ended: str | None = None


@dataclass(frozen=True)
class _Records:
    """The log and the subjects' table, open for reading; which files, under which registry."""

    log: AuditLog
    state: LogState
    subjects: SubjectKeys
    note_keys: tuple[NoteKey, ...]
    files: tuple[tuple[int, int], ...]
    registry: str
    closing: ExitStack

    @property
    def notice_grace_s(self) -> int:
        """For how long the policy in force keeps consents to a superseded notice."""
        graces = self.state.notice_graces
        return graces[-1][1] if graces else 0


class ConsentGate:
    """One region's consents for one purpose. Safe to use from threads.

    Args:
        home: The region's home.
        purpose: The purpose.
        clock_ms: Gives the time at which expiry is judged, unless the log is ahead of it.

    Raises:
        InputError: The region has no log, or no storage key.
        StorageError: Log or table cannot be read.
        VerificationError: The region's log does not verify.
    """

    def __init__(
        self,
        home: RegionHome,
        *,
        purpose: str = RECOMMENDATIONS,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._home = home
        self._purpose = purpose
        self._clock_ms = clock_ms
        self._lock = threading.RLock()
        self._fault: FedprefError | None = None
        # The longest the log was found to be, and its root then.
        self._seen = (0, b"")
        self._records: _Records | None = self._open()

    def judge(self, customer: str) -> Judgement:
        """Whether a customer's consent stands now.

        Args:
            customer: The customer, as the store refers to her.
        """
        with self._lock:
            try:
                records = self._current()
                sid = records.subjects.pseudonym(customer)
            except FedprefError as error:
                self._note(error)
                return Judgement(None, "consents-unreadable", 0)
            self._fault = None
            size = records.state.size
            if sid is None:
                return Judgement(None, "unknown-customer", size)
            subject = records.state.consents.state_of(
                sid, self._purpose, self._at_ms(records), notice_grace_s=records.notice_grace_s
            )
            if not subject.in_force:
                return Judgement(None, "no-consent", size, ended=sid)
            return Judgement(sid, None, size)

    def size(self) -> int:
        """The log's size now; 0 if it cannot be read."""
        with self._lock:
            try:
                return self._current().state.size
            except FedprefError as error:
                self._note(error)
                return 0

    def stands(self, sid: str) -> bool:
        """Whether the consent of a pseudonym stands now."""
        with self._lock:
            try:
                records = self._current()
            except FedprefError as error:
                self._note(error)
                return False
            return records.state.consents.state_of(
                sid, self._purpose, self._at_ms(records), notice_grace_s=records.notice_grace_s
            ).in_force

    def eligible(self) -> EligibleCustomers:
        """All whose consent stands now, for the consent filter.

        Raises:
            InputError, StorageError, VerificationError: The log or the table cannot be read or does
                not verify.
        """
        # By a table of its own: the other would keep all customers' references. Of many customers
        # it takes seconds, in which requests are judged.
        with open_subject_keys(self._home.subjects, self._home.stored_key) as subjects:
            pseudonyms = subjects.pseudonyms()
        with self._lock:
            records = self._current()
            size = records.state.size
        # The replay may be ahead of that size by now: then it is of more recent choices.
        return EligibleCustomers.from_replay(
            records.state.consents,
            self._purpose,
            self._at_ms(records),
            size,
            pseudonyms,
            notice_grace_s=records.notice_grace_s,
        )

    @property
    def fault(self) -> str | None:
        """Why the gate is closed for everybody; None while it is not."""
        fault = self._fault
        return None if fault is None else str(fault)

    def refresh(self) -> None:
        """Opens everything anew if the key registry is another one by now.

        Raises:
            InputError, StorageError, VerificationError: As at first; nothing has changed then.
        """
        head = self._home.read_registry().head_sha256
        with self._lock:
            if self._records is not None and self._records.registry == head:
                return
        # Beside the one in use, which answers meanwhile: a long log takes minutes.
        records = self._open()
        with self._lock:
            self.close()
            self._records, self._fault = records, None

    def close(self) -> None:
        """Closes the files; the gate opens them again when it is asked."""
        with self._lock:
            if self._records is not None:
                self._records.closing.close()
                self._records = None

    def _current(self) -> _Records:
        """The records with all that was appended since; opened anew if they are other files."""
        records = self._records
        if records is not None and records.files != self._files():
            # Restored, or put there by someone: judged as at first, and against what was seen.
            self.close()
            records = None
        if records is None:
            records = self._records = self._open()
        try:
            self._take_up(records)
        except VerificationError:
            # Signed by a key of a newer registry, perhaps; if not, it does not verify again.
            self.close()
            records = self._records = self._open()
        return records

    def _take_up(self, records: _Records) -> None:
        # A state that stopped at a faulty entry is behind its log and must not be used.
        if records.log.follow() or records.state.size != records.log.size:
            self._check_head(records.log, records.note_keys)
            records.state.refresh()
            self._see(records.log)

    def _open(self) -> _Records:
        registry = self._home.read_registry()
        keys = _note_keys(self._home, registry)
        with ExitStack() as stack:
            # Before they are opened: what is put in their place meanwhile is seen next time.
            files = self._files()
            log = stack.enter_context(AuditLog.open_read_only(self._home.log))
            log.follow()
            self._check_head(log, keys)
            size, root = self._seen
            if log.size < size or (size and log.root_at(size) != root):
                raise VerificationError(
                    f"The log of {self._home.region} no longer begins with the {size} entries that "
                    "it had.",
                    remedy="Compare it with the checkpoints that other parties hold; until then "
                    "nobody's consent counts.",
                )
            state = LogState(log, registry, self._home.region)
            state.refresh()
            subjects = stack.enter_context(
                open_subject_keys(self._home.subjects, self._home.stored_key)
            )
            self._see(log)
            return _Records(
                log, state, subjects, keys, files, registry.head_sha256, stack.pop_all()
            )

    def _see(self, log: AuditLog) -> None:
        """Remembers the longest log that was found.

        What a refresh opens beside the one in use may be behind it by the time it is read.
        """
        with self._lock:
            if log.size > self._seen[0]:
                self._seen = (log.size, log.root)

    def _at_ms(self, records: _Records) -> int:
        """Now, but never before the log's newest entry: by then its time had come."""
        return max(self._clock_ms(), records.state.newest_ms)

    def _check_head(self, log: AuditLog, keys: tuple[NoteKey, ...]) -> None:
        """Requires that the log's own key has signed what it has come to."""
        if not log.size:
            return
        head = open_log_note(log.checkpoint(), log_keys=keys).checkpoint
        if (head.size, head.root) != (log.size, log.root):
            raise VerificationError(
                f"The checkpoint of the log of {self._home.region} is not of its entries."
            )

    def _files(self) -> tuple[tuple[int, int], ...]:
        """Which files log and table are."""
        try:
            states = [path.stat() for path in (self._home.log, self._home.subjects)]
        except OSError:
            # Opening says what is missing.
            return ()
        return tuple((state.st_dev, state.st_ino) for state in states)

    def _note(self, error: FedprefError) -> None:
        if self._fault is None or str(self._fault) != str(error):
            _logger.error("Nobody's consent counts: %s", error)
        self._fault = error


def _note_keys(home: RegionHome, registry: Registry) -> tuple[NoteKey, ...]:
    keys = tuple(
        NoteKey(home.origin, key.public_key) for key in registry.keys_of(home.region, "log")
    )
    if not keys:
        raise VerificationError(f"The key registry has no log key of {home.region}.")
    return keys
