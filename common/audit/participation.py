"""One customer in a verified bundle: their records, and what they were in or not, and why.

That is the region's rounds, and its answers to queries: for both the log says which customers'
consents they rest on, and what these had to consent to.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum

from common.audit.customer_key import CustomerKey
from common.audit.membership import CheckedMembership, MembershipProof, What, check_membership
from common.audit.sparse_merkle import SparseMerkleTree, SparseProof, position
from common.audit.verified_bundle import VerifiedBundle
from common.audit.verify.fields import Record
from common.audit.verify.records import CONSENT_PURPOSES, FEDERATED_TRAINING
from common.audit.verify.replay import Entry, LogReplay
from common.envelope import Envelope
from common.errors import InputError, VerificationError
from common.timestamps import parse_time

_ERASURE = "erasure"


class Standing(Enum):
    """Whether a customer's consent was in force for something, and if not, why not."""

    CONSENTED = "consented"
    NO_RECORD = "no-consent-yet"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    ERASED = "erased"
    NOT_FOR_TRAINING = "not-for-training"
    NOT_FOR_PURPOSE = "not-for-purpose"
    EXPIRED = "expired"
    NOTICE_LAPSED = "notice-lapsed"


@dataclass(frozen=True)
class CustomerRecord:
    """One consent record of the customer, as the log has it.

    Attributes:
        index: Its index in the log.
        record: Its fields.
    """

    index: int
    record: Record

    @property
    def erases(self) -> bool:
        """Whether it is the withdrawal that an erasure leaves behind."""
        return self.record["method"] == _ERASURE


@dataclass(frozen=True)
class EntryStanding:
    """A round of the region, or an answer to a query, and where the customer stood.

    Attributes:
        entry: The region's entry.
        purposes: What customers had to consent to.
        standing: Whether they had consented then.
        nonce: The entry's nonce.
        way: The way through the entry's tree that shows their presence or absence.
    """

    entry: Entry
    purposes: tuple[str, ...]
    standing: Standing
    nonce: str
    way: SparseProof

    @property
    def member(self) -> bool:
        """Whether they were in it."""
        return self.standing is Standing.CONSENTED

    @property
    def consent_size(self) -> int:
        """How many log entries it took consents from."""
        return _size(self.entry)


class Participation:
    """One customer's part in a verified bundle.

    Args:
        bundle: The bundle.
        region: The region whose customer it is.
        sid: The customer's pseudonym, 64 hex digits.

    Attributes:
        records: The customer's consent records, in the log's order.

    Raises:
        InputError: The bundle lacks the region's log.
    """

    def __init__(self, bundle: VerifiedBundle, region: str, sid: str) -> None:
        self.bundle = bundle
        self.region = region
        self.sid = sid
        self.replay: LogReplay = bundle.replay(region)
        self.records = list(self._find_records())

    def _find_records(self) -> Iterator[CustomerRecord]:
        """The customer's records, found without decoding what may be a million others."""
        needles = _base64_needles(f'"sid":"{self.sid}"'.encode())
        for index, data in self.bundle.entries(self.region):
            if any(needle in data for needle in needles):
                envelope = Envelope.decode(data)
                record = envelope.record()
                if envelope.kind == "consent" and record["sid"] == self.sid:
                    yield CustomerRecord(index, record)

    def rounds(self, run: str | None = None) -> Iterator[EntryStanding]:
        """Each round entry of the region's log in its order, of one run or of all.

        Raises:
            VerificationError: A round is bound to another set of customers than the log's records
                give; a verified bundle has no such round.
        """
        for entry in self.replay.of_kind("round"):
            if run in (None, entry.record["run"]):
                yield self._judge(entry, entry.part("train"), self._asked_by_round(entry))

    def answers(self) -> Iterator[EntryStanding]:
        """Each answer to a query that the region's log has, in its order.

        An answer whose query the bundle lacks is left out: nothing says what it asked consent for.

        Raises:
            VerificationError: As in `rounds`.
        """
        queries = {each.text("permit_id"): each for each in self.replay.of_kind("query")}
        for entry in self.replay.of_kind("answer"):
            query = queries.get(entry.text("permit_id"))
            if query is not None:
                consented = query.record["consented"]
                purposes = tuple(map(str, consented if isinstance(consented, list) else ()))
                yield self._judge(entry, entry.part("included"), purposes)

    def prove(self, standing: EntryStanding) -> CheckedMembership:
        """The proof of presence or absence, checked as anyone else would."""
        region, entry = self.region, standing.entry
        what: What = "answer" if entry.kind == "answer" else "round"
        log_proof, _ = self.bundle.prove(region, entry.index, kind=what)
        proof = MembershipProof(
            what=what,
            entry=self.bundle.entry(region, entry.index),
            log_proof=log_proof,
            kind="member" if standing.member else "absent",
            way=standing.way,
            sid=self.sid,
            nonce=standing.nonce,
        )
        return check_membership(proof, self.bundle.keys)

    def _asked_by_round(self, entry: Entry) -> tuple[str, ...]:
        """What a round needs consent for: the purpose of its permit."""
        for permit in self.replay.of_kind("permit"):
            if permit.record["permit_id"] == entry.record["permit_id"]:
                stated = permit.text("purpose")
                return (stated,) if stated in CONSENT_PURPOSES else (FEDERATED_TRAINING,)
        return (FEDERATED_TRAINING,)

    def _judge(self, entry: Entry, bound: Record, purposes: tuple[str, ...]) -> EntryStanding:
        """Where the customer stood in an entry that is bound to a set of customers."""
        size, at_ms = _size(entry), parse_time(str(bound["at"]))
        nonce = str(bound["nonce"])
        grace_ms = self._grace_ms(size)
        tree = SparseMerkleTree(
            position(bytes.fromhex(nonce), sid)
            for sid in self.replay.consents.eligible(size, at_ms, grace_ms, purposes)
        )
        wanted = position(bytes.fromhex(nonce), bytes.fromhex(self.sid))
        way = tree.prove(wanted)
        standing = self._standing(size, at_ms, grace_ms, purposes)
        present = way.leaf == wanted
        if tree.root.hex() != bound["root"] or present != (standing is Standing.CONSENTED):
            raise VerificationError(
                f"The {entry.kind} in log {entry.party}, entry {entry.index} is bound to other "
                "customers than the records before it give."
            )
        return EntryStanding(entry, purposes, standing, nonce, way)

    def _grace_ms(self, size: int) -> int:
        """For how long consents to a superseded notice lasted, by the policy in force."""
        grace_s = 0
        for entry in self.replay.of_kind("policy"):
            stated = entry.part("policy").get("notice_grace_s")
            if entry.index < size and isinstance(stated, int):
                grace_s = stated
        return grace_s * 1000

    def _standing(
        self, size: int, at_ms: int, grace_ms: int, purposes: Collection[str]
    ) -> Standing:
        known = [record for record in self.records if record.index < size]
        if not known:
            return Standing.NO_RECORD
        newest = known[-1]
        record, state = newest.record, str(newest.record["state"])
        if state == "dpv:ConsentWithdrawn":
            return Standing.ERASED if newest.erases else Standing.WITHDRAWN
        if state == "dpv:ConsentRefused":
            return Standing.REFUSED
        if not grants(record, purposes):
            training = set(purposes) == {FEDERATED_TRAINING}
            return Standing.NOT_FOR_TRAINING if training else Standing.NOT_FOR_PURPOSE
        expires = record["expires"]
        if expires is not None and parse_time(str(expires)) <= at_ms:
            return Standing.EXPIRED
        if self._lapsed(record, size, at_ms - grace_ms):
            return Standing.NOTICE_LAPSED
        return Standing.CONSENTED

    def _lapsed(self, record: Record, size: int, until_ms: int) -> bool:
        """Whether a notice that supersedes a record's was in force by some time."""
        notice = record["notice"]
        named = notice["sha256"] if isinstance(notice, dict) else None
        return any(
            entry.index < size
            and entry.record["supersedes"] == named
            and entry.time_ms("in_force_from") <= until_ms
            for entry in self.replay.of_kind("notice")
        )


def grants(record: Record, purposes: Collection[str]) -> bool:
    """Whether a consent record grants all of some purposes, of which there is one at least."""
    given = record["purposes"]
    return (
        record["state"] == "dpv:ConsentGiven"
        and isinstance(given, dict)
        and len(purposes) > 0
        and all(given.get(each) is True for each in purposes)
    )


def participation_of(bundle: VerifiedBundle, key: CustomerKey) -> Participation:
    """The part of the customer whose key this is.

    Raises:
        InputError: The key is of another federation, or the bundle lacks its region's log.
    """
    if key.federation != bundle.evidence.federation:
        raise InputError(
            f"The customer key is of the federation {key.federation}; the bundle is of "
            f"{bundle.evidence.federation}.",
            remedy="Name a bundle of the customer's own federation.",
        )
    return Participation(bundle, key.region, key.sid)


def _size(entry: Entry) -> int:
    size = entry.part("consent")["size"]
    return size if isinstance(size, int) else 0


def _base64_needles(data: bytes) -> tuple[bytes, ...]:
    """What base64 of anything that holds these bytes must hold, at each of three alignments."""
    needles = []
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data)
        # The first and last characters may also encode bits of what stands around the bytes.
        first = -(-offset * 8 // 6)
        needles.append(encoded[first : (offset + len(data)) * 8 // 6])
    return tuple(needles)
