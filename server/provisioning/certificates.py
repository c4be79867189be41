"""The federation's own CA, and the certificate of the coordinator's port.

Regions trust this CA for that port and for nothing else; it can sign no other CA. Its key is needed
only to make the next certificate.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError

_CA_DAYS = 3652
# A region's clock may be a little behind.
_BACKDATED = timedelta(minutes=5)
_COMMON_NAME_CHARACTERS = 64


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, as PEM files hold them."""

    certificate: bytes
    key: bytes


def make_ca(federation: str, *, passphrase: bytes, now: datetime | None = None) -> KeyPair:
    """Makes a federation's CA: an EC key of P-384, encrypted, and its own certificate.

    Args:
        federation: The federation's name.
        passphrase: What the key is encrypted with.
        now: A test's own time.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"{federation} CA")
    begin = (now or datetime.now(UTC)) - _BACKDATED
    certificate = (
        _builder(name, name, key.public_key(), begin, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA384())
    )
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)),
    )


def make_server_certificate(
    ca: KeyPair,
    *,
    passphrase: bytes,
    hosts: Sequence[str],
    days: int,
    now: datetime | None = None,
) -> KeyPair:
    """Makes the certificate of the coordinator's port, and a new key for it.

    Args:
        ca: The CA.
        passphrase: What opens its key.
        hosts: The machine's names and addresses: its subject alternative names.
        days: For how long it is valid.
        now: A test's own time.

    Raises:
        InputError: The CA's key does not open, is not its certificate's, or ends before.
    """
    signer, authority = _open_ca(ca, passphrase)
    key = ec.generate_private_key(ec.SECP256R1())
    begin = (now or datetime.now(UTC)) - _BACKDATED
    if authority.not_valid_after_utc < begin + timedelta(days=days):
        raise InputError(
            f"The CA ends on {authority.not_valid_after_utc:%Y-%m-%d}, before the certificate "
            "would.",
            remedy="Choose fewer server.certificate_days, or begin a new CA with new kits.",
        )
    certificate = (
        _builder(_name(hosts[0]), authority.subject, key.public_key(), begin, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, SHA384())
    )
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        # uvicorn's process opens it alone: mode 0600, and no passphrase that lies beside it.
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def server_tls(certificate: str, key: str) -> ssl.SSLContext:
    """What the coordinator's port speaks: TLS 1.3, with this certificate.

    Args:
        certificate: The certificate's file.
        key: Its key's file.

    Raises:
        InputError: They cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise InputError(
            f"The certificate {certificate} and its key {key} cannot be used: {error}.",
            remedy="Make new ones: fedpref-server rotate DEPLOYMENT certificate.",
        ) from error
    return context


def expiry(certificate: bytes) -> datetime:
    """Until when a certificate is valid.

    Raises:
        InputError: It is none.
    """
    return _read(certificate).not_valid_after_utc


def _open_ca(ca: KeyPair, passphrase: bytes) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    authority = _read(ca.certificate)
    try:
        key = load_pem_private_key(ca.key, passphrase)
    except (ValueError, TypeError) as error:
        raise InputError(
            "The CA's key does not open: the passphrase is wrong, or the file is damaged."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        authority.public_key()
    ):
        raise InputError("The CA's key is not that of the CA's certificate.")
    return key, authority


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise InputError("A certificate is not PEM, or is damaged.") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    begin: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_CHARACTERS])]
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
