"""A login for trials: makes a signing key, its JWKS, and tokens for any customer one names.

Whoever has its key can sign in as anybody. It stands in for the retailer's login in the demo and
in tests, and must never be one.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from client.consent_service.config import FILE_NAME
from common.durable_file import write_durably
from common.errors import InputError
from common.keys import key_id

ISSUER = "urn:fedpref:demo-login"
AUDIENCE = "urn:fedpref:consent-service"
JWKS_NAME = "demo-login.jwks.json"
TOKEN_LIFETIME_S = 120
_LABEL = b"DEMO LOGIN, NOT FOR PRODUCTION: whoever has this key can sign in as any customer.\n"

_SETTINGS = """\
# Settings of the consent service for a trial: {label}
[login]
issuer = "{issuer}"
audience = "{audience}"
algorithms = ["EdDSA"]
jwks = "{jwks}"

[service]
public_url = "{public_url}"
"""


@dataclass(frozen=True)
class DemoIssuer:
    """An opened key of the demo login."""

    private_key: Ed25519PrivateKey

    @property
    def kid(self) -> str:
        """The key's id."""
        return key_id(self.private_key.public_key().public_bytes_raw())[:16]

    def jwks(self) -> bytes:
        """The public half, as a JSON Web Key Set."""
        entry = jwt.algorithms.OKPAlgorithm.to_jwk(self.private_key.public_key(), as_dict=True)
        entry |= {"kid": self.kid, "use": "sig", "alg": "EdDSA"}
        return json.dumps({"keys": [entry]}, indent=2, sort_keys=True).encode() + b"\n"

    def token(
        self,
        customer_ref: str,
        *,
        audience: str = AUDIENCE,
        minor: bool = False,
        guardian: bool = False,
        now_s: int | None = None,
    ) -> str:
        """Signs in as a customer.

        Args:
            customer_ref: The retailer's reference of the customer.
            audience: The consent service's audience.
            minor: The customer is a minor.
            guardian: The minor's guardian acts.
            now_s: When it is issued; now by default.
        """
        issued_s = int(time.time()) if now_s is None else now_s
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": audience,
            "sub": customer_ref,
            "iat": issued_s,
            "nbf": issued_s,
            "exp": issued_s + TOKEN_LIFETIME_S,
            "jti": secrets.token_urlsafe(16),
        }
        if minor:
            claims |= {"minor": True, "guardian": guardian}
        return jwt.encode(claims, self.private_key, algorithm="EdDSA", headers={"kid": self.kid})


def make_demo_issuer(path: Path) -> DemoIssuer:
    """Makes a key, writes it to ``path`` (mode 0600) and its JWKS beside it.

    Raises:
        InputError: There is a file already, or none can be made.
    """
    issuer = DemoIssuer(Ed25519PrivateKey.generate())
    pem = issuer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_LABEL + pem)
        write_durably(path.with_name(JWKS_NAME), issuer.jwks(), mode=0o644)
    except OSError as error:
        raise InputError(
            f"The demo login's key {path} cannot be written: {error.strerror}.",
            remedy="Name a new file in a folder that exists.",
        ) from error
    return issuer


def open_demo_issuer(path: Path) -> DemoIssuer:
    """Opens a key that `make_demo_issuer` wrote.

    Raises:
        InputError: It cannot be read, or is not such a key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InputError(f"The demo login's key {path} cannot be read: {error.strerror}.") from (
            error
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is not the key of a demo login.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not the key of a demo login.")
    return DemoIssuer(key)


def trust_demo_issuer(home: Path, issuer: DemoIssuer, *, public_url: str) -> None:
    """Lets a region's consent service trust the demo login: writes its settings and the JWKS.

    Raises:
        InputError: The region has settings already, or its home cannot be written.
    """
    settings = home / FILE_NAME
    if settings.exists():
        raise InputError(
            f"{settings} is there already; a demo login does not replace a region's settings.",
            remedy="Move it away first.",
        )
    text = _SETTINGS.format(
        label=_LABEL.decode().strip(),
        issuer=ISSUER,
        audience=AUDIENCE,
        jwks=JWKS_NAME,
        public_url=public_url,
    )
    try:
        write_durably(home / JWKS_NAME, issuer.jwks(), mode=0o644)
        write_durably(settings, text.encode())
    except OSError as error:
        raise InputError(f"{home} cannot be written: {error.strerror}.") from error
