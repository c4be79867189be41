"""The bytes of a sealed file: a digest of the rest, a header in canonical JSON, and arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common import canonical_json
from common.canonical_json import JsonValue
from common.parameters import load_arrays, save_arrays

MAX_SEAL_BYTES = 1 << 30
_MAX_HEADER_BYTES = 1 << 20
_DIGEST_BYTES = 32
_LENGTH_BYTES = 4


def sealed_bytes(
    header: dict[str, JsonValue], arrays: Mapping[str, npt.NDArray[np.generic]]
) -> bytes:
    """The bytes of a sealed file.

    Args:
        header: What is sealed besides arrays; its version is in ``v``.
        arrays: The arrays.

    Raises:
        FormatError: The header is too long, or an array of a type that is not exchanged.
    """
    head = canonical_json.encode(header, max_bytes=_MAX_HEADER_BYTES)
    body = len(head).to_bytes(_LENGTH_BYTES, "big") + head + save_arrays(arrays)
    return hashlib.sha256(body).digest() + body


def unsealed(
    data: bytes, version: str
) -> tuple[dict[str, JsonValue], dict[str, npt.NDArray[np.generic]]]:
    """Header and arrays of a sealed file.

    Args:
        data: Its bytes.
        version: The version that it must be of.

    Raises:
        ValueError: It was altered, or is of another version.
        FormatError: It is not of the form that `sealed_bytes` makes.
    """
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("its content does not have the digest it begins with")
    length = int.from_bytes(body[:_LENGTH_BYTES], "big")
    head = body[_LENGTH_BYTES : _LENGTH_BYTES + length]
    header = canonical_json.decode(head, max_bytes=_MAX_HEADER_BYTES)
    if not isinstance(header, dict) or header.get("v") != version:
        raise ValueError("its version is unknown")
    arrays = load_arrays(body[_LENGTH_BYTES + length :], max_bytes=MAX_SEAL_BYTES)
    return header, arrays
