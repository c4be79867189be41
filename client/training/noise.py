"""Where noise and samples come from: keystreams of ciphers, turned into Gaussian values and coins.

Small releases get values in double precision from ChaCha20; arrays of a model's size get values in
single precision from AES-256, by a kernel made for that (`client.training.normals`). `SystemNoise`
takes its keys from the operating system and is what protects customers. `SeededNoise` is the same
generator with keys that anyone can recompute: for tests and simulation studies only.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from fractions import Fraction
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from client.training.keystream import AesCtrStream, ChaCha20Stream
from client.training.normals import CHUNK_BYTES, CHUNK_PAIRS, write_normals
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]

# A fresh key long before the 32-bit block counter of RFC 8439 (256 GiB) would run out.
_BYTES_PER_KEY = 1 << 30
_CHUNK_VALUES = 1 << 18
_SEED_DOMAIN = b"fedpref-seeded-noise/1"
_FAST_DOMAIN = b"fedpref-seeded-noise/1 fast"
_ZEROS = bytes(CHUNK_BYTES)


class NoiseSource(Protocol):
    """Something that Gaussian noise is drawn from."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        """Independent values of N(0, stddev²), float64.

        Raises:
            InputError: `stddev` is not a positive, finite number.
        """
        ...

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """Overwrites a contiguous float32 array with independent values of N(0, stddev²).

        Raises:
            InputError: `stddev` is not a positive, finite number, or the array is of another kind.
        """
        ...

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """bool[n]: independent coins, each true with this probability.

        Raises:
            InputError: The probability is not above 0 and at most 1.
        """
        ...


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


def _write(keystream: bytearray, out: npt.NDArray[np.float32], stddev: float) -> None:
    """Values into an array of any length up to a chunk's; those of an odd length's last pair go."""
    bits = memoryview(keystream)[:CHUNK_BYTES]
    if len(out) % 2 == 0:
        write_normals(bits, out, stddev)
        return
    drawn = np.empty(len(out) + 1, dtype=np.float32)
    write_normals(bits, drawn, stddev)
    out[:] = drawn[: len(out)]


class _KeystreamNoise:
    """Gaussian values from keystreams; what a key is made of is up to the subclass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: ChaCha20Stream | None = None
        self._left = 0
        self._fast: AesCtrStream | None = None
        self._fast_left = 0

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

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """Overwrites an array with values of N(0, stddev²); see `NoiseSource`."""
        if not 0 < stddev < math.inf:
            raise InputError(f"Noise of standard deviation {stddev} cannot be drawn.")
        if out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError("Noise is written to contiguous arrays of float32 only.")
        values = out.reshape(-1)
        # The library writes up to a block more than it was asked for.
        keystream = bytearray(CHUNK_BYTES + 15)
        with self._lock:
            for start in range(0, len(values), 2 * CHUNK_PAIRS):
                self._read_fast(keystream)
                _write(keystream, values[start : start + 2 * CHUNK_PAIRS], stddev)

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """Coins; see `NoiseSource`. Each is as biased as 63 random bits can make it."""
        if not 0 < probability <= 1:
            raise InputError(f"A probability of {probability} is not above 0 and at most 1.")
        threshold = np.uint64(min(int(Fraction(probability) * 2**63), 2**63 - 1))
        with self._lock:
            words = np.frombuffer(self._read(8 * n), dtype="<u8") >> np.uint64(1)
        drawn: npt.NDArray[np.bool_] = words < threshold
        return drawn | (probability == 1.0)

    def words(self, n: int) -> npt.NDArray[np.uint64]:
        """uint64[n]: independent, uniform; what exact samplers draw (`client.training`)."""
        drawn = np.empty(n, dtype=np.uint64)
        with self._lock:
            for start in range(0, n, _CHUNK_VALUES):
                wanted = min(_CHUNK_VALUES, n - start)
                drawn[start : start + wanted] = np.frombuffer(self._read(8 * wanted), dtype="<u8")
        return drawn

    def _read_fast(self, keystream: bytearray) -> None:
        if self._fast is None or self._fast_left < CHUNK_BYTES or self._must_rekey():
            self._fast = self._new_fast_stream()
            self._fast_left = _BYTES_PER_KEY
        self._fast_left -= CHUNK_BYTES
        self._fast.read_into(keystream, _ZEROS)

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

    def _new_fast_stream(self) -> AesCtrStream:
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
        # Neither stream of a parent process may go on in its child.
        self._fast = None
        return ChaCha20Stream(os.urandom(32), os.urandom(12))

    def _new_fast_stream(self) -> AesCtrStream:
        if self._must_rekey():
            self._stream = None
        self._process = os.getpid()
        return AesCtrStream(os.urandom(32))

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
        self._fast_keys_used = 0

    def _new_stream(self) -> ChaCha20Stream:
        number = self._keys_used.to_bytes(8, "little")
        self._keys_used += 1
        key = hashlib.sha256(_SEED_DOMAIN + number + self._seed).digest()
        return ChaCha20Stream(key, bytes(12))

    def _new_fast_stream(self) -> AesCtrStream:
        number = self._fast_keys_used.to_bytes(8, "little")
        self._fast_keys_used += 1
        return AesCtrStream(hashlib.sha256(_FAST_DOMAIN + number + self._seed).digest())
