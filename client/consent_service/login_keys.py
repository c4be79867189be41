"""The public keys of the retailer's login (a JWKS file): which key is known by which id.

A key fixes its algorithm: an Ed25519 key verifies EdDSA and an RSA key RS256, whatever a token
says. The file is read again when it changes, so that keys are rotated without a restart.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from common.errors import FormatError, InputError, VerificationError
from common.keys import check_public_key

MAX_JWKS_BYTES = 1 << 20
MAX_KEYS = 64
MIN_RSA_BITS = 2048
_SECRET_FIELDS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

PublicKey = Ed25519PublicKey | RSAPublicKey


@dataclass(frozen=True)
class LoginKey:
    """One public key of the login: the only algorithm it verifies, and the key."""

    algorithm: str
    key: PublicKey


class LoginKeys:
    """The login's public keys by key id; safe to use from several threads.

    Args:
        path: The JWKS file.
        algorithms: The algorithms that are accepted; keys of others are left out.

    Raises:
        InputError: The file cannot be read, or is not a set of sound public keys.
    """

    def __init__(self, path: Path, algorithms: Collection[str]) -> None:
        self._path = path
        self._algorithms = frozenset(algorithms)
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, LoginKey] = {}
        self._refresh()

    def find(self, kid: str) -> LoginKey | None:
        """The key of that id, or None.

        Raises:
            InputError: The file was changed to something that cannot be used.
        """
        with self._lock:
            self._refresh()
            return self._keys.get(kid)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            data = self._path.read_bytes()
        except OSError as error:
            raise InputError(
                f"The login's public keys {self._path} cannot be read: {error.strerror}.",
                remedy="Put the issuer's JWKS there.",
            ) from error
        # While the new file is not understood, every call fails: its predecessor is not trusted.
        self._keys = parse_jwks(data, self._algorithms, str(self._path))
        self._seen = seen


def parse_jwks(data: bytes, algorithms: Collection[str], where: str) -> dict[str, LoginKey]:
    """Reads a JSON Web Key Set: every key that may verify a login, by its id.

    Args:
        data: The set.
        algorithms: The accepted algorithms.
        where: What the set is called in messages.

    Raises:
        FormatError: It is not a set, a key has no id or another's, is secret or not sound, or no
            key is left.
    """
    entries = _entries(data, where)
    keys: dict[str, LoginKey] = {}
    for entry in entries:
        kid = entry.get("kid")
        if not isinstance(kid, str) or not 1 <= len(kid) <= 128 or kid in keys:
            raise FormatError(f"A key in {where} has no key id (kid) of its own.")
        if _SECRET_FIELDS & entry.keys():
            raise FormatError(
                f"The key {kid!r} in {where} is a secret key.",
                remedy="Publish the public half only, and replace this key.",
            )
        key = _read_key(entry, kid, where)
        if key.algorithm in algorithms and entry.get("use", "sig") == "sig":
            keys[kid] = key
    if not keys:
        raise FormatError(f"{where} has no key for {', '.join(sorted(algorithms))}.")
    return keys


def _entries(data: bytes, where: str) -> list[dict[str, Any]]:
    if len(data) > MAX_JWKS_BYTES:
        raise FormatError(f"{where} is larger than {MAX_JWKS_BYTES} bytes.")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not JSON.") from error
    entries = record.get("keys") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
        raise FormatError(f"{where} is not a set of 1 to {MAX_KEYS} keys (RFC 7517).")
    if not all(isinstance(entry, dict) for entry in entries):
        raise FormatError(f"{where} has a key that is no object.")
    return entries


def _read_key(entry: dict[str, Any], kid: str, where: str) -> LoginKey:
    try:
        if (entry.get("kty"), entry.get("crv")) == ("OKP", "Ed25519"):
            key = jwt.algorithms.OKPAlgorithm.from_jwk(entry)
            if isinstance(key, Ed25519PublicKey):
                check_public_key(key.public_bytes_raw())
                return LoginKey("EdDSA", key)
        elif entry.get("kty") == "RSA":
            rsa = jwt.algorithms.RSAAlgorithm.from_jwk(entry)
            if isinstance(rsa, RSAPublicKey) and rsa.key_size >= MIN_RSA_BITS:
                return LoginKey("RS256", rsa)
    except (jwt.exceptions.PyJWTError, VerificationError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"The key {kid!r} in {where} cannot be used: {error}") from error
    raise FormatError(
        f"The key {kid!r} in {where} is neither an Ed25519 key nor an RSA key of at least "
        f"{MIN_RSA_BITS} bits."
    )
