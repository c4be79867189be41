"""Normal values from random bits: by the compiled kernel, or by the same steps in NumPy.

The transform is that of Box and Muller (1958) in float32. Per pair of values it takes 32 bits for
the radius and 32 for the angle, and 64 more where the first 15 of the radius are zeros, so that the
tail reaches beyond 11 standard deviations. Kernel and NumPy round every operation as IEEE 754
says and in the same order: equal bits give equal values, and the kernel is used only where it has
just shown that it does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import StorageError

FloatArray = npt.NDArray[np.float32]
UintArray = npt.NDArray[np.uint32]

#: Pairs at a time: bits and values of a chunk stay in a core's cache.
CHUNK_PAIRS = 1 << 15
#: Extra 64-bit words for a chunk. Half of one is needed on average; so many never.
EXTRA_WORDS = 64
CHUNK_BYTES = 8 * CHUNK_PAIRS + 8 * EXTRA_WORDS

# radius and angle uint32[pairs], extra uint64[EXTRA_WORDS], out float32[2 · pairs], scale.
_Transform = Callable[[UintArray, UintArray, npt.NDArray[np.uint64], FloatArray, float], None]

_REFINED_BELOW = 1 << 15
_LOG = (
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)


def write_normals(keystream: memoryview, out: FloatArray, scale: float) -> None:
    """Writes values of N(0, scale²).

    Args:
        keystream: `CHUNK_BYTES` random bytes.
        out: Contiguous float32[n], n even and at most 2 · `CHUNK_PAIRS`; the values of the cosine
            stand before those of the sine.
        scale: The standard deviation, rounded to float32.

    Raises:
        StorageError: The bytes have more radii to refine than random bytes ever have.
    """
    pairs = len(out) // 2
    words = np.frombuffer(keystream, dtype="<u4")
    extra = np.frombuffer(keystream, dtype="<u8")[-EXTRA_WORDS:]
    _transform()(words[:pairs], words[CHUNK_PAIRS : CHUNK_PAIRS + pairs], extra, out, scale)


def is_compiled() -> bool:
    """Whether the compiled kernel is in use; without it noise is as good, and slower."""
    return _transform() is not numpy_transform


def numpy_transform(
    radius: UintArray,
    angle: UintArray,
    extra: npt.NDArray[np.uint64],
    out: FloatArray,
    scale: float,
) -> None:
    """The kernel's steps in NumPy; see ``native/gaussian.c``."""
    f4 = np.float32
    coarse = (radius >> np.uint32(1)).astype(np.int32)
    uniform = (coarse.astype(f4) + f4(0.5)) * f4(4.656612873077393e-10)
    doubled = np.maximum(_natural_log(uniform) * f4(-2.0), f4(0.0))
    length = np.sqrt(doubled) * f4(scale)
    refined = np.flatnonzero(coarse < _REFINED_BELOW)
    if len(refined) > len(extra):
        raise _unlikely()
    if len(refined):
        fraction = ((extra[: len(refined)] >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        exact = (coarse[refined] + fraction) * 2.0**-31
        length[refined] = np.sqrt(-2.0 * np.log(exact)).astype(f4) * f4(scale)
    sine, cosine = _sine_cosine(angle)
    np.multiply(length, cosine, out=out[: len(radius)])
    np.multiply(length, sine, out=out[len(radius) :])


def _natural_log(uniform: FloatArray) -> FloatArray:
    f4 = np.float32
    bits = uniform.view(np.uint32)
    exponent = (((bits - np.uint32(0x3F3504F3)) >> np.uint32(23)) ^ np.uint32(0x100)).view(np.int32)
    exponent = exponent - np.int32(0x100)
    x = (bits - (exponent.view(np.uint32) << np.uint32(23))).view(f4) - f4(1.0)
    square, scale = x * x, exponent.astype(f4)
    p = np.full_like(x, 7.0376836292e-2)
    for coefficient in _LOG:
        p = p * x + f4(coefficient)
    tail = (p * x) * square
    tail = tail + scale * f4(-2.12194440e-4)
    tail = tail - f4(0.5) * square
    result: FloatArray = (x + tail) + scale * f4(0.693359375)
    return result


def _sine_cosine(angle: UintArray) -> tuple[FloatArray, FloatArray]:
    f4, u4 = np.float32, np.uint32
    quarter = (angle + u4(0x20000000)) >> u4(30)
    rest = (angle - (quarter << u4(30))).view(np.int32)
    y = rest.astype(f4) * f4(1.4629180792671596e-9)
    z = y * y
    s = f4(-1.9515295891e-4) * z + f4(8.3321608736e-3)
    s = s * z + f4(-1.6666654611e-1)
    s = (s * z) * y + y
    c = f4(2.443315711809948e-5) * z + f4(-1.388731625493765e-3)
    c = c * z + f4(4.166664568298827e-2)
    c = ((c * z) * z - f4(0.5) * z) + f4(1.0)
    swap = (quarter & u4(1)).astype(bool)
    sine = np.where(swap, c, s).view(u4) ^ ((quarter & u4(2)) << u4(30))
    cosine = np.where(swap, s, c).view(u4) ^ (((quarter + u4(1)) & u4(2)) << u4(30))
    return sine.view(f4), cosine.view(f4)


@cache
def _transform() -> _Transform:
    """The kernel if it is built and gives what NumPy gives for bits that reach all its branches."""
    for path in sorted((Path(__file__).parent / "native").glob("_gaussian*.so")):
        try:
            kernel = load_kernel(path)
        except (OSError, AttributeError):
            continue
        if agrees(kernel):
            return kernel
    return numpy_transform


def load_kernel(path: Path) -> _Transform:
    """The transform of a compiled ``gaussian.c``.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It is something else.
    """
    function = ctypes.CDLL(str(path)).fedpref_normals
    function.restype = ctypes.c_int64
    pointer = ctypes.c_void_p
    function.argtypes = [
        *(pointer, pointer, pointer, ctypes.c_int64),
        *(pointer, ctypes.c_size_t, ctypes.c_float),
    ]

    def transform(
        radius: UintArray,
        angle: UintArray,
        extra: npt.NDArray[np.uint64],
        out: FloatArray,
        scale: float,
    ) -> None:
        # ctypes lets go of the interpreter's lock meanwhile.
        taken = function(
            radius.ctypes.data,
            angle.ctypes.data,
            extra.ctypes.data,
            len(extra),
            out.ctypes.data,
            len(radius),
            scale,
        )
        if taken < 0:
            raise _unlikely()

    return transform


def agrees(transform: _Transform) -> bool:
    """Whether a transform gives what NumPy's gives, bit by bit."""
    generator = np.random.Generator(np.random.Philox(1))
    radius, angle = generator.integers(0, 2**32, (2, 1000), dtype=np.uint32)
    radius[:8] = (0, 1, 2**15, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**32 - 2)
    angle[8:16] = (0, 1, 2**29, 2**29 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
    extra = generator.integers(0, 2**64, EXTRA_WORDS, dtype=np.uint64)
    expected, found = np.zeros((2, 2000), dtype=np.float32)
    numpy_transform(radius, angle, extra, expected, 1.25)
    transform(radius, angle, extra, found, 1.25)
    return bool((expected.view(np.uint32) == found.view(np.uint32)).all())


def _unlikely() -> StorageError:
    return StorageError(
        "The random bytes for noise are not random: nothing is released.",
        remedy="Have the machine's random generator looked at.",
    )
