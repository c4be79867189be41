"""The CA and the port's certificate, as OpenSSL's own verification sees them."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from common.errors import InputError
from server.provisioning.certificates import (
    KeyPair,
    expiry,
    make_ca,
    make_server_certificate,
    server_tls,
)

PASSPHRASE = b"a passphrase of a test"


@pytest.fixture(scope="module")
def ca() -> KeyPair:
    return make_ca("small.example", passphrase=PASSPHRASE)


def shake(tmp_path: Path, ca: KeyPair, pair: KeyPair, name: str) -> str | None:
    """The TLS version that a region and the port agree on, as the region checks it."""
    (tmp_path / "server.crt").write_bytes(pair.certificate)
    (tmp_path / "server.key").write_bytes(pair.key)
    server = server_tls(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=ca.certificate.decode("ascii"))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as opened:
                opened.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as opened:
            opened.send(b"x")
            return opened.version()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["fed.example", "127.0.0.1", "::1"])
def test_a_region_trusts_the_port_by_each_of_its_names(
    tmp_path: Path, ca: KeyPair, name: str
) -> None:
    hosts = ["fed.example", "127.0.0.1", "::1"]
    pair = make_server_certificate(ca, passphrase=PASSPHRASE, hosts=hosts, days=30)
    assert shake(tmp_path, ca, pair, name) == "TLSv1.3"


def test_by_another_name_or_another_ca_it_does_not(tmp_path: Path, ca: KeyPair) -> None:
    pair = make_server_certificate(ca, passphrase=PASSPHRASE, hosts=["fed.example"], days=30)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(tmp_path, ca, pair, "other.example")
    other = make_ca("small.example", passphrase=PASSPHRASE)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake(tmp_path, other, pair, "fed.example")


def test_an_expired_certificate_is_not_trusted(tmp_path: Path, ca: KeyPair) -> None:
    past = datetime.now(UTC) - timedelta(days=40)
    pair = make_server_certificate(
        ca, passphrase=PASSPHRASE, hosts=["fed.example"], days=30, now=past
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(tmp_path, ca, pair, "fed.example")
    assert expiry(pair.certificate) < datetime.now(UTC)


def test_the_port_has_a_certificate_that_can_sign_none(ca: KeyPair) -> None:
    pair = make_server_certificate(ca, passphrase=PASSPHRASE, hosts=["fed.example"], days=30)
    leaf = x509.load_pem_x509_certificate(pair.certificate)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    root = x509.load_pem_x509_certificate(ca.certificate)
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_a_ca_that_cannot_sign_says_why(ca: KeyPair) -> None:
    def make(pair: KeyPair, passphrase: bytes = PASSPHRASE, days: int = 30) -> None:
        make_server_certificate(pair, passphrase=passphrase, hosts=["a"], days=days)

    with pytest.raises(InputError, match="passphrase is wrong"):
        make(ca, b"another")
    other = make_ca("small.example", passphrase=PASSPHRASE)
    with pytest.raises(InputError, match="not that of the CA's certificate"):
        make(KeyPair(ca.certificate, other.key))
    with pytest.raises(InputError, match="not PEM"):
        make(KeyPair(b"nothing", ca.key))
    with pytest.raises(InputError, match="before the certificate"):
        make(ca, days=100_000)


def test_a_pair_that_does_not_belong_together_is_named(tmp_path: Path, ca: KeyPair) -> None:
    one, other = (
        make_server_certificate(ca, passphrase=PASSPHRASE, hosts=["a"], days=30) for _ in range(2)
    )
    (tmp_path / "server.crt").write_bytes(one.certificate)
    (tmp_path / "server.key").write_bytes(other.key)
    with pytest.raises(InputError, match=r"server\.crt and its key"):
        server_tls(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
