"""Pairwise masks: for each pair of regions a stream that one adds and the other takes off.

The stream's key is HKDF-SHA256 (RFC 5869) of the pair's shared secret, bound to everything that the
sum is about, so that no two sums ever share a mask. The stream is AES-256 in counter mode (NIST SP
800-38A) under a key that serves once, so that its counter may begin at zero. Of the stream ciphers
of `cryptography` it is the faster one where the processor has AES instructions (5 to 6 GB/s a core
against ChaCha20's 4), which is where such servers have been for ten years; decision 24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import canonical_json

RingArray = npt.NDArray[np.uint32]

_SCHEDULE = "fedpref-pairwise-mask/1"
_STREAM_KEY_BYTES = 32
_COUNTER_BYTES = 16
_ELEMENT_BYTES = 4
# A piece of the vector, of the stream and of the zeros it is made from fit a core's second cache.
_CHUNK_BYTES = 1 << 17
# The most that `update_into` may want beyond what it writes.
_SLACK_BYTES = 15


@dataclass(frozen=True)
class MaskContext:
    """What masks are bound to, beside the pair's secret.

    Attributes:
        attempt: The attempt of the round.
        roster: The roster's digest: run, plan, round, mechanism, model, quantiser, and every
            region with its round entry and its public key (`common.secure_aggregation.roster`).
    """

    attempt: int
    roster: str

    def info(self, low: str, high: str) -> bytes:
        """HKDF's ``info`` for the mask of two regions, ``low`` before ``high`` by name."""
        return canonical_json.encode(
            {
                "attempt": self.attempt,
                "pair": [low, high],
                "roster": self.roster,
                "v": _SCHEDULE,
            }
        )


def stream_key(secret: bytes, info: bytes) -> bytes:
    """The key of one pair's stream.

    Args:
        secret: The pair's shared secret.
        info: `MaskContext.info`.
    """
    salt = _SCHEDULE.encode()
    return HKDF(hashes.SHA256(), _STREAM_KEY_BYTES, salt, info).derive(secret)


def add_pairwise_masks(
    vector: RingArray, own: str, secrets: Mapping[str, bytes], context: MaskContext
) -> None:
    """Masks a region's vector in place; summed over all regions of a roster the masks are gone.

    Formal guarantees:
        Of regions that follow the protocol, whoever sees all masked vectors but shares no region's
        secrets learns their sum modulo 2³² and nothing else, as far as AES-256 in counter mode is a
        pseudo-random generator and HKDF-SHA256 a pseudo-random function of an X25519 secret
        (Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
        2017, section 4.1, without recovery from dropouts). With k regions' secrets it learns the
        sum of the others.

    Args:
        vector: Ring elements; replaced by the masked ones.
        own: This region's name.
        secrets: The secret shared with each other region of the roster, by its name.
        context: What the masks are bound to.
    """
    streams = [
        (own < peer, _stream(secret, context.info(min(own, peer), max(own, peer))))
        for peer, secret in sorted(secrets.items())
    ]
    zeros = bytes(_CHUNK_BYTES)
    buffer = bytearray(_CHUNK_BYTES + _SLACK_BYTES)
    view, step = memoryview(zeros), _CHUNK_BYTES // _ELEMENT_BYTES
    for start in range(0, vector.size, step):
        piece = vector[start : start + step]
        mask = np.frombuffer(buffer, "<u4", piece.size)
        for adds, stream in streams:
            stream.update_into(view[: piece.nbytes], buffer)
            (np.add if adds else np.subtract)(piece, mask, out=piece)


def _stream(secret: bytes, info: bytes) -> CipherContext:
    key = algorithms.AES(stream_key(secret, info))
    return Cipher(key, modes.CTR(bytes(_COUNTER_BYTES))).encryptor()
