"""The node's key: whether it opens, is of the right kind, and is the one that was enrolled."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.installation.composed_settings import NODE_USER
from client.settings import RegionSettings
from common.enrolment import MAX_ENROLMENT_BYTES, node_public_key, open_enrolment
from common.errors import FedprefError, InputError, VerificationError

ENROLMENT = "enrolment.json"
_MAX_KEY_BYTES = 16_384
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_NEW_KEY = (
    "Restore the key that was enrolled; a new one has to be enrolled with the coordinator first."
)


def check_node_key(subject: Inspected, findings: Findings) -> None:
    """Checks the SuperNode's private key against its public half and the enrolment."""
    settings = subject.settings
    if settings is None:
        return
    place = subject.setting("[node] key")
    if subject.is_hidden(settings.node.key):
        findings.note(f"{settings.node.key} is the node's alone: only root can check it.")
        return
    _check_mode(subject, settings, place, findings)
    try:
        public = _public_line(_load(settings.node.key))
    except FedprefError as error:
        findings.add(Kind.NODE_KEY, place, error.message, error.remedy or _NEW_KEY)
        return
    _compare(settings.node.public_key, _read_public(settings.node.public_key), public, findings)
    enrolment = settings.folder / ENROLMENT
    if enrolment.exists():
        _compare(enrolment, _enrolled(enrolment, findings), public, findings)


def _check_mode(
    subject: Inspected, settings: RegionSettings, place: str, findings: Findings
) -> None:
    try:
        found = settings.node.key.stat()
    except OSError:
        return  # `_load` tells of it.
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        findings.add(
            Kind.NODE_KEY,
            place,
            f"{settings.node.key} has mode {mode:04o}: others than its owner can use it.",
            f"chmod 600 {settings.node.key}, and enrol a new key if others had access.",
        )
    owner = subject.process_user(settings.node.user, NODE_USER)
    if owner is not None and found.st_uid != owner:
        findings.add(
            Kind.NODE_KEY,
            place,
            f"{settings.node.key} belongs to user {found.st_uid}; the node runs as user {owner}.",
            f"chown {owner} {settings.node.key}",
        )


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise InputError(f"The node's key {path} cannot be read: {error.strerror}.") from error
    try:
        load = load_ssh_private_key if data.startswith(_OPENSSH) else load_pem_private_key
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"The node's key {path} is no private key without a passphrase, in OpenSSH or PEM form."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"The node's key {path} is not an ECDSA key of the curve P-384.")
    return key


def _public_line(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _read_public(path: Path) -> str | None:
    """The public key of a file, without its comment; None if it is none."""
    try:
        line = " ".join(path.read_text(encoding="ascii").split()[:2])
        node_public_key(line)
    except (OSError, UnicodeDecodeError, FedprefError):
        return None
    return line


def _enrolled(path: Path, findings: Findings) -> str | None:
    with findings.catching(Kind.NODE_KEY, path):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENROLMENT_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        return open_enrolment(data).facts.node_key
    return None


def _compare(path: Path, stated: str | None, public: str, findings: Findings) -> None:
    if stated != public:
        findings.add(
            Kind.NODE_KEY,
            path,
            "It does not have the public half of the node's key: the SuperLink would refuse the "
            "node.",
            _NEW_KEY,
            exit_code=VerificationError.exit_code,
        )
