"""One log entry with its proof, checked by itself: signer, log, witnesses, and when it counted.

Receipts and membership proofs rest on this. It needs the federation's key registry and nothing
else: no bundle, no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.audit.checkpoint import COSIGNATURE_V1, Checkpoint, NoteKey
from common.audit.entry import MAX_ENTRY_BYTES, SIGNING_ROLES
from common.audit.federation_keys import FederationKeys
from common.audit.merkle import leaf_hash, verify_inclusion
from common.audit.proof_file import LogProof, open_log_note
from common.audit.verify.fields import Record
from common.audit.verify.records import check_record, own_time_ms
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError, VerificationError
from common.key_entry import KeyEntry
from common.keys import Registry


@dataclass(frozen=True)
class LoggedEntry:
    """An entry that was proved to be in a party's log.

    Attributes:
        party: Whose log it is in.
        index: Its index there.
        leaf: Its leaf hash.
        record: Its record; fields, signature and the signer's role were checked.
        checkpoint: The log's head under which it was proved.
        witnesses: The other parties whose cosignature of that head counts, with its POSIX time.
        quorum: How many of these the federation asked for when the entry was made.
    """

    party: str
    index: int
    leaf: bytes
    record: Record
    checkpoint: Checkpoint
    witnesses: Mapping[str, int]
    quorum: int

    @property
    def place(self) -> str:
        """Where it is, as the verifier names places."""
        return f"log {self.party}, entry {self.index}"

    @property
    def witnessed(self) -> bool:
        """Whether enough other parties saw a log with this entry at this place."""
        return len(self.witnesses) >= self.quorum


def verify_logged_entry(
    data: bytes, proof: LogProof, keys: FederationKeys, *, party: str, kind: str
) -> LoggedEntry:
    """Verifies an entry of a party's log.

    Whether enough witnesses cosigned is left to the caller (``LoggedEntry.witnessed``); but a key
    that was revoked is believed only where enough did so before.

    Args:
        data: The entry's bytes.
        proof: Its proof.
        keys: The federation's keys.
        party: Whose log it must be in.
        kind: The kind of record it must be; one that states its own time.

    Raises:
        FormatError: The entry or the note is malformed, or the record is of another kind.
        VerificationError: A signature or the inclusion proof does not hold, or a key is another
            party's, of another role, or did not count then.
    """
    envelope = Envelope.decode(data, max_bytes=MAX_ENTRY_BYTES)
    if envelope.kind != kind:
        raise FormatError(f"The entry is a {envelope.kind} record, not a {kind}.")
    record = envelope.record()
    check_record(kind, record)
    own_ms = own_time_ms(kind, record)
    if own_ms is None:
        raise FormatError(f"A {kind} record does not say when it was made.")
    registry, quorum = keys.registry, keys.quorum_at(own_ms)
    origin = f"{registry.federation}/{party}"
    log_entries = {NoteKey(origin, key.public_key): key for key in registry.keys_of(party, "log")}
    if not log_entries:
        raise VerificationError(f"The key registry has no log key of {party}.")
    witness_entries = {
        NoteKey(key.party, key.public_key, COSIGNATURE_V1): key
        for key in registry.entries
        if key.role == "witness" and key.party != party
    }
    note = open_log_note(
        proof.checkpoint, log_keys=list(log_entries), witness_keys=list(witness_entries)
    )
    leaf = leaf_hash(data)
    verify_inclusion(leaf, proof.index, note.checkpoint.size, proof.hashes, note.checkpoint.root)
    witnesses = _counting({witness_entries[k]: at for k, at in note.cosigned_at_s.items()})
    seen_ms = _seen_ms(witnesses, quorum, own_ms)
    signers = _signers(envelope, registry, party, SIGNING_ROLES[kind])
    for key in signers:
        _check_time(key, own_ms, seen_ms)
    _check_any([log_entries[key] for key in note.log_keys], own_ms, seen_ms)
    return LoggedEntry(party, proof.index, leaf, record, note.checkpoint, witnesses, quorum)


def _counting(cosigned_at_s: Mapping[KeyEntry, int]) -> dict[str, int]:
    """The first cosignature of each witness that was made while its key counted, by party."""
    found: dict[str, int] = {}
    for key, time_s in cosigned_at_s.items():
        # The statement was made within the second that it names.
        first_ms, last_ms = time_s * 1000, time_s * 1000 + 999
        revoked = key.revoked_at_ms is not None and key.revoked_at_ms <= last_ms
        if key.not_before_ms <= last_ms and first_ms < key.not_after_ms and not revoked:
            found[key.party] = min(time_s, found.get(key.party, time_s))
    return found


def _seen_ms(witnesses: Mapping[str, int], quorum: int, own_ms: int) -> int | None:
    """When the entry came to be seen by enough others; what it says itself where none need."""
    if quorum == 0:
        return own_ms
    times = sorted(witnesses.values())
    return times[quorum - 1] * 1000 + 999 if len(times) >= quorum else None


def _signers(
    envelope: Envelope, registry: Registry, party: str, roles: Iterable[str]
) -> list[KeyEntry]:
    keys = {key.key_id: key for role in roles for key in registry.keys_of(party, role)}
    names = verify_envelope(
        envelope, {name: key.public_key for name, key in keys.items()}, threshold=1
    )
    return [keys[name] for name in names]


def _check_time(key: KeyEntry, own_ms: int, seen_ms: int | None) -> None:
    name = f"The {key.role} key {key.key_id[:12]}… of {key.party}"
    if not key.not_before_ms <= own_ms < key.not_after_ms:
        raise VerificationError(f"{name} was not valid when the entry was made.")
    if key.revoked_at_ms is not None and (seen_ms is None or seen_ms >= key.revoked_at_ms):
        raise VerificationError(
            f"{name} was revoked, and enough witnesses did not see the entry before.",
            remedy="Ask for a proof under the first checkpoint that they cosigned after it.",
        )


def _check_any(keys: Iterable[KeyEntry], own_ms: int, seen_ms: int | None) -> None:
    """A checkpoint may bear several keys' signatures during a rotation: one that counts is enough.

    It may have been signed long after the entry, hence with a key that is younger.
    """
    fault: VerificationError | None = None
    for key in keys:
        try:
            _check_time(key, max(own_ms, key.not_before_ms), seen_ms)
        except VerificationError as error:
            fault = error
        else:
            return
    if fault is not None:
        raise fault
