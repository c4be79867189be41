"""What is around a coordinator's home: the regions' port, the certificate it shows, the queue.

The certificate is the one in service, as a region gets it shown, not the one in the file. Whether
regions trust it is for `fedpref-region check` to say, which has the CA they were given.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography import x509
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from common.metrics_http import Check

#: For how long a port may take to answer, in seconds.
PROBE_TIMEOUT_S = 2.0

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ObservedDeployment:
    """The ports of a deployment on this machine, and its queue.

    Attributes:
        bind: The address that the regions' port is bound to.
        port: The regions' port.
        admin_port: The loopback port of the control and runtime APIs.
        queued: Gives how many runs wait.
    """

    bind: str
    port: int
    admin_port: int
    queued: Callable[[], int]

    def metrics(self) -> Iterator[Metric]:
        """The queue's length; when the certificate in service expires, if one is."""
        yield GaugeMetricFamily(
            "fedpref_server_queued_runs", "Runs that wait for their turn.", value=self.queued()
        )
        certificate = self._certificate()
        if certificate is not None:
            yield GaugeMetricFamily(
                "fedpref_server_certificate_expiry_timestamp_seconds",
                "When the certificate of the regions' port expires.",
                value=certificate.not_valid_after_utc.timestamp(),
            )

    def checks(self) -> dict[str, Check]:
        """Whether both ports answer."""
        return {
            "regions-port": lambda: None if self._certificate() else "no-answer",
            "admin-port": self._admin_port,
        }

    @property
    def _host(self) -> str:
        return _LOOPBACK if self.bind in _ANY else self.bind

    def _certificate(self) -> x509.Certificate | None:
        """The certificate that the regions' port shows; None if it shows none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # It is read, not relied on: an expired one is what is looked for.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection((self._host, self.port), PROBE_TIMEOUT_S) as plain,
                context.wrap_socket(plain) as connection,
            ):
                shown = connection.getpeercert(binary_form=True)
            return None if shown is None else x509.load_der_x509_certificate(shown)
        except (OSError, ValueError):
            return None

    def _admin_port(self) -> str | None:
        try:
            with socket.create_connection((_LOOPBACK, self.admin_port), PROBE_TIMEOUT_S):
                return None
        except OSError:
            return "no-answer"
