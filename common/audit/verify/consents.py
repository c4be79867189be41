"""Step 4: the consent records of one log, replayed subject by subject."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from common.audit.verify.fields import Record
from common.audit.verify.numbered_keys import NumberedKeys
from common.audit.verify.records import (
    CONSENT_GIVEN,
    CONSENT_PURPOSES,
    FEDERATED_TRAINING,
    IMPORTED,
)
from common.errors import VerificationError
from common.timestamps import parse_time

_NEVER = 0
_FOREVER = 2**62
_CROCKFORD = str.maketrans("0123456789ABCDEFGHJKMNPQRSTVWXYZ", "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_ID_BYTES = 16
_SID_BYTES = 32
_BITS = {name: 1 << number for number, name in enumerate(CONSENT_PURPOSES)}
_TRAINING = _BITS[FEDERATED_TRAINING]


@dataclass(frozen=True, slots=True)
class _Superseded:
    """That the notice at a log index supersedes another, and from when."""

    index: int
    notice: int
    in_force_ms: int


class ConsentFacts(NamedTuple):
    """What the replay needs of one consent record.

    Attributes:
        sid: The subject's pseudonym, 32 bytes.
        seq: The number within the subject's records.
        prev: The digest of the subject's previous envelope, 32 bytes; None for the first.
        granted: To which of `CONSENT_PURPOSES` it consents, as bits; 0 for a refusal.
        until_ms: Until when that lasts, in milliseconds since the epoch.
        notice_id: The id of the notice that was shown.
        notice: The digest of that notice's envelope, in hex.
        record_id: The record's ULID, 16 bytes.
        event_ms: When the customer chose, as the record says, in milliseconds since the epoch.
        imported: Whether it was taken over from elsewhere, with the time it had there.
    """

    sid: bytes
    seq: int
    prev: bytes | None
    granted: int
    until_ms: int
    notice_id: str
    notice: str
    record_id: bytes
    event_ms: int
    imported: bool


def consent_facts(record: Record) -> ConsentFacts:
    """Takes the facts out of a consent record whose fields were checked."""
    prev, notice, seq = record["prev"], record["notice"], record["seq"]
    expires = record["expires"]
    return ConsentFacts(
        sid=bytes.fromhex(str(record["sid"])),
        seq=seq if isinstance(seq, int) else 0,
        prev=None if prev is None else bytes.fromhex(str(prev)),
        granted=granted(record),
        until_ms=until(None if expires is None else parse_time(str(expires))),
        notice_id=str(notice["id"]) if isinstance(notice, dict) else "",
        notice=str(notice["sha256"]) if isinstance(notice, dict) else "",
        record_id=ulid_bytes(str(record["record_id"])),
        event_ms=parse_time(str(record["event_time"])),
        imported=record["method"] == IMPORTED,
    )


def granted(record: Record) -> int:
    """To which of `CONSENT_PURPOSES` a record consents, as bits; 0 if it gives no consent."""
    purposes = record["purposes"]
    if record["state"] != CONSENT_GIVEN or not isinstance(purposes, dict):
        return 0
    return sum(bit for name, bit in _BITS.items() if purposes.get(name) is True)


def until(expires_ms: int | None) -> int:
    """Until when a consent lasts, in milliseconds since the epoch."""
    return _FOREVER if expires_ms is None else expires_ms


def ulid_bytes(ulid: str) -> bytes:
    """A ULID's 128 bits."""
    return int(ulid.translate(_CROCKFORD), 32).to_bytes(_ID_BYTES, "big")


class ConsentHistory:
    """Who had consented to what, at every size of one log.

    A million records are held in about 120 bytes each: a journal of (log index, subject, notice,
    purposes, until when consent lasts) and each subject's newest sequence number and envelope
    digest.
    """

    def __init__(self) -> None:
        self._subjects_by_sid = NumberedKeys(_SID_BYTES)
        self._seqs = array("Q")
        # When each subject's newest record says they chose, in milliseconds since the epoch.
        self._chosen_ms = array("q")
        self._digests = bytearray()
        self._indexes = array("Q")
        self._subjects = array("I")
        self._until = array("q")
        self._granted = array("B")
        self._notices = array("I")
        self._notice_numbers: dict[str, int] = {}
        self._superseded: list[_Superseded] = []
        self._record_ids = NumberedKeys(_ID_BYTES)
        self._duplicate_ids: list[int] = []

    @property
    def records(self) -> int:
        """How many consent records were accepted."""
        return len(self._indexes)

    @property
    def subjects(self) -> int:
        """How many subjects they are of."""
        return len(self._subjects_by_sid)

    def apply_notice(self, index: int, record: Record) -> None:
        """Takes the next notice of the log: consents to the one it supersedes will lapse."""
        older = record["supersedes"]
        if older is not None:
            in_force_ms = parse_time(str(record["in_force_from"]))
            self._superseded.append(_Superseded(index, self._notice(str(older)), in_force_ms))

    def _notice(self, digest: str) -> int:
        return self._notice_numbers.setdefault(digest, len(self._notice_numbers))

    def apply(self, index: int, facts: ConsentFacts, digest: bytes) -> None:
        """Takes the next record of the log.

        Args:
            index: Its index in the log.
            facts: Those of a consent record whose fields were checked.
            digest: SHA-256 of its envelope.

        Raises:
            VerificationError: It does not continue its subject's chain; it is left out.
        """
        number = self._subjects_by_sid.find(facts.sid)
        last_seq, last_digest = 0, None
        if number is not None:
            last_seq = self._seqs[number]
            last_digest = bytes(self._digests[32 * number : 32 * number + 32])
        if facts.seq != last_seq + 1:
            raise VerificationError(
                f"It is record {facts.seq} of its subject, where {last_seq + 1} should follow: "
                "a record was replayed, left out or reordered."
            )
        if facts.prev != last_digest:
            raise VerificationError("It does not name the digest of its subject's last record.")
        if number is not None and facts.imported and facts.event_ms <= self._chosen_ms[number]:
            raise VerificationError("It was imported over a choice that is as new, or newer.")
        if number is None:
            number = self._subjects_by_sid.add(facts.sid)
            self._chosen_ms.append(facts.event_ms)
            self._seqs.append(1)
            self._digests += digest
        else:
            self._seqs[number] = facts.seq
            self._chosen_ms[number] = facts.event_ms
            self._digests[32 * number : 32 * number + 32] = digest
        self._indexes.append(index)
        self._subjects.append(number)
        self._until.append(facts.until_ms)
        self._granted.append(facts.granted)
        self._notices.append(self._notice(facts.notice))
        if self._record_ids.find(facts.record_id) is None:
            self._record_ids.add(facts.record_id)
        else:
            self._duplicate_ids.append(index)

    def eligible(
        self,
        size: int,
        at_ms: int,
        grace_ms: int,
        purposes: Collection[str] = (FEDERATED_TRAINING,),
    ) -> Iterator[bytes]:
        """The subjects whose consent is in force.

        Args:
            size: Only the log's first ``size`` entries count.
            at_ms: The time at which expiry and notices are judged, in milliseconds since the epoch.
            grace_ms: For how long consents stay in force after a notice that supersedes theirs
                came into force.
            purposes: What a subject must have consented to, all of it; of `CONSENT_PURPOSES`.

        Returns:
            The subjects' pseudonyms, 32 bytes each.
        """
        asked = 0
        for purpose in purposes:
            asked |= _BITS[purpose]
        lasts = array("q", bytes(8 * len(self._subjects_by_sid)))
        stop = bisect_left(self._indexes, size)
        lapsed = {
            each.notice
            for each in self._superseded
            if each.index < size and each.in_force_ms + grace_ms <= at_ms
        }
        granted, until_ms, subjects = self._granted, self._until, self._subjects
        for position in range(stop):
            given = granted[position] & asked == asked
            if given and lapsed:
                given = self._notices[position] not in lapsed
            lasts[subjects[position]] = until_ms[position] if given else _NEVER
        sids = self._subjects_by_sid
        return (sids[number] for number, last in enumerate(lasts) if last > at_ms)

    def ended(self, start: int, stop: int, at_ms: int) -> Iterator[tuple[int, bytes]]:
        """The records of a part of the log that end a consent to training: indexes and subjects.

        Args:
            start: The first log index.
            stop: One past the last.
            at_ms: The time at which expiry is judged.
        """
        for position in range(bisect_left(self._indexes, start), bisect_left(self._indexes, stop)):
            if not self._granted[position] & _TRAINING or self._until[position] <= at_ms:
                yield self._indexes[position], self._subjects_by_sid[self._subjects[position]]

    def duplicate_ids(self) -> list[int]:
        """The log indices of records whose id an earlier record has."""
        return list(self._duplicate_ids)
