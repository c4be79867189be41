"""A region's log, its replay and its subjects' table, opened together by whoever owns the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from client.consent_service.registrar import ConsentRegistrar
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.subjects import SubjectKeys, open_subject_keys
from common.audit.log import AuditLog
from common.audit.writer_lock import WriterBusyError


@dataclass(frozen=True)
class RegionRecords:
    """What a region holds about its customers' consents, open.

    Attributes:
        home: The region's home.
        log: Its open log.
        state: The log's replay, up to date when opened.
        subjects: The customers' keys and evidence.
    """

    home: RegionHome
    log: AuditLog
    state: LogState
    subjects: SubjectKeys

    def registrar(self) -> ConsentRegistrar:
        """A registrar for what needs no form of its own, such as an erasure."""
        return ConsentRegistrar(
            log=self.log,
            state=self.state,
            subjects=self.subjects,
            signer=self.home.signer("consent"),
        )


@contextmanager
def open_records(home: RegionHome) -> Iterator[RegionRecords]:
    """Opens a region's log for writing, with all that depends on it; closes all on exit.

    Raises:
        StorageError: Another process owns the log, or a store is damaged.
        VerificationError: The region's own log does not verify.
    """
    with (
        open_region_log(home) as log,
        open_subject_keys(home.subjects, home.stored_key) as subjects,
    ):
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        yield RegionRecords(home, log, state, subjects)


@contextmanager
def read_records(home: RegionHome) -> Iterator[RegionRecords]:
    """Opens a region's log as it is now, for reading, beside the process that owns it.

    Raises:
        StorageError: A store is damaged.
        VerificationError: The region's own log does not verify.
    """
    with (
        AuditLog.open_read_only(home.log) as log,
        open_subject_keys(home.subjects, home.stored_key) as subjects,
    ):
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        yield RegionRecords(home, log, state, subjects)


def open_region_log(home: RegionHome) -> AuditLog:
    """Opens a region's log for writing.

    Raises:
        StorageError: Another process owns the log, or it is damaged.
    """
    try:
        return AuditLog.open(home.log, origin=home.origin, signer=home.signer("log"))
    except WriterBusyError as error:
        raise WriterBusyError(
            error.message,
            remedy="The region's engine or consent service owns the log: stop it first, or let it "
            "do this through its consent desk.",
        ) from error
