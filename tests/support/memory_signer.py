"""A signer whose key is made from a seed, for tests that need a key but no key file."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class MemorySigner:
    def __init__(self, seed: str) -> None:
        private = hashlib.sha256(b"test key of " + seed.encode()).digest()
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self.public_key = self._private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(b"fedpref-key/1" + self.public_key).hexdigest()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)
