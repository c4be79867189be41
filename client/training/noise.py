"""Where noise comes from: a ChaCha20 keystream turned into Gaussian values in double precision.

`SystemNoise` takes its keys from the operating system and is what protects customers. `SeededNoise`
is the same generator with a key that anyone can recompute: for tests and simulation studies only.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]

# A fresh key long before the 32-bit block counter of RFC 8439 (256 GiB) would run out.
_BYTES_PER_KEY = 1 << 30
_CHUNK_VALUES = 1 << 18
_SEED_DOMAIN = b"fedpref-seeded-noise/1"


class NoiseSource(Protocol):
    """Something that Gaussian noise is drawn from."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        """Independent values of N(0, stddev²), float64.

        Raises:
            InputError: `stddev` is not a positive, finite number.
        """
        ...


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


def uniform_halves(keystream: bytes) -> FloatArray:
    """One value for each eight bytes, strictly within (0, 1).

    It is (k + ½) / 2**52 with 52 random bits k: an odd multiple of 2**-53, so exact in a double.
    """
    bits = np.frombuffer(keystream, dtype="<u8") >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def box_muller(uniform: FloatArray) -> FloatArray:
    """Standard normal values from an even number of uniform ones (Box and Muller, 1958).

    No value lies beyond 8.6 standard deviations; the tail that is cut off has a probability below
    1e-16, far below any δ in use.
    """
    half = len(uniform) // 2
    radius = np.sqrt(-2.0 * np.log(uniform[:half]))
    angle = (2.0 * math.pi) * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


class _KeystreamNoise:
    """Gaussian values from keystreams; what a key is made of is up to the subclass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: ChaCha20Stream | None = None
        self._left = 0

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        """Independent values of N(0, stddev²), float64; see `NoiseSource`."""
        if not 0 < stddev < math.inf:
            raise InputError(f"Noise of standard deviation {stddev} cannot be drawn.")
        size = math.prod(shape)
        values = np.empty(size)
        with self._lock:
            for start in range(0, size, _CHUNK_VALUES):
                wanted = min(_CHUNK_VALUES, size - start)
                drawn = box_muller(uniform_halves(self._read(8 * (wanted + wanted % 2))))
                values[start : start + wanted] = drawn[:wanted]
        values *= stddev
        return values.reshape(shape)

    def _read(self, n_bytes: int) -> bytes:
        if self._stream is None or self._left < n_bytes or self._must_rekey():
            self._stream = self._new_stream()
            self._left = _BYTES_PER_KEY
        self._left -= n_bytes
        return self._stream.read(n_bytes)

    def _must_rekey(self) -> bool:
        return False

    def _new_stream(self) -> ChaCha20Stream:
        raise NotImplementedError


class SystemNoise(_KeystreamNoise):
    """Noise with keys from the operating system's generator; nobody can draw it again.

    It cannot be copied or pickled, and takes a new key after a fork: no two draws ever share noise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def _must_rekey(self) -> bool:
        return os.getpid() != self._process

    def _new_stream(self) -> ChaCha20Stream:
        self._process = os.getpid()
        return ChaCha20Stream(os.urandom(32), os.urandom(12))

    def __reduce__(self) -> NoReturn:
        raise TypeError("Noise is never drawn twice: a SystemNoise cannot be copied or pickled.")


class SeededNoise(_KeystreamNoise):
    """The same noise for the same seed: for tests and simulation studies, never for a release.

    Args:
        seed: Any text.
    """

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._seed = seed.encode("utf-8")
        self._keys_used = 0

    def _new_stream(self) -> ChaCha20Stream:
        number = self._keys_used.to_bytes(8, "little")
        self._keys_used += 1
        key = hashlib.sha256(_SEED_DOMAIN + number + self._seed).digest()
        return ChaCha20Stream(key, bytes(12))
