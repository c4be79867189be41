"""Ports and sockets that the region will listen on: whether they are free."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path

from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.settings_tables import split_address

_LOOPBACK = "127.0.0.1"


def check_ports(subject: Inspected, findings: Findings) -> None:
    """Checks that the node's and the engine's ports are free, and their sockets' places too."""
    settings = subject.settings
    if settings is None:
        return
    _check_free(
        (_LOOPBACK, settings.node.runtime_port), subject.setting("[node] runtime_port"), findings
    )
    if settings.engine.metrics is not None:
        address = split_address(settings.engine.metrics)
        _check_free(address, subject.setting("[engine] metrics"), findings)
    sockets = {
        "[engine] socket": settings.engine.socket,
        "[engine] consent_socket": settings.engine.consent_socket,
    }
    if settings.recommender is not None:
        place = "[recommender] listen"
        if settings.recommender.socket is not None:
            sockets[place] = settings.recommender.socket
        else:
            address = split_address(settings.recommender.listen)
            _check_free(address, subject.setting(place), findings)
        if settings.recommender.metrics is not None:
            address = split_address(settings.recommender.metrics)
            _check_free(address, subject.setting("[recommender] metrics"), findings)
    if settings.profiles is not None and settings.profiles.metrics is not None:
        address = split_address(settings.profiles.metrics)
        _check_free(address, subject.setting("[profiles] metrics"), findings)
    for field, path in sockets.items():
        _check_socket(path, subject.setting(field), findings)


def _check_free(address: tuple[str, int], place: str, findings: Findings) -> None:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: what only lingers from an earlier process is not in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            findings.add(
                Kind.PORTS,
                place,
                f"Port {port} of {host} is in use by another process."
                if in_use
                else f"Nothing can listen on port {port} of {host}: {error.strerror}.",
                "Stop that process, or name another port.",
            )


def _check_socket(path: Path, place: str, findings: Findings) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # Not there yet: it is made at the start.
    if not stat.S_ISSOCK(mode):
        findings.add(
            Kind.PORTS,
            place,
            f"{path} exists and is no socket.",
            "Remove it, or name another path.",
        )
