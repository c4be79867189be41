"""Ed25519 keys and signatures: which keys are sound, and what verifies.

The algorithm belongs to the key id; no message ever chooses it. Verification is libsodium's, with
one rule more: the key itself must be of prime order.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Protocol

from nacl import bindings
from nacl.exceptions import BadSignatureError

from common.errors import VerificationError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class Signer(Protocol):
    """One Ed25519 signing key, wherever it is kept: a file, a KMS, a PKCS#11 token."""

    @property
    def key_id(self) -> str:
        """The key's id (see `key_id`)."""

    @property
    def public_key(self) -> bytes:
        """The public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Signs a message.

        Returns:
            The 64 bytes of the Ed25519 signature (RFC 8032, not pre-hashed).
        """


def key_id(public_key: bytes) -> str:
    """The id of a key: ``SHA256("fedpref-key/1" ‖ public key)`` in lower-case hex."""
    return hashlib.sha256(b"fedpref-key/1" + public_key).hexdigest()


def check_public_key(public_key: bytes) -> None:
    """Refuses a public key that does not stand for exactly one secret key.

    With a small-order key one signature verifies for many messages; with a mixed-order key two
    correct verifiers can disagree; a second encoding of a point gives one key two ids.

    Raises:
        VerificationError: The key is not the canonical encoding of a point of the prime-order
            group other than the identity.
    """
    if not _is_sound(public_key):
        raise VerificationError(
            f"The public key {public_key.hex()[:64]} is not a sound Ed25519 key.",
            remedy="Enrol a key made by fedpref or by a standard tool.",
        )


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is valid for a message under a sound key.

    Formal guarantees: refuses every case of ed25519-speccheck (0 of 12 accepted). libsodium
    refuses S ≥ L, small-order or non-canonical R, small-order or non-canonical A, and compares R
    without the cofactor; since A is required to be of prime order, so is every R that passes.

    Args:
        public_key: 32 bytes.
        message: What was signed.
        signature: 64 bytes.
    """
    # libsodium splits signature and message by length: a short signature would borrow from it.
    if len(signature) != SIGNATURE_BYTES or not _is_sound(public_key):
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


@lru_cache(maxsize=4096)
def _is_sound(public_key: bytes) -> bool:
    # Costs as much as a verification, and a federation has few keys: hence the cache.
    return len(public_key) == PUBLIC_KEY_BYTES and bool(
        bindings.crypto_core_ed25519_is_valid_point(public_key)
    )
