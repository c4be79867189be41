"""Private keys at rest: encrypted PKCS#8 files that only their owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from common.durable_file import sync_folder, write_durably
from common.errors import FormatError, InputError, StorageError
from common.signatures import key_id

KEY_FILE_MODE = 0o600
#: An encrypted Ed25519 key has about 300 bytes.
_MAX_KEY_FILE_BYTES = 16_384
_MAX_PASSPHRASE_BYTES = 1_023  # OpenSSL's limit
_ENCRYPTED_PEM = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"


class Ed25519FileSigner:
    """A signing key that was read from a file; implements `common.keys.Signer`.

    Args:
        private_key: The decrypted key. It stays in this process and is never shown or pickled.
    """

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._public_key = private_key.public_key().public_bytes_raw()
        self._key_id = key_id(self._public_key)

    @property
    def key_id(self) -> str:
        """The key's id."""
        return self._key_id

    @property
    def public_key(self) -> bytes:
        """The public key, 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Signs a message; gives 64 bytes."""
        return self._private_key.sign(message)

    def encrypted(self, passphrase: bytes) -> bytes:
        """The key as an encrypted PKCS#8 PEM file holds it."""
        return self._private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
        )

    def __repr__(self) -> str:
        return f"Ed25519FileSigner(key_id={self._key_id!r})"


def generate_key(path: Path, passphrase: bytes) -> Ed25519FileSigner:
    """Makes a key and stores it, encrypted, in a new file of mode 0600.

    The file appears whole or not at all; it is durable on return. Its missing parent folders are
    made with mode 0700.

    Args:
        path: The file to make; it must not exist.
        passphrase: What encrypts the key, 1 to 1,023 bytes. PKCS#8 stretches it only weakly
            (PBKDF2, 2,048 rounds): use a random one of 128 bits or more.

    Raises:
        InputError: The file exists, or the passphrase is empty or too long.
        StorageError: The file cannot be written.
    """
    _check_passphrase(passphrase, path)
    private_key = Ed25519PrivateKey.generate()
    signer = Ed25519FileSigner(private_key)
    pem = signer.encrypted(passphrase)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_whole(path, pem)
    except FileExistsError as error:
        raise InputError(
            f"There is a file at {path} already; a key is never overwritten.",
            remedy="Choose another file, or move the old key to its backup first.",
        ) from error
    except OSError as error:
        raise StorageError(f"The key file {path} cannot be written: {error.strerror}.") from error
    return signer


def load_key(path: Path, passphrase: bytes) -> Ed25519FileSigner:
    """Opens an encrypted key file.

    Args:
        path: A file made by `generate_key`, or any encrypted PKCS#8 PEM file of an Ed25519 key.
        passphrase: What it was encrypted with.

    Raises:
        InputError: The file is missing, is no plain file, is readable by others than its owner,
            or the passphrase is wrong.
        FormatError: The file is not an encrypted PKCS#8 Ed25519 key.
    """
    _check_passphrase(passphrase, path)
    data = read_private(path)
    if not data.startswith(_ENCRYPTED_PEM):
        raise FormatError(
            f"The key file {path} is not an encrypted PKCS#8 PEM file.",
            remedy="Encrypt it: openssl pkcs8 -topk8 -v2 aes-256-cbc.",
        )
    try:
        private_key = load_pem_private_key(data, passphrase)
    except ValueError as error:
        raise InputError(
            f"The key file {path} does not open: the passphrase is wrong, or the file is damaged.",
            remedy="Check the passphrase; if it is right, restore the file from its backup.",
        ) from error
    except UnsupportedAlgorithm as error:
        raise FormatError(f"The key file {path} uses an unknown algorithm: {error}") from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise FormatError(f"The key file {path} holds another kind of key than Ed25519.")
    return Ed25519FileSigner(private_key)


def encrypt_key_anew(path: Path, passphrase: bytes, new_passphrase: bytes) -> None:
    """Encrypts a key file with another passphrase, in place.

    After a crash the file opens with the one or with the other, and is whole.

    Args:
        path: An encrypted key file.
        passphrase: What opens it now.
        new_passphrase: What opens it afterwards; as `generate_key` wants it.

    Raises:
        InputError: As `load_key` does, or the new passphrase is empty or too long.
        StorageError: The file cannot be replaced; it is as it was.
    """
    _check_passphrase(new_passphrase, path)
    signer = load_key(path, passphrase)
    try:
        write_durably(path, signer.encrypted(new_passphrase))
    except OSError as error:
        raise StorageError(f"The key file {path} cannot be replaced: {error.strerror}.") from error


def _check_passphrase(passphrase: bytes, path: Path) -> None:
    if not 1 <= len(passphrase) <= _MAX_PASSPHRASE_BYTES:
        raise InputError(
            f"The passphrase for the key file {path} is empty or longer than"
            f" {_MAX_PASSPHRASE_BYTES} bytes.",
            remedy="Use a random passphrase of at least 16 bytes.",
        )


def create_whole(path: Path, data: bytes, *, mode: int = KEY_FILE_MODE) -> None:
    """Makes a new file that is there whole or not at all, and durable on return.

    It is written under a name of its own and linked into place: unlike a rename, a link never
    replaces what is there. The mode is set at creation: there is no moment in which others can open
    a private file.

    Raises:
        FileExistsError: There is a file already; it is untouched.
        OSError: As the operating system says.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_private(path: Path, what: str = "key file") -> bytes:
    """Reads a small file that must be its owner's alone; judges the open file, not its name.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        InputError: It is missing, no plain file, or others than its owner can use it.
        FormatError: It is longer than any such file.
    """
    try:
        # Without O_NONBLOCK a FIFO in the key's place would hang the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_private(os.fstat(descriptor), path, what)
            data = os.read(descriptor, _MAX_KEY_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise InputError(
            f"The {what} {path} is missing.",
            remedy="Restore it from the key backup, or enrol a new key.",
        ) from error
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise FormatError(f"The {what} {path} is longer than {_MAX_KEY_FILE_BYTES} bytes.")
    return data


def _check_private(status: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"The {what} {path} is not a plain file.")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~KEY_FILE_MODE:
        raise InputError(
            f"The {what} {path} has mode {mode:04o}; others than its owner can use it.",
            remedy=f"Run chmod 600 {path}, and replace the key if others had access.",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise InputError(
            f"The {what} {path} belongs to another user (uid {status.st_uid}).",
            remedy="Start the command as the key's owner.",
        )
