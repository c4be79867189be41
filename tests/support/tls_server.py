"""A certificate authority, certificates that are right or wrong, and servers that answer a HEAD."""

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Authority:
    """A certificate authority of a test.

    Attributes:
        folder: Where its files are.
        key: Its private key.
        certificate: Its own certificate.
    """

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> Path:
        return self.folder / "ca.crt"

    @classmethod
    def make(
        cls, folder: Path, *, name: str = "ca", is_authority: bool = True, days: float = 365
    ) -> Authority:
        """Makes one; it is valid from yesterday for so many days."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - DAY)
            .not_valid_after(_now() + days * DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        authority = cls(folder, key, certificate)
        authority.path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return authority

    def certify(
        self,
        name: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 300 * DAY,
    ) -> Path:
        """Makes a server's certificate and key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() + begins)
            .not_valid_after(_now() + ends)
            .add_extension(
                x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False
            )
            .sign(self.key, SHA256())
        )
        path = self.folder / f"{name}.pem"
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return path


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@contextmanager
def serve_dates(*, certificate: Path | None = None, ahead_s: float = 0.0) -> Iterator[int]:
    """A server that answers every HEAD with 404 and a ``Date``; gives its port of 127.0.0.1.

    Args:
        certificate: Its certificate and key; without, it speaks plain HTTP.
        ahead_s: By how much its clock is ahead, in seconds.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # the library's name
            self.send_response_only(404)
            self.send_header("Date", email.utils.formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # Whoever only looks at the certificate ends in the middle: each in its own thread.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
