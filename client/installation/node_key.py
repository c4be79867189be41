"""A node's key: made in the region, where it stays; the coordinator gets the public half."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from common.durable_file import write_durably
from common.errors import InputError, StorageError
from common.key_files import create_whole, read_private


def node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key, made if it is not there: ECDSA on P-384, as OpenSSH writes it.

    The file is not encrypted, because the SuperNode opens it by itself: mode 0600, and the node's
    user has nothing else. The public half is beside it, ``.pub``.

    Args:
        path: The private key's file.

    Raises:
        InputError: The file is no such key, or others can read it.
        StorageError: It cannot be written.
    """
    if not path.exists():
        _make(path)
    try:
        key = load_ssh_private_key(read_private(path, "node key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"The node key {path} is no private key as OpenSSH writes it, without a passphrase.",
            remedy="Move it away; the same command makes a new one, which has to be enrolled.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"The node key {path} is not an ECDSA key of the curve P-384.")
    public = path.with_name(f"{path.name}.pub")
    line = f"{public_line(key)}\n".encode("ascii")
    if not public.exists() or public.read_bytes() != line:
        _write(public, line)
    return key


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half, as OpenSSH writes it, without a comment."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _make(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    data = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_whole(path, data)
    except OSError as error:
        raise StorageError(f"The node key {path} cannot be written: {error.strerror}.") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data, mode=0o644)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
