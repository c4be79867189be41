"""Removes what the policy says is kept no longer: seals, permits, evidence of choices.

Only what is over is removed. A permit that has ended is refused for good, so nobody can ask for the
sealed updates of its run any more; evidence goes once the choice that it shows was replaced or has
ended. The log is append-only: it keeps its entries, and the verifier's verdict stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.engine.home import RegionHome
from client.engine.permit_files import PermitFile, permit_files
from client.engine.policy_fields import Retention
from client.engine.subjects import SubjectKeys
from common.audit.log import AuditLog
from common.consent import GIVEN, ConsentRecord, parse_consent
from common.durable_file import sync_folder
from common.envelope import Envelope
from common.errors import StorageError
from common.timestamps import parse_time

DAY_MS = 24 * 3600 * 1000
_SEAL = re.compile(r"(?P<run>.+)-(?P<round>[0-9]{4,})\.seal")
_CONSENT_MARK = b'"application/vnd.fedpref.consent+json"'


@dataclass(frozen=True)
class Outdated:
    """What is kept no longer.

    Attributes:
        seals: Files of sealed updates.
        permits: Files of permits and of the plans they are for.
        evidence: Ids of the records whose evidence goes.
    """

    seals: tuple[Path, ...]
    permits: tuple[Path, ...]
    evidence: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.seals or self.permits or self.evidence)


def find_outdated(
    home: RegionHome,
    retention: Retention,
    log: AuditLog,
    subjects: SubjectKeys,
    *,
    at_ms: int,
) -> Outdated:
    """Finds what is kept no longer; changes nothing.

    Args:
        home: The region's home.
        retention: For how long its policy has it kept.
        log: Its log, open for reading at least.
        subjects: Its subjects' table.
        at_ms: Now, in milliseconds since the epoch.

    Raises:
        InputError: A permit cannot be read.
    """
    permits = permit_files(home.permits)
    evidence: frozenset[str] = frozenset()
    if retention.evidence is not None:
        ended = _ended_before(log, at_ms - retention.evidence * DAY_MS)
        evidence = ended & subjects.evidence_records()
    return Outdated(
        seals=tuple(_old_seals(home, permits, retention.seals, at_ms)),
        permits=tuple(_old_permits(permits, retention.permits, at_ms)),
        evidence=evidence,
    )


def remove_outdated(home: RegionHome, outdated: Outdated, subjects: SubjectKeys) -> None:
    """Removes what `find_outdated` found; durable on return. Interrupted, it is done again.

    Raises:
        StorageError: A file cannot be removed.
    """
    if outdated.evidence:
        subjects.drop_evidence(outdated.evidence)
    # Seals first: a seal whose permit is gone could not be judged any more.
    for folder, paths in ((home.seals, outdated.seals), (home.permits, outdated.permits)):
        try:
            for path in paths:
                path.unlink(missing_ok=True)
            if paths:
                sync_folder(folder)
        except OSError as error:
            raise StorageError(
                f"{error.filename or folder} cannot be removed: {error.strerror}.",
                remedy="Check the folder's mode and owner, and tidy again.",
            ) from error


def _old_seals(
    home: RegionHome, permits: list[PermitFile], days: int | None, at_ms: int
) -> Iterator[Path]:
    if days is None or not home.seals.is_dir():
        return
    ends = {permit.run: permit.expires_ms for permit in permits}
    for path in sorted(home.seals.iterdir()):
        named = _SEAL.fullmatch(path.name)
        # A seal whose permit is not there may belong to a run that is to be restored: it stays.
        if named is not None and ends.get(named["run"], at_ms) < at_ms - days * DAY_MS:
            yield path


def _old_permits(permits: list[PermitFile], days: int | None, at_ms: int) -> Iterator[Path]:
    if days is None:
        return
    for permit in permits:
        if permit.expires_ms < at_ms - days * DAY_MS:
            # The plan last: without its permit it permits nothing.
            yield from (permit.path, permit.plan_path)


def _ended_before(log: AuditLog, before_ms: int) -> frozenset[str]:
    """The records of choices that were replaced, withdrawn, refused or expired before a time."""
    ended: dict[str, int] = {}
    latest: dict[str, ConsentRecord] = {}
    for _, data in log.entries():
        if _CONSENT_MARK not in data:
            continue
        record = parse_consent(Envelope.decode(data).record())
        if (earlier := latest.get(record.sid)) is not None:
            ended[earlier.record_id] = record.signed_ms
        latest[record.sid] = record
    for record in latest.values():
        if record.state != GIVEN:
            ended[record.record_id] = record.signed_ms
        elif record.expires is not None:
            ended[record.record_id] = parse_time(record.expires)
    return frozenset(name for name, end_ms in ended.items() if end_ms < before_ms)
