"""The self-mask: a stream of a region's own, from a seed that t regions together can give up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from common import canonical_json
from common.secure_aggregation.masks import stream_key

RingArray = npt.NDArray[np.uint32]

_SCHEDULE = "fedpref-self-mask/1"
# A piece of the vector, of the stream and of the zeros it is made from fit a core's second cache.
_CHUNK_BYTES = 1 << 17
# The most that `update_into` may want beyond what it writes.
_SLACK_BYTES = 15


def add_self_mask(vector: RingArray, region: str, seed: bytes, roster: str) -> None:
    """Adds a region's own mask to a vector, in place.

    Args:
        vector: Ring elements.
        region: Whose mask.
        seed: 32 bytes.
        roster: Digest of the share roster.
    """
    _apply(vector, region, seed, roster, np.add)


def remove_self_mask(vector: RingArray, region: str, seed: bytes, roster: str) -> None:
    """Takes it off again."""
    _apply(vector, region, seed, roster, np.subtract)


def _apply(
    vector: RingArray, region: str, seed: bytes, roster: str, operation: Callable[..., object]
) -> None:
    info = canonical_json.encode({"v": _SCHEDULE, "region": region, "roster": roster})
    # A key that serves once, so that its counter may begin at zero.
    stream = Cipher(algorithms.AES(stream_key(seed, info)), modes.CTR(bytes(16))).encryptor()
    zeros, buffer = memoryview(bytes(_CHUNK_BYTES)), bytearray(_CHUNK_BYTES + _SLACK_BYTES)
    step = _CHUNK_BYTES // vector.itemsize
    for start in range(0, vector.size, step):
        piece = vector[start : start + step]
        stream.update_into(zeros[: piece.nbytes], buffer)
        operation(piece, np.frombuffer(buffer, "<u4", piece.size), out=piece)
