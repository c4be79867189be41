"""The consent records of one log as a journal: who chose what, when, under which notice.

The verifier has checked every entry before; this second reading only keeps what the verifier need
not: times, and the difference between a refusal, a withdrawal and an expiry.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from common.audit.verify.consent_bytes import ConsentForms
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.records import (
    CONSENT_GIVEN,
    FEDERATED_TRAINING,
    IMPORTED,
    own_time_ms,
)
from common.audit.verify.replay import Entry, LogReplay
from common.audit.verify.tiles import read_tiles
from common.envelope import Envelope
from common.errors import FedprefError, InputError
from common.identifiers import ulid_ms
from common.timestamps import MAX_TIME_MS, parse_time

FOREVER_MS = MAX_TIME_MS + 1
ERASURE = "erasure"

_CONSENT_TYPE = b"application/vnd.fedpref.consent+json"
_NOTICE_TYPE = b"application/vnd.fedpref.notice+json"
_WITHDRAWN = "dpv:ConsentWithdrawn"
_MAX_SHARED = 4096


class Choice(IntEnum):
    """What a record says of federated training."""

    GIVEN = 0
    REFUSED = 1
    WITHDRAWN = 2
    ERASED = 3


@dataclass(frozen=True)
class Form:
    """What many records share.

    Attributes:
        legal_basis: The law they rest on, as the record names it.
        jurisdiction: The country code.
        method: How the choice was made.
        minor: Whether the customer is a minor.
    """

    legal_basis: str
    jurisdiction: str
    method: str
    minor: bool


@dataclass(frozen=True)
class LoggedNotice:
    """A notice of the log.

    Attributes:
        entry: Its entry.
        sha256: The digest by which consents name it.
    """

    entry: Entry
    sha256: str


@dataclass
class Journal:
    """All consent records of a log that the verifier did not name as broken, in the log's order.

    Each list has one item per record.

    Attributes:
        indexes: The records' log indices.
        subjects: Numbers of the customers they are of, from 0.
        choices: What was chosen, as `Choice`.
        times_ms: When, as the record states; for an imported one, when it was imported.
        until_ms: From when a consent given is over by its own words; `FOREVER_MS` if never.
        forms: Numbers into ``form_list``.
        notices: Numbers into ``notice_digests``.
        form_list: The distinct forms.
        notice_digests: The distinct notices that records name, by digest.
        n_subjects: How many customers there are.
        unread: Entries that could not be read here.
        logged_notices: The notices of the log, by the log's order.
    """

    indexes: array[int] = field(default_factory=lambda: array("Q"))
    subjects: array[int] = field(default_factory=lambda: array("I"))
    choices: array[int] = field(default_factory=lambda: array("B"))
    times_ms: array[int] = field(default_factory=lambda: array("q"))
    until_ms: array[int] = field(default_factory=lambda: array("q"))
    forms: array[int] = field(default_factory=lambda: array("I"))
    notices: array[int] = field(default_factory=lambda: array("I"))
    form_list: list[Form] = field(default_factory=list)
    notice_digests: list[str] = field(default_factory=list)
    n_subjects: int = 0
    unread: int = 0
    logged_notices: list[LoggedNotice] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indexes)

    def before(self, size: int) -> int:
        """How many records the log's first ``size`` entries hold."""
        return bisect_left(self.indexes, size)

    def form_of(self, position: int) -> Form:
        """What the record at a position shares with others."""
        return self.form_list[self.forms[position]]


def read_journal(folder: BundleFolder, replay: LogReplay, broken: Collection[int]) -> Journal:
    """Reads the consents of a log that is whole in the bundle.

    Args:
        folder: The bundle.
        replay: The log, as the verifier replayed it.
        broken: Indices of entries that the verifier named as broken: they are left out.
    """
    reader = _Reader({entry.index: entry for entry in replay.of_kind("notice")})
    try:
        for _, first, entries in read_tiles(folder, replay.party, replay.size):
            for index, data in enumerate(entries, start=first):
                if index not in broken:
                    reader.take(index, data)
    except InputError:
        # The verifier has named the entry at which the log ends for every reader.
        reader.journal.unread += replay.size - reader.taken
    return reader.journal


class _Reader:
    def __init__(self, notices: dict[int, Entry]) -> None:
        self.journal = Journal()
        self.taken = 0
        self._notice_entries = notices
        self._usual = ConsentForms()
        self._subject_numbers: dict[bytes, int] = {}
        self._form_numbers: dict[Form, int] = {}
        self._notice_numbers: dict[str, int] = {}
        self._shared: dict[int, tuple[Record, int, int, int]] = {}

    def take(self, index: int, data: bytes) -> None:
        self.taken = index + 1
        usual = self._usual.read(data)
        if usual is not None:
            choice, form, notice = self._shared_of(usual.form)
            until = FOREVER_MS if usual.expires_ms is None else usual.expires_ms
            imported = self.journal.form_list[form].method == IMPORTED
            time_ms = ulid_ms(usual.record_id) if imported else usual.event_ms
            self._add(index, usual.sid, choice, time_ms, until, form, notice)
        elif _CONSENT_TYPE in data:
            self._take_general(index, data)
        elif _NOTICE_TYPE in data and index in self._notice_entries:
            digest = hashlib.sha256(data).hexdigest()
            self.journal.logged_notices.append(LoggedNotice(self._notice_entries[index], digest))

    def _take_general(self, index: int, data: bytes) -> None:
        try:
            envelope = Envelope.decode(data)
            if envelope.kind != "consent":
                return
            record = envelope.record()
            expires = record["expires"]
            choice, form, notice = self._read_shared(record)
            self._add(
                index,
                bytes.fromhex(str(record["sid"])),
                choice,
                own_time_ms("consent", record) or 0,
                FOREVER_MS if expires is None else parse_time(str(expires)),
                form,
                notice,
            )
        except (FedprefError, KeyError, ValueError):
            # The verifier has reported it; the report says that one record is not in its figures.
            self.journal.unread += 1

    def _add(
        self,
        index: int,
        sid: bytes,
        choice: int,
        time_ms: int,
        until_ms: int,
        form: int,
        notice: int,
    ) -> None:
        journal = self.journal
        number = self._subject_numbers.setdefault(sid, len(self._subject_numbers))
        journal.n_subjects = len(self._subject_numbers)
        journal.indexes.append(index)
        journal.subjects.append(number)
        journal.choices.append(choice)
        journal.times_ms.append(time_ms)
        journal.until_ms.append(until_ms)
        journal.forms.append(form)
        journal.notices.append(notice)

    def _shared_of(self, record: Record) -> tuple[int, int, int]:
        # Forms are remembered by the reader that gives them out: the same object, the same answer.
        # The record is kept beside the answer, so that its address is not given to another.
        known = self._shared.get(id(record))
        if known is None:
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()
            known = (record, *self._read_shared(record))
            self._shared[id(record)] = known
        return known[1:]

    def _read_shared(self, record: Record) -> tuple[int, int, int]:
        form = Form(
            legal_basis=str(record["legal_basis"]),
            jurisdiction=str(record["jurisdiction"]),
            method=str(record["method"]),
            minor=record["minor"] is True,
        )
        if form not in self._form_numbers:
            self._form_numbers[form] = len(self.journal.form_list)
            self.journal.form_list.append(form)
        notice = record["notice"]
        digest = str(notice["sha256"]) if isinstance(notice, dict) else ""
        if digest not in self._notice_numbers:
            self._notice_numbers[digest] = len(self.journal.notice_digests)
            self.journal.notice_digests.append(digest)
        choice = _choice_of(record, form.method)
        return int(choice), self._form_numbers[form], self._notice_numbers[digest]


def _choice_of(record: Record, method: str) -> Choice:
    purposes = record["purposes"]
    if record["state"] == _WITHDRAWN:
        return Choice.ERASED if method == ERASURE else Choice.WITHDRAWN
    granted = (
        record["state"] == CONSENT_GIVEN
        and isinstance(purposes, dict)
        and purposes.get(FEDERATED_TRAINING) is True
    )
    return Choice.GIVEN if granted else Choice.REFUSED
