"""Addresses of this machine that no other machine can reach."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from common.errors import InputError

_MAX_PORT = 65_535


@dataclass(frozen=True)
class LoopbackAddress:
    """Where a process listens for others on its own machine.

    Attributes:
        host: An IP address of the loopback range.
        port: The port; 0 takes a free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> LoopbackAddress:
        """Reads ``127.0.0.1:9464`` or ``[::1]:9464``.

        Raises:
            InputError: It is no such address, or other machines could reach it.
        """
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            address = None
        plain = port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT))
        if not (colon and address and plain and int(port) <= _MAX_PORT):
            raise InputError(
                f"The address {text[:100]!r} is not an IP address and a port.",
                remedy="Write it as 127.0.0.1:9464 or [::1]:9464.",
            )
        if not address.is_loopback:
            raise InputError(
                f"The address {text!r} is not a loopback address: anyone on the network could read "
                "what is served there, without TLS or a login.",
                remedy="Take 127.0.0.1, and have it read by an agent on this machine or through a "
                "proxy with TLS.",
            )
        return cls(str(address), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
