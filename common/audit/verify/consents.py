"""Step 4: the consent records of one log, replayed subject by subject."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from common.audit.verify.fields import Record
from common.audit.verify.records import CONSENT_GIVEN, FEDERATED_TRAINING
from common.errors import VerificationError
from common.timestamps import parse_time

_NEVER = 0
_FOREVER = 2**62
_CROCKFORD = str.maketrans("0123456789ABCDEFGHJKMNPQRSTVWXYZ", "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Superseded:
    """That the notice at a log index supersedes another, and from when."""

    index: int
    notice: int
    in_force_ms: int


class ConsentHistory:
    """Who had consented to federated training, at every size of one log.

    A million records are held in about 250 bytes each: a journal of (log index, subject, notice,
    until when consent lasts) and each subject's newest sequence number and envelope digest.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._sids: list[bytes] = []
        self._seqs = array("Q")
        self._digests = bytearray()
        self._indexes = array("Q")
        self._subjects = array("I")
        self._until = array("q")
        self._notices = array("I")
        self._notice_numbers: dict[str, int] = {}
        self._superseded: list[_Superseded] = []
        self._record_ids = bytearray()

    @property
    def records(self) -> int:
        """How many consent records were accepted."""
        return len(self._indexes)

    @property
    def subjects(self) -> int:
        """How many subjects they are of."""
        return len(self._sids)

    def apply_notice(self, index: int, record: Record) -> None:
        """Takes the next notice of the log: consents to the one it supersedes will lapse."""
        older = record["supersedes"]
        if older is not None:
            in_force_ms = parse_time(str(record["in_force_from"]))
            self._superseded.append(_Superseded(index, self._notice(str(older)), in_force_ms))

    def _notice(self, digest: str) -> int:
        return self._notice_numbers.setdefault(digest, len(self._notice_numbers))

    def apply(self, index: int, record: Record, digest: bytes) -> None:
        """Takes the next record of the log.

        Args:
            index: Its index in the log.
            record: A consent record whose fields were checked.
            digest: SHA-256 of its envelope.

        Raises:
            VerificationError: It does not continue its subject's chain; it is left out.
        """
        sid = bytes.fromhex(str(record["sid"]))
        number = self._numbers.get(sid)
        if number is None:
            last_seq, last_digest = 0, None
        else:
            last_seq = self._seqs[number]
            last_digest = self._digests[32 * number : 32 * number + 32].hex()
        if record["seq"] != last_seq + 1:
            raise VerificationError(
                f"It is record {record['seq']} of its subject, where {last_seq + 1} should follow: "
                "a record was replayed, left out or reordered."
            )
        if record["prev"] != last_digest:
            raise VerificationError("It does not name the digest of its subject's last record.")
        if number is None:
            number = self._numbers[sid] = len(self._sids)
            self._sids.append(sid)
            self._seqs.append(1)
            self._digests += digest
        else:
            self._seqs[number] = last_seq + 1
            self._digests[32 * number : 32 * number + 32] = digest
        self._indexes.append(index)
        self._subjects.append(number)
        self._until.append(_granted_until(record))
        notice = record["notice"]
        self._notices.append(
            self._notice(str(notice["sha256"]) if isinstance(notice, dict) else "")
        )
        ulid = int(str(record["record_id"]).translate(_CROCKFORD), 32)
        self._record_ids += ulid.to_bytes(_ID_BYTES, "big")

    def eligible(self, size: int, at_ms: int, grace_ms: int) -> Iterator[bytes]:
        """The subjects whose consent is in force.

        Args:
            size: Only the log's first ``size`` entries count.
            at_ms: The time at which expiry and notices are judged, in milliseconds since the epoch.
            grace_ms: For how long consents stay in force after a notice that supersedes theirs
                came into force.

        Returns:
            The subjects' pseudonyms, 32 bytes each.
        """
        until = array("q", bytes(8 * len(self._sids)))
        stop = bisect_left(self._indexes, size)
        lapsed = {
            each.notice
            for each in self._superseded
            if each.index < size and each.in_force_ms + grace_ms <= at_ms
        }
        if lapsed:
            for position in range(stop):
                old = self._notices[position] in lapsed
                until[self._subjects[position]] = _NEVER if old else self._until[position]
        else:
            for position in range(stop):
                until[self._subjects[position]] = self._until[position]
        return (sid for sid, last in zip(self._sids, until, strict=True) if last > at_ms)

    def ended(self, start: int, stop: int, at_ms: int) -> Iterator[tuple[int, bytes]]:
        """The records of a part of the log that end a consent: their indexes and subjects.

        Args:
            start: The first log index.
            stop: One past the last.
            at_ms: The time at which expiry is judged.
        """
        for position in range(bisect_left(self._indexes, start), bisect_left(self._indexes, stop)):
            if self._until[position] <= at_ms:
                yield self._indexes[position], self._sids[self._subjects[position]]

    def duplicate_ids(self) -> list[int]:
        """The log indices of records whose id an earlier record has."""
        ids = [
            bytes(self._record_ids[start : start + _ID_BYTES])
            for start in range(0, len(self._record_ids), _ID_BYTES)
        ]
        # Sorted once at the end: a set of ids kept all along would cost more than all else here.
        order = sorted(range(len(ids)), key=ids.__getitem__)
        return sorted(
            self._indexes[second] for first, second in pairwise(order) if ids[first] == ids[second]
        )


def _granted_until(record: Record) -> int:
    purposes = record["purposes"]
    granted = (
        record["state"] == CONSENT_GIVEN
        and isinstance(purposes, dict)
        and purposes.get(FEDERATED_TRAINING) is True
    )
    if not granted:
        return _NEVER
    expires = record["expires"]
    return _FOREVER if expires is None else parse_time(str(expires))
