"""Steps 2 to 4, in one pass over a log: its tree, its entries, its consent chains."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from common import canonical_json
from common.audit.merkle import MerkleAccumulator, leaf_hash
from common.audit.verify.access_schemas import ACCESS_ROLES
from common.audit.verify.checkpoints import NEWEST, CheckpointReader, SignedCheckpoint
from common.audit.verify.consents import ConsentFacts, consent_facts
from common.audit.verify.cosigned import CosignedSizes, SettledEntries
from common.audit.verify.entry_reading import GoodConsent, read_entries
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.key_ring import KeyRing
from common.audit.verify.records import check_record, own_time_ms
from common.audit.verify.replay import SERVER, Entry, LogReplay
from common.audit.verify.tiles import ENTRIES_PER_TILE, log_folder, tile_name
from common.audit.verify.verdict import LOGS, RECORDS, SUBJECTS, Findings
from common.envelope import Envelope
from common.errors import FedprefError, FormatError, InputError, VerificationError

# Which kinds stand in whose log, and the role of the key that signs each there.
REGION_ROLES: Mapping[str, str] = {
    "keys-digest": "trainer",
    "notice": "controller",
    "policy": "controller",
    "consent": "consent",
    "permit": "permit",
    "query": "permit",
    "answer": "trainer",
    "charge": "trainer",
    "round": "trainer",
    "release": "trainer",
    "mask": "trainer",
    "unmask": "trainer",
    "incident": "trainer",
    **ACCESS_ROLES,
}
SERVER_ROLES: Mapping[str, str] = {
    "keys-digest": "aggregator",
    "aggregate": "aggregator",
    "model": "aggregator",
    "answers": "aggregator",
    "incident": "aggregator",
}

# The field that says whose record it is, where it must be the log's party.
_OWNER = {"incident": "party"} | dict.fromkeys(
    {"policy", "permit", "query", "charge", "round", "release", "mask", "unmask", "answer"}
    | ACCESS_ROLES.keys(),
    "region",
)
#: Up to here a log is read without asking how many files it has.
_SIZE_WITHOUT_QUESTION = 1 << 18
# A query is a permit too: no id may stand for one of each.
_UNIQUE_IDS = {"charge": "charge_id", "permit": "permit_id", "query": "permit_id"}


def replay_log(
    folder: BundleFolder,
    party: str,
    federation: str,
    ring: KeyRing,
    created_ms: int,
    findings: Findings,
    replayer: type[LogReplayer] | None = None,
) -> LogReplay:
    """Verifies one party's log; faults are recorded, and entries that do not hold left out.

    Args:
        folder: The bundle.
        party: Whose log.
        federation: The federation's name; it begins the log's origin.
        ring: The verified registry.
        created_ms: When the bundle was written, in milliseconds since the epoch.
        findings: Where failures go.
        replayer: Another way to read it than whole, for logs of which only a part is there.
    """
    log = LogReplay(party, f"{federation}/{party}")
    reader = CheckpointReader(folder, party, log.origin, ring, findings)
    newest = reader.newest()
    if newest is None:
        return log
    log.size = newest.checkpoint.size
    if not _may_hold(folder, party, log.size):
        findings.fail(
            LOGS,
            "entries-unreadable",
            f"The log of {party} has {log.size} entries by its checkpoint, far more than are here.",
            party=party,
            file=f"{log_folder(party)}/{NEWEST}",
        )
        log.size = 0
        return log
    (replayer or LogReplayer)(log, reader.all(newest), ring, created_ms, findings).replay(folder)
    return log


def _may_hold(folder: BundleFolder, party: str, size: int) -> bool:
    """Whether a log of this size may be read entry by entry: its files must be about as many.

    Whoever signs a checkpoint may state any size. Some missing files are found and named one by
    one; a size beyond all that is here would only keep the reader busy.
    """
    if size <= _SIZE_WITHOUT_QUESTION:
        return True
    files, _ = folder.names()
    here = sum(name.startswith(f"{log_folder(party)}/") for name in files)
    return size <= _SIZE_WITHOUT_QUESTION + here * ENTRIES_PER_TILE


class LogReplayer:
    """One pass over all entries of a log."""

    def __init__(
        self,
        log: LogReplay,
        checkpoints: Mapping[int, list[SignedCheckpoint]],
        ring: KeyRing,
        created_ms: int,
        findings: Findings,
    ) -> None:
        self._log = log
        self._checkpoints = checkpoints
        self._ring = ring
        self._created_ms = created_ms
        self._findings = findings
        self._roles = SERVER_ROLES if log.party == SERVER else REGION_ROLES
        self._tree = MerkleAccumulator()
        claimed = CosignedSizes()
        for size, notes in checkpoints.items():
            for signed in notes:
                claimed.add(size, signed.cosignatures)
        # A claim that the tree then refutes is a failure of its own.
        self._settled = SettledEntries(claimed, ring.quorum_at)
        self._notices: dict[str, str] = {}
        self._ids: set[tuple[str, str]] = set()
        # The latest time of any entry so far, and of any but a consent. A clock set back does not
        # make an entry older than those before it.
        self._quick_records = 0
        self._latest_ms: int | None = None
        self._latest_own_ms: int | None = None

    def replay(self, folder: BundleFolder) -> None:
        """Reads the entries; faults are recorded, and entries that do not hold left out."""
        self._compare_roots(self._tree.size, self._tree.root())
        try:
            for file, first, entries in read_entries(
                folder, self._log.party, self._log.size, self._consent_keys()
            ):
                for index, entry in enumerate(entries, start=first):
                    if isinstance(entry, GoodConsent):
                        self._tree.append(entry.leaf)
                        self._take_consent(index, entry, file)
                    else:
                        leaf = leaf_hash(entry)
                        self._tree.append(leaf)
                        self._read_entry(index, entry, leaf, file)
                    if index + 1 in self._checkpoints:
                        self._compare_roots(self._tree.size, self._tree.root())
        except InputError as error:
            next_index = self._tree.size
            file = tile_name(self._log.party, next_index, self._log.size)
            self._fail(LOGS, "entries-unreadable", error.message, index=next_index, file=file)
        self._findings.count(RECORDS, "records", self._quick_records)
        for index in self._log.consents.duplicate_ids():
            self._fail(RECORDS, "record-id", "Its record id is an earlier one's.", index=index)
        self._findings.count(LOGS, "entries", self._tree.size)
        self._findings.count(SUBJECTS, "consents", self._log.consents.records)
        self._findings.count(SUBJECTS, "subjects", self._log.consents.subjects)

    def _fail(
        self, step: int, code: str, message: str, *, index: int | None, file: str | None = None
    ) -> None:
        self._findings.fail(step, code, message, party=self._log.party, index=index, file=file)

    def _compare_roots(self, size: int, root: bytes) -> None:
        """Compares the root of a size with every checkpoint of it."""
        for signed in self._checkpoints.get(size, ()):
            if root != signed.checkpoint.root:
                held = self._held(size, signed)
                self._fail(
                    LOGS,
                    "tree-root" if signed.witness is None else "split-view",
                    f"{signed.file} is signed for another history: from entry {held} to entry "
                    f"{size - 1}, at least one was changed, inserted, removed or reordered.",
                    index=None,
                    file=signed.file,
                )
            elif not signed.signed_in_time(self._latest_own_ms, self._created_ms, self._settled):
                self._fail(
                    LOGS,
                    "checkpoint-key",
                    f"{signed.file} is signed with a key that was not valid after its last entry.",
                    index=None,
                    file=signed.file,
                )
            else:
                self._log.cosigned.add(size, signed.cosignatures)
                self._log.roots[size] = signed.checkpoint.root.hex()
                self._log.times_ms[size] = self._latest_ms or 0

    def _read_entry(self, index: int, data: bytes, leaf: bytes, file: str) -> None:
        """Admits an entry, or records why not."""
        try:
            envelope = Envelope.decode(data)
            kind, record, own_ms = self._verified_record(index, data, envelope)
            self._check_unique(kind, record)
        except FedprefError as error:
            self._fail(RECORDS, "record", error.message, index=index, file=file)
            return
        self._findings.count(RECORDS, "records")
        after_ms = self._latest_ms or 0
        if kind in ("keys", "keys-digest"):
            whole = hashlib.sha256(data).hexdigest()
            named = whole if kind == "keys" else str(record["sha256"])
            self._log.quorums.append((index, self._ring.quorum_of(named)))
        if own_ms is not None:
            self._latest_ms = max(own_ms, self._latest_ms or own_ms)
            if kind != "consent":
                # Consents come from other clocks: these alone must not revoke anyone's key.
                self._latest_own_ms = max(own_ms, self._latest_own_ms or own_ms)
        if kind == "consent":
            digest = hashlib.sha256(data).digest()
            self._apply_consent(index, consent_facts(record), digest, file)
            return
        if kind == "notice":
            self._notices[hashlib.sha256(data).hexdigest()] = str(record["notice_id"])
            self._log.consents.apply_notice(index, record)
        signers = tuple(signature.key_id for signature in envelope.signatures)
        self._log.entries.append(
            Entry(self._log.party, index, leaf.hex(), kind, record, after_ms, signers)
        )

    def _held(self, size: int, signed: SignedCheckpoint) -> int:
        """Up to which smaller size the same signer's checkpoints hold."""
        seen = {other for other, party, _ in self._log.cosigned if party == signed.witness}
        held = self._log.roots.keys() if signed.witness is None else seen
        return max((other for other in held if other < size), default=0)

    def _consent_keys(self) -> dict[str, bytes]:
        """The keys that may sign consents in this log; their times are judged in order."""
        if self._roles.get("consent") is None:
            return {}
        keys = self._ring.keys_of("consent", self._log.party)
        return {key.key_id: key.public_key for key in keys}

    def _take_consent(self, index: int, consent: GoodConsent, file: str) -> None:
        """Admits a consent that was read quickly, as `_read_entry` would, or records why not."""
        try:
            self._ring.check_time(
                consent.key_id,
                own_ms=consent.signed_ms,
                order_ms=self._latest_own_ms,
                settled=self._settled,
                index=index,
            )
        except VerificationError as error:
            self._fail(RECORDS, "record", error.message, index=index, file=file)
            return
        self._quick_records += 1
        if self._latest_ms is None or consent.signed_ms > self._latest_ms:
            self._latest_ms = consent.signed_ms
        self._apply_consent(index, consent.facts, consent.digest, file)

    def _verified_record(
        self, index: int, data: bytes, envelope: Envelope
    ) -> tuple[str, Record, int | None]:
        """An entry's kind, its record and the time that it states, if it states one."""
        kind = envelope.kind
        if kind == "keys":
            # The registry's own step has verified its versions; here the same bytes must stand.
            if hashlib.sha256(data).digest() not in self._ring.versions:
                raise VerificationError("It is a key registry that is not in the bundle.")
            return kind, envelope.record(), None
        role = self._roles.get(kind)
        if role is None:
            raise FormatError(f"A {kind} record does not belong in the log of {self._log.party}.")
        record = envelope.record()
        check_record(kind, record)
        own_ms = own_time_ms(kind, record)
        self._ring.check_signatures(
            envelope,
            party=self._log.party,
            role=role,
            own_ms=own_ms,
            order_ms=self._latest_own_ms,
            settled=self._settled,
            index=index,
        )
        self._check_owner(kind, record)
        if kind == "keys-digest" and bytes.fromhex(str(record["sha256"])) not in (
            self._ring.versions
        ):
            raise VerificationError("It is the digest of no key registry in the bundle.")
        return kind, record, own_ms

    def _check_owner(self, kind: str, record: Record) -> None:
        owner = _OWNER.get(kind)
        if owner is not None and record[owner] != self._log.party:
            raise VerificationError(f"It is a record of {record[owner]}.")
        if kind == "policy":
            digest = hashlib.sha256(canonical_json.encode(record["policy"])).hexdigest()
            if digest != record["policy_sha256"]:
                raise VerificationError("Its policy has another digest than it states.")

    def _check_unique(self, kind: str, record: Record) -> None:
        name = _UNIQUE_IDS.get(kind)
        if name is None:
            return
        identity = (name, str(record[name]))
        if identity in self._ids:
            raise VerificationError(f"Its {name} is an earlier entry's.")
        self._ids.add(identity)

    def _apply_consent(self, index: int, facts: ConsentFacts, digest: bytes, file: str) -> None:
        if self._notices.get(facts.notice) != facts.notice_id:
            self._fail(
                SUBJECTS,
                "notice-unknown",
                "The notice it names was not logged before it.",
                index=index,
                file=file,
            )
        try:
            self._log.consents.apply(index, facts, digest)
        except VerificationError as error:
            self._fail(SUBJECTS, "consent-chain", error.message, index=index, file=file)
