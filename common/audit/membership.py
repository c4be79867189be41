"""Membership proofs: whether one customer was in one round, or in one answer to a query.

A proof stands alone: ``fedpref-membership/1`` of a round, ``fedpref-answer-membership/1`` of an
answer. It holds the region's entry with its place in the log, and one way through the compressed
sparse Merkle tree of the customers that the entry was bound to. It reveals nobody else: a way shows
hashes, and for an absent customer one position, which is a hash under the entry's nonce. Positions
of two entries cannot be linked without the pseudonym.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

from common import canonical_json
from common.audit.entry import MAX_ENTRY_BYTES
from common.audit.federation_keys import FederationKeys
from common.audit.logged_entry import LoggedEntry, verify_logged_entry
from common.audit.proof_file import MAX_PROOF_BYTES, LogProof, read_base64
from common.audit.sparse_merkle import (
    SparseProof,
    position,
    verify_absence,
    verify_membership,
)
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError, VerificationError
from common.validate import exact_fields, party, sha256_hex

Kind = Literal["member", "absent"]
#: What a customer was in or was not: the kind of the region's entry.
What = Literal["round", "answer"]

MAX_MEMBERSHIP_BYTES = 4 * (MAX_ENTRY_BYTES + MAX_PROOF_BYTES)
_FIELDS = frozenset({"log_proof", "membership", "sid", "nonce"})
_WAY_FIELDS = frozenset({"kind", "way"})
_HASH_BYTES = 32
_STEP_BYTES = 1 + _HASH_BYTES
_MAX_STEPS = 256
_MAX_WAY_BYTES = _HASH_BYTES + _MAX_STEPS * _STEP_BYTES


@dataclass(frozen=True)
class _Form:
    """How a proof says what it is about.

    Attributes:
        version: The proof file's version.
        field: Its field with the entry.
        bound_to: The entry's field that binds it to a set of customers.
    """

    version: str
    field: str
    bound_to: str


_FORMS: dict[What, _Form] = {
    "round": _Form("fedpref-membership/1", "round_entry", "train"),
    "answer": _Form("fedpref-answer-membership/1", "answer_entry", "included"),
}


def encode_way(proof: SparseProof) -> bytes:
    """A sparse Merkle proof in binary: the leaf, then a depth byte and a hash for each step.

    The empty tree, which has neither, is no bytes at all. At a million customers a proof has some
    750 bytes, and seldom more than 900.
    """
    if proof.leaf is None:
        return b""
    return proof.leaf + b"".join(bytes([depth]) + sibling for depth, sibling in proof.steps)


def decode_way(data: bytes) -> SparseProof:
    """Reads what `encode_way` gives.

    Raises:
        FormatError: It is of another length than a proof has.
    """
    if not data:
        return SparseProof(leaf=None, steps=())
    count, rest = divmod(len(data) - _HASH_BYTES, _STEP_BYTES)
    if rest or not 0 <= count <= _MAX_STEPS:
        raise FormatError(f"A way through a sparse Merkle tree has not {len(data)} bytes.")
    starts = range(_HASH_BYTES, len(data), _STEP_BYTES)
    steps = tuple((data[start], data[start + 1 : start + _STEP_BYTES]) for start in starts)
    return SparseProof(leaf=data[:_HASH_BYTES], steps=steps)


@dataclass(frozen=True)
class MembershipProof:
    """A proof file's content; ``encode`` and ``parse`` are each other's inverse.

    Attributes:
        what: What it is about.
        entry: The envelope of the region's entry of that kind.
        log_proof: That this entry is in the region's log.
        kind: What the proof shows of the customer.
        way: The way through the entry's tree.
        sid: The customer's pseudonym, 64 hex digits.
        nonce: The entry's nonce, 64 hex digits; the entry has the same.
    """

    what: What
    entry: bytes
    log_proof: LogProof
    kind: Kind
    way: SparseProof
    sid: str
    nonce: str

    def encode(self) -> bytes:
        """The proof file's only bytes."""
        record: dict[str, JsonValue] = {
            "v": _FORMS[self.what].version,
            _FORMS[self.what].field: base64.b64encode(self.entry).decode("ascii"),
            "log_proof": self.log_proof.encode().decode("utf-8"),
            "membership": {
                "kind": self.kind,
                "way": base64.b64encode(encode_way(self.way)).decode("ascii"),
            },
            "sid": self.sid,
            "nonce": self.nonce,
        }
        return canonical_json.encode(record, max_bytes=MAX_MEMBERSHIP_BYTES)

    @classmethod
    def parse(cls, data: bytes) -> MembershipProof:
        """Reads a proof file.

        Raises:
            FormatError: It is not of the exact form.
        """
        value = canonical_json.decode(data, max_bytes=MAX_MEMBERSHIP_BYTES)
        what = _about(value)
        field = _FORMS[what].field
        fields = exact_fields(value, {*_FIELDS, "v", field}, "The membership proof")
        way = exact_fields(fields["membership"], _WAY_FIELDS, "membership")
        log_proof = fields["log_proof"]
        if type(log_proof) is not str:
            raise FormatError("log_proof is not a text.")
        return cls(
            what=what,
            entry=read_base64(fields[field], field, max_bytes=MAX_ENTRY_BYTES),
            log_proof=LogProof.parse(log_proof.encode("utf-8")),
            kind=_read_kind(way["kind"]),
            way=decode_way(read_base64(way["way"], "membership.way", max_bytes=_MAX_WAY_BYTES)),
            sid=sha256_hex(fields["sid"], "sid"),
            nonce=sha256_hex(fields["nonce"], "nonce"),
        )


@dataclass(frozen=True)
class CheckedMembership:
    """A membership proof that holds.

    Attributes:
        proof: The proof.
        logged: The entry, proved to be in the region's log.
    """

    proof: MembershipProof
    logged: LoggedEntry

    @property
    def member(self) -> bool:
        """Whether the customer was in it."""
        return self.proof.kind == "member"


def check_membership(proof: MembershipProof, keys: FederationKeys) -> CheckedMembership:
    """Checks a membership proof by itself, against the federation's keys.

    Args:
        proof: The proof.
        keys: The federation's keys, verified from root keys that the reader trusts.

    Raises:
        FormatError: The entry or the checkpoint is malformed.
        VerificationError: A signature or proof does not hold, too few witnesses cosigned the
            checkpoint, or the tree's way does not show what the proof says.
    """
    region = _region(proof.entry)
    place = f"log {region}, entry {proof.log_proof.index}"
    try:
        logged = verify_logged_entry(
            proof.entry, proof.log_proof, keys, party=region, kind=proof.what
        )
        if not logged.witnessed:
            raise VerificationError(
                f"{len(logged.witnesses)} other parties cosigned its checkpoint; "
                f"{logged.quorum} must: someone else may be shown another log."
            )
        _check_way(proof, logged)
    except VerificationError as error:
        raise VerificationError(
            f"The membership proof does not hold ({place}): {error.message}", remedy=error.remedy
        ) from error
    return CheckedMembership(proof, logged)


def _check_way(proof: MembershipProof, logged: LoggedEntry) -> None:
    bound = logged.record[_FORMS[proof.what].bound_to]
    # The record's fields were checked; this is for the type.
    root, nonce = (bound["root"], bound["nonce"]) if isinstance(bound, dict) else (None, None)
    if nonce != proof.nonce:
        raise VerificationError(f"Its nonce is not the {proof.what}'s.")
    wanted = position(bytes.fromhex(proof.nonce), bytes.fromhex(proof.sid))
    verify = verify_membership if proof.kind == "member" else verify_absence
    verify(bytes.fromhex(str(root)), wanted, proof.way)


def _about(value: JsonValue) -> What:
    version = value.get("v") if isinstance(value, dict) else None
    for what, form in _FORMS.items():
        if version == form.version:
            return what
    known = ", ".join(form.version for form in _FORMS.values())
    raise FormatError(f"It is not a membership proof ({known}).")


def _region(entry: bytes) -> str:
    """Whose entry it claims to be; the signature then shows whether it is."""
    record = Envelope.decode(entry, max_bytes=MAX_ENTRY_BYTES).record()
    return party(record.get("region"), "region")


def _read_kind(value: JsonValue) -> Kind:
    if value == "member":
        return "member"
    if value == "absent":
        return "absent"
    raise FormatError("membership.kind is neither member nor absent.")
