"""The shares that regions give each other: sealed to their holders, committed to before all.

A share travels through the coordinator, so it is encrypted for its holder alone (ChaCha20-Poly1305,
RFC 8439) under a key of the two regions for this execution and this direction, which encrypts once.
The owner signs the root of a Merkle tree over the digests of all the shares that it gave out. So a
holder knows at once if its share is not the one committed to, and a share that is given up later is
either the owner's or shown to be forged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import canonical_json
from common.audit.merkle import inclusion_proof, leaf_hash, root_hash, verify_inclusion
from common.double_masking.rosters import KeyRoster
from common.double_masking.shamir import SHARE_BYTES
from common.errors import VerificationError
from common.secure_aggregation import MaskingKey, SecureSumRefusedError, shared_secret

_SCHEDULE = "fedpref-share-encryption/1"
# A key of one message only, so its nonce may be fixed.
_NONCE = bytes(12)


@dataclass(frozen=True, repr=False)
class SharePair:
    """One holder's shares of one owner's two secrets. They are never printed.

    Attributes:
        key: Of the owner's masking key: given up if the owner is lost.
        seed: Of the owner's self-mask seed: given up if the owner's values are in the sum.
    """

    key: bytes
    seed: bytes

    @property
    def commitment(self) -> tuple[bytes, bytes]:
        """SHA-256 of each. A share has 521 random bits: its digest tells nothing of it."""
        return hashlib.sha256(self.key).digest(), hashlib.sha256(self.seed).digest()


@dataclass(frozen=True)
class Delivery:
    """What a holder gets of one owner.

    Attributes:
        statement: The owner's signed ``execution-shares``.
        proof: That the holder's commitment is under its root.
        ciphertext: The encrypted shares; None from the holder to itself.
    """

    statement: bytes
    proof: tuple[bytes, ...]
    ciphertext: bytes | None


def commitment_leaves(
    owner: str, roster: KeyRoster, pairs: dict[str, tuple[bytes, bytes]]
) -> list[bytes]:
    """Leaf hashes of the commitments to all holders' shares, in the roster's order."""
    return [_leaf(owner, holder, pairs[holder]) for holder in roster.regions]


def commitment_root(leaves: list[bytes]) -> str:
    """The root over them, in hex."""
    return root_hash(leaves).hex()


def commitment_proof(leaves: list[bytes], place: int) -> tuple[bytes, ...]:
    """That a place's commitment, from 1, is under the root."""
    return tuple(inclusion_proof(leaves, place - 1, len(leaves)))


def is_committed(
    pair: SharePair, owner: str, holder: str, roster: KeyRoster, proof: tuple[bytes, ...], root: str
) -> bool:
    """Whether the shares are those that the owner committed to."""
    try:
        verify_inclusion(
            _leaf(owner, holder, pair.commitment),
            roster.place(holder) - 1,
            len(roster.regions),
            list(proof),
            bytes.fromhex(root),
        )
    except VerificationError:
        return False
    return True


def encrypt(pair: SharePair, own: MaskingKey, owner: str, holder: str, roster: KeyRoster) -> bytes:
    """Shares for one holder's eyes."""
    info = _info(owner, holder, roster)
    cipher = ChaCha20Poly1305(_key(own, holder, roster, info))
    return cipher.encrypt(_NONCE, pair.key + pair.seed, info)


def decrypt(
    ciphertext: bytes, own: MaskingKey, owner: str, holder: str, roster: KeyRoster
) -> SharePair:
    """The shares that an owner encrypted for this holder in this execution.

    Raises:
        SecureSumRefusedError: ``share-corrupt``: they are not.
    """
    info = _info(owner, holder, roster)
    try:
        plain = ChaCha20Poly1305(_key(own, owner, roster, info)).decrypt(_NONCE, ciphertext, info)
    except InvalidTag as error:
        raise SecureSumRefusedError(
            "share-corrupt", f"What is given as {owner}'s shares was not encrypted by it for this."
        ) from error
    if len(plain) != 2 * SHARE_BYTES:
        raise SecureSumRefusedError("share-corrupt", f"The shares of {owner} are malformed.")
    return SharePair(plain[:SHARE_BYTES], plain[SHARE_BYTES:])


def _leaf(owner: str, holder: str, commitment: tuple[bytes, bytes]) -> bytes:
    return leaf_hash(
        canonical_json.encode(
            {
                "owner": owner,
                "holder": holder,
                "key": commitment[0].hex(),
                "seed": commitment[1].hex(),
            }
        )
    )


def _info(owner: str, holder: str, roster: KeyRoster) -> bytes:
    return canonical_json.encode(
        {"v": _SCHEDULE, "roster": roster.digest, "from": owner, "to": holder}
    )


def _key(own: MaskingKey, peer: str, roster: KeyRoster, info: bytes) -> bytes:
    secret = shared_secret(own, roster.key(peer, "sharing_key"))
    return HKDF(hashes.SHA256(), 32, _SCHEDULE.encode(), info).derive(secret)
