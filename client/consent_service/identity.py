"""Who a customer is: the retailer's login says so in a signed token (JWT), and nothing else does.

The accepted algorithms, the issuer and the audience come from the settings. The token's header
only names a key, and the key has one algorithm: a token cannot choose how it is checked.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt

from client.consent_service.config import LoginSettings
from client.consent_service.login_keys import LoginKeys
from common.errors import VerificationError

MAX_TOKEN_CHARACTERS = 8192
_REFERENCE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,128}")
_TOKEN_ID = re.compile(r"[!-~]{1,128}")
_REQUIRED = ("iss", "aud", "sub", "exp", "iat", "jti")


class LoginError(VerificationError):
    """A login token that does not hold; says nothing of what it contained."""


@dataclass(frozen=True)
class Identity:
    """A customer as a verified token names them.

    Attributes:
        customer_ref: The retailer's reference of the customer (``sub``).
        minor: Whether the customer is a minor.
        guardian: Whether a minor's guardian acts.
        token: The token itself: the evidence of what the customer chooses.
        token_id: The token's ``jti``.
        issued_at_s: The token's ``iat``, in seconds since the epoch.
        expires_at_s: The token's ``exp``.
    """

    customer_ref: str
    minor: bool
    guardian: bool
    token: str = field(repr=False)
    token_id: str
    issued_at_s: float
    expires_at_s: float


class LoginTokens:
    """Verifies login tokens, and exchanges each for at most one session.

    Which tokens were exchanged is kept in memory until they expire. A token from before the
    process began might be one that its predecessor exchanged, and is refused.

    Args:
        settings: Issuer, audience, algorithms.
        keys: The issuer's public keys.
        clock_s: Now, in seconds since the epoch.
    """

    def __init__(
        self,
        settings: LoginSettings,
        keys: LoginKeys,
        *,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._clock_s = clock_s
        self._started_at_s = float(int(clock_s()))
        self._spent: dict[str, float] = {}
        self._lock = threading.Lock()

    def verify(self, token: str) -> Identity:
        """Reads a token that comes with each request of a program.

        Raises:
            LoginError: The token does not hold, or was exchanged for a session before.
            InputError: The issuer's keys cannot be read.
        """
        identity = self._read(token)
        with self._lock:
            if identity.token_id in self._spent:
                raise LoginError("The login token was used before.")
        return identity

    def exchange(self, token: str) -> Identity:
        """Reads a token that is exchanged for a session; works once for each token.

        Raises:
            LoginError: The token does not hold, was used before, or is from before the service
                began.
            InputError: The issuer's keys cannot be read.
        """
        identity = self._read(token)
        now_s = self._clock_s()
        with self._lock:
            # Never below the expiry that `_read` grants, or a token could outlive its mark.
            leeway_s = self._settings.leeway_s
            self._spent = {key: until for key, until in self._spent.items() if until > now_s}
            if identity.token_id in self._spent:
                raise LoginError("The login token was used before.")
            if identity.issued_at_s < self._started_at_s:
                raise LoginError("The login token is from before the service began.")
            self._spent[identity.token_id] = identity.expires_at_s + leeway_s + 1
        return identity

    def _read(self, token: str) -> Identity:
        if not token.isascii() or not 1 <= len(token) <= MAX_TOKEN_CHARACTERS:
            raise LoginError("The login token is not of the form of one.")
        try:
            claims = self._claims(token)
        # PyJWT lets a few errors of its parts through: of base64, of integers too large.
        except (jwt.exceptions.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise LoginError("The login token does not hold.") from error
        return self._identity(token, claims)

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise LoginError("The login token names no key of the issuer's.")
        return jwt.decode(
            token,
            key.key,
            # The key's one algorithm; PyJWT refuses a token that names another.
            algorithms=[key.algorithm],
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            leeway=self._settings.leeway_s,
            options={
                "require": list(_REQUIRED),
                "strict_aud": True,
                # Times are judged below, by this service's clock.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )

    def _identity(self, token: str, claims: dict[str, Any]) -> Identity:
        self._check_times(claims)
        reference, token_id = claims["sub"], claims["jti"]
        if not isinstance(reference, str) or _REFERENCE.fullmatch(reference) is None:
            raise LoginError("The login token names no customer (sub).")
        if not isinstance(token_id, str) or _TOKEN_ID.fullmatch(token_id) is None:
            raise LoginError("The login token has no id (jti).")
        minor, guardian = claims.get("minor", False), claims.get("guardian", False)
        if type(minor) is not bool or type(guardian) is not bool or (guardian and not minor):
            raise LoginError("The login token's minor and guardian contradict each other.")
        return Identity(
            customer_ref=reference,
            minor=minor,
            guardian=guardian,
            token=token,
            token_id=token_id,
            issued_at_s=float(claims["iat"]),
            expires_at_s=float(claims["exp"]),
        )

    def _check_times(self, claims: dict[str, Any]) -> None:
        now_s, leeway_s = self._clock_s(), self._settings.leeway_s
        issued_s, expires_s = _time_s(claims, "iat"), _time_s(claims, "exp")
        begins_s = _time_s(claims, "nbf") if "nbf" in claims else issued_s
        if not (issued_s <= now_s + leeway_s and begins_s <= now_s + leeway_s):
            raise LoginError("The login token is not valid yet.")
        if not now_s < expires_s + leeway_s:
            raise LoginError("The login token has expired.")
        if not 0 < expires_s - issued_s <= self._settings.max_age_s:
            raise LoginError("The login token is valid for longer than this service allows.")


def _time_s(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    # A boolean is an int to Python, and NaN would pass comparisons turned the other way round.
    if type(value) not in (int, float) or not 0 <= value < 1 << 40:
        raise LoginError(f"The login token's {name} is not a time.")
    return float(value)
