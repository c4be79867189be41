"""Random bytes for noise and samples: keystreams of published ciphers, from a library."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR


class ChaCha20Stream:
    """The keystream of RFC 8439: the bytes that ChaCha20 would add to a message.

    Args:
        key: 32 bytes.
        nonce: 12 bytes.
        counter: The first block's number.
    """

    def __init__(self, key: bytes, nonce: bytes, counter: int = 0) -> None:
        # The library takes the block counter and the nonce as one 16-byte value.
        position = counter.to_bytes(4, "little") + nonce
        self._encryptor: CipherContext = Cipher(ChaCha20(key, position), mode=None).encryptor()

    def read(self, n_bytes: int) -> bytes:
        """The next bytes of the keystream."""
        return self._encryptor.update(bytes(n_bytes))


class AesCtrStream:
    """The keystream of AES-256 in counter mode (NIST SP 800-38A, section 6.5).

    Twice as fast as ChaCha20 where the processor has instructions for AES; an array the size of a
    model takes a good part of a step otherwise.

    Args:
        key: 32 bytes.
        counter: 16 bytes, the first counter block.
    """

    def __init__(self, key: bytes, counter: bytes = bytes(16)) -> None:
        self._encryptor: CipherContext = Cipher(AES(key), CTR(counter)).encryptor()

    def read_into(self, buffer: bytearray, zeros: bytes) -> None:
        """Fills a buffer with the next bytes of the keystream.

        Args:
            buffer: At least 15 bytes longer than `zeros`, as the library asks.
            zeros: As many zero bytes as are wanted.
        """
        self._encryptor.update_into(zeros, buffer)
