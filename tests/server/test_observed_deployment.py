"""What is around the coordinator's home: ports as they answer, the certificate as it is shown."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server import observed_deployment
from server.observed_deployment import ObservedDeployment

EXPIRY = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certificate_file(folder: Path, expiry: datetime.datetime) -> Path:
    """A certificate that nobody trusts, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(expiry - datetime.timedelta(days=9000))
        .not_valid_after(expiry)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{expiry.year}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def listening(certificate: Path | None) -> Iterator[int]:
    """A port that shakes hands by TLS, or takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if context is None:
                    connection.recv(1)
                else:
                    context.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def deployment(port: int, admin_port: int, *, bind: str = "0.0.0.0") -> ObservedDeployment:
    return ObservedDeployment(bind=bind, port=port, admin_port=admin_port, queued=lambda: 3)


def told(observed: ObservedDeployment) -> dict[str, float]:
    return {sample.name: sample.value for family in observed.metrics() for sample in family.samples}


@pytest.mark.parametrize("bind", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("year", [2031, 2011])
def test_the_certificate_in_service_is_told_expired_or_not(
    tmp_path: Path, bind: str, year: int
) -> None:
    expiry = EXPIRY.replace(year=year)
    with listening(certificate_file(tmp_path, expiry)) as port:
        observed = deployment(port, port, bind=bind)
        assert told(observed) == {
            "fedpref_server_queued_runs": 3,
            "fedpref_server_certificate_expiry_timestamp_seconds": expiry.timestamp(),
        }
        assert {name: check() for name, check in observed.checks().items()} == {
            "regions-port": None,
            "admin-port": None,
        }


def test_ports_that_do_not_answer_are_told() -> None:
    observed = deployment(free_port(), free_port())
    assert told(observed) == {"fedpref_server_queued_runs": 3}
    assert {name: check() for name, check in observed.checks().items()} == {
        "regions-port": "no-answer",
        "admin-port": "no-answer",
    }


def test_a_port_that_hangs_does_not_hang_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_deployment, "PROBE_TIMEOUT_S", 0.2)
    with listening(None) as port:
        observed = deployment(port, port)
        assert observed.checks()["regions-port"]() == "no-answer"
        assert observed.checks()["admin-port"]() is None
