"""X25519 (RFC 7748) between two regions, with every degenerate case refused.

The primitive is `cryptography`'s. What it leaves open is closed here: whose key it is (signed
statements, `common.secure_aggregation.statement`), one encoding for each key, no key of small
order, and no agreement with oneself.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from common.errors import FormatError
from common.secure_aggregation.refusal import SecureSumRefusedError

KEY_BYTES = 32
_FIELD_PRIME = 2**255 - 19


@dataclass(frozen=True, repr=False)
class MaskingKey:
    """A region's secret key for one round. It is never printed.

    Attributes:
        private: 32 bytes.
    """

    private: bytes

    def __post_init__(self) -> None:
        if len(self.private) != KEY_BYTES:
            raise FormatError(f"A masking key has {KEY_BYTES} bytes.")

    @classmethod
    def generate(cls) -> MaskingKey:
        """A fresh key, from the system's cryptographic generator."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        key = X25519PrivateKey.from_private_bytes(self.private)
        return key.public_key().public_bytes_raw()


def shared_secret(own: MaskingKey, peer_public: bytes) -> bytes:
    """What two regions, and nobody else, can compute; to be put through a key schedule.

    Args:
        own: This region's key.
        peer_public: The other region's public key, 32 bytes.

    Raises:
        SecureSumRefusedError: The peer's key is this region's own (``key-reflected``), or not the
            one encoding of a point of large order (``key-weak``): the secret would be known to
            anyone who hands out such keys.
    """
    if peer_public == own.public:
        raise SecureSumRefusedError("key-reflected", "Another region is given this region's key.")
    if not is_canonical(peer_public):
        raise SecureSumRefusedError("key-weak", "A masking key has another encoding than its own.")
    try:
        secret = X25519PrivateKey.from_private_bytes(own.private).exchange(
            X25519PublicKey.from_public_bytes(peer_public)
        )
    except ValueError as error:
        # So OpenSSL answers an all-zero result, as RFC 7748, section 6.1, asks for.
        raise SecureSumRefusedError("key-weak", "A masking key is of small order.") from error
    if not any(secret):
        raise SecureSumRefusedError("key-weak", "A masking key is of small order.")
    return secret


def is_canonical(public: bytes) -> bool:
    """Whether bytes are the one encoding of a coordinate: 32 of them, below 2²⁵⁵ − 19."""
    return len(public) == KEY_BYTES and int.from_bytes(public, "little") < _FIELD_PRIME
