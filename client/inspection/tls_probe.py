"""What a TLS server shows: whether it is there, its certificate, its clock.

Three questions are asked apart, so that one fault does not hide another: whether the chain leads to
the region's certificate authority, whether the name is right, and whether the dates are. OpenSSL
answers the first two, as it does for the node itself.
"""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

TIMEOUT_S = 5.0
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl has no name for.
_NO_CHECK_TIME = 0x200000
_WRONG_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH


@dataclass(frozen=True)
class TlsAnswer:
    """What a server showed.

    Attributes:
        certificate: Its certificate.
        trusted: Whether it leads to the certificate authority; None if that could not be asked.
        untrusted_because: OpenSSL's words, if it does not.
        named: Whether it is for the name that was asked; None if that could not be asked.
        date_ms: The server's clock, in milliseconds since the epoch; None if it told none.
    """

    certificate: x509.Certificate
    trusted: bool | None
    untrusted_because: str
    named: bool | None
    date_ms: int | None


def probe_server(host: str, port: int, *, name: str, authority: Path | None) -> TlsAnswer:
    """Asks a TLS server for all that it shows.

    Args:
        host: Where it is.
        port: Its port.
        name: The name that its certificate must be for.
        authority: The certificate authority's file (PEM), if it can be read.

    Raises:
        OSError: There is no server, or (`ssl.SSLError`) it speaks no TLS.
    """
    certificate = _certificate(host, port, name)
    trusted: bool | None = None
    named: bool | None = None
    because = ""
    if authority is not None:
        trusted, because = _is_trusted(host, port, name, authority)
    if trusted and authority is not None:
        named = _is_named(host, port, name, authority)
    return TlsAnswer(certificate, trusted, because, named, _server_date(host, port, name))


def witness_date(address: str) -> int | None:
    """A witness's clock; None if it tells none. Any answer shows that it is there.

    Args:
        address: Its submission prefix.

    Raises:
        OSError: It does not answer.
    """
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - http or https: checked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - as above
            return _date_ms(response.headers.get("Date"))
    except urllib.error.HTTPError as error:
        with error:
            return _date_ms(error.headers.get("Date"))
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{urlsplit(address).netloc} does not speak HTTP") from error


def _unverified() -> ssl.SSLContext:
    """A context to look with: nothing is sent over it, and nothing believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _verifying(authority: Path, *, name: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name
    context.load_verify_locations(cafile=authority)
    context.verify_flags |= _NO_CHECK_TIME
    return context


def _shaken(context: ssl.SSLContext, host: str, port: int, name: str) -> ssl.SSLSocket:
    plain = socket.create_connection((host, port), timeout=TIMEOUT_S)
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def _certificate(host: str, port: int, name: str) -> x509.Certificate:
    with _shaken(_unverified(), host, port, name) as connection:
        shown = connection.getpeercert(binary_form=True)
    if shown is None:
        raise ssl.SSLError("it shows no certificate")
    try:
        return x509.load_der_x509_certificate(shown)
    except ValueError as error:
        raise ssl.SSLError("its certificate is malformed") from error


def _is_trusted(host: str, port: int, name: str, authority: Path) -> tuple[bool, str]:
    try:
        _shaken(_verifying(authority, name=False), host, port, name).close()
    except ssl.SSLCertVerificationError as error:
        return False, error.verify_message
    return True, ""


def _is_named(host: str, port: int, name: str, authority: Path) -> bool:
    try:
        _shaken(_verifying(authority, name=True), host, port, name).close()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _WRONG_NAME:
            return False
        raise
    return True


def _server_date(host: str, port: int, name: str) -> int | None:
    """The ``Date`` of the server's answer: of any kind, for it is only compared with our clock."""
    try:
        with _shaken(_unverified(), host, port, name) as connection:
            connection.sendall(
                f"HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
            )
            response = http.client.HTTPResponse(connection, method="HEAD")
            response.begin()
            return _date_ms(response.getheader("Date"))
    except (OSError, http.client.HTTPException):
        return None


def _date_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    # "-0000" gives a time without a zone: RFC 5322 means UTC by it.
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
