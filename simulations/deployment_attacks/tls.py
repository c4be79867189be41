"""A certificate authority of one server, for a deployment that is over within the hour."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_VALID = datetime.timedelta(days=1)
# A clock that is a little behind must not find the certificate in its future.
_EARLIER = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """An authority's certificate, and one that it signed; all PEM.

    Attributes:
        ca: The authority's own certificate.
        certificate: The server's.
        key: The server's private key.
    """

    ca: bytes
    certificate: bytes
    key: bytes


def make_authority(address: str) -> Authority:
    """Makes an authority and the certificate of a server.

    Args:
        address: The IP address that the server listens on.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shops")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    ca = (
        _builder(issuer, issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        _builder(subject, issuer, key.public_key())
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Authority(
        ca.public_bytes(Encoding.PEM),
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    begin = datetime.datetime.now(datetime.UTC) - _EARLIER
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _VALID)
    )
