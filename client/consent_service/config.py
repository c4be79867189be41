"""The consent service's settings: whose logins it trusts, under which address it is reached.

They are a file of the region's home, ``consent.toml``. Nothing in it is secret: the service knows
the login's public keys only.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import InputError
from common.toml_file import read_toml

FILE_NAME = "consent.toml"
MAX_SETTINGS_BYTES = 1 << 20

Seconds = Annotated[int, Field(ge=1, le=24 * 3600)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoginSettings(_Section):
    """Whose signed tokens say who a customer is.

    Attributes:
        issuer: The token's ``iss``, exactly.
        audience: The token's ``aud``, exactly: this service and no other.
        algorithms: The signature algorithms that are accepted; the token never chooses.
        jwks: The issuer's public keys (RFC 7517), relative to the region's home.
        url: Where a customer signs in; shown to whoever is not signed in.
        max_age_s: The longest a token may be valid, in seconds.
        leeway_s: By how much the two clocks may differ, in seconds.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=256)]
    audience: Annotated[str, Field(min_length=1, max_length=256)]
    algorithms: Annotated[list[Literal["EdDSA", "RS256"]], Field(min_length=1, max_length=2)]
    jwks: str
    url: Annotated[str, Field(pattern=r"https?://[!-~]{1,2000}")] | None = None
    max_age_s: Seconds = 300
    leeway_s: Annotated[int, Field(ge=0, le=60)] = 10


class ServiceSettings(_Section):
    """Under which address customers reach the service, and for how long they stay signed in.

    Attributes:
        public_url: Scheme, host and port as the customer's browser shows them.
        session_s: How long a session lasts, in seconds.
        idle_s: How long it lasts without a request, in seconds.
        max_sessions: How many customers may be signed in at once.
        hsts: Whether browsers are told to use https only (``Strict-Transport-Security``).
        proxies: Addresses of the reverse proxies whose ``X-Forwarded-For`` is believed.
    """

    public_url: str
    session_s: Seconds = 900
    idle_s: Seconds = 300
    max_sessions: Count = 50_000
    hsts: bool = False
    proxies: list[str] = []

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        parts = urlsplit(self.public_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("public_url is not an http or https address")
        if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
            raise ValueError("public_url has more than scheme, host and port")
        # Over plain http a session could be overheard, unless nothing leaves the machine.
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("public_url is plain http and not on this machine; use https")
        for proxy in self.proxies:
            ip_address(proxy)
        return self

    @property
    def secure(self) -> bool:
        """Whether cookies are for https only."""
        return urlsplit(self.public_url).scheme == "https"

    @property
    def origin(self) -> str:
        """The origin that browsers state, as the ``Origin`` header has it."""
        return f"{urlsplit(self.public_url).scheme}://{self.host}"

    @property
    def host(self) -> str:
        """Host and port as the ``Host`` header has them."""
        parts = urlsplit(self.public_url)
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        default = {"http": 80, "https": 443}[parts.scheme]
        return f"{name}" if parts.port in {None, default} else f"{name}:{parts.port}"


class LimitSettings(_Section):
    """How much one customer, and one address, may ask for.

    Attributes:
        reads_per_minute: Pages and answers, for each customer.
        changes_per_hour: Choices recorded, for each customer: each is in the log for good.
            Withdrawing everything is never limited by it.
        logins_per_minute: Logins tried, for each address.
        requests_per_minute: Everything, for each address.
        max_body_bytes: The largest request.
    """

    reads_per_minute: Count = 120
    changes_per_hour: Count = 40
    logins_per_minute: Count = 30
    requests_per_minute: Count = 600
    max_body_bytes: Annotated[int, Field(ge=16_384, le=1 << 20)] = 16_384


class ConsentServiceSettings(_Section):
    """All settings of one region's consent service."""

    login: LoginSettings
    service: ServiceSettings
    limits: LimitSettings = LimitSettings()


def read_settings(home: Path) -> ConsentServiceSettings:
    """Reads ``consent.toml`` of a region's home.

    Raises:
        InputError: It is missing, malformed, or has an unknown or wrong setting.
    """
    path = home / FILE_NAME
    record = read_toml(
        path,
        "The consent service's settings",
        max_bytes=MAX_SETTINGS_BYTES,
        remedy="Write them; for a trial, `fedpref-region consent issuer new FILE --home HOME` "
        "does.",
    )
    try:
        return ConsentServiceSettings.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {where}: {first['msg']}.") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
