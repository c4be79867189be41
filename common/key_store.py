"""One party's private keys: where each is kept, and how it is opened.

The folder ``keys`` of a home has for each role either an encrypted file ``<role>.pem``, or an entry
in ``signers.json`` that names a public key and the program that signs with it (`common.signers`)::

    {"trainer": {"command": ["/usr/bin/pkcs11-tool", …], "public_key": "<64 hex digits>"}}

A key that is to follow another has the name ``<role>.next`` in either place, until it is enrolled
and made the active one.

The passphrase of the files is in ``passphrase`` (mode 0600), or comes from the program that
``passphrase-command.json`` names, a list like a signer's command; it is never taken from the
environment. While the passphrase is being changed, ``passphrase.next`` holds the new one: every
file opens with one of the two at each moment.

All of this is canonical JSON: no spaces, sorted keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError, InputError, VerificationError
from common.key_entry import ROLES
from common.key_files import Ed25519FileSigner, load_key, read_private
from common.signatures import Signer, check_public_key
from common.signers import PROGRAM_TIMEOUT_S, CommandSigner, check_program, run_program
from common.validate import exact_fields, sha256_hex

NEXT = ".next"
_SIGNER_FIELDS = frozenset({"public_key", "command"})


@dataclass(frozen=True)
class ExternalKey:
    """A key that a program signs with.

    Attributes:
        public_key: 32 bytes.
        command: The program and its arguments.
    """

    public_key: bytes
    command: tuple[str, ...]

    def to_record(self) -> dict[str, JsonValue]:
        """As ``signers.json`` has it."""
        return {"public_key": self.public_key.hex(), "command": list(self.command)}


@dataclass(frozen=True)
class KeyStore:
    """The keys of one party.

    Args:
        folder: The folder ``keys`` of its home.
        owner: The party's name, for messages.
        passphrase_file: Where the passphrase is, if not in the folder.
    """

    folder: Path
    owner: str
    passphrase_file: Path | None = None

    @property
    def signers(self) -> Path:
        """The file that declares the keys kept elsewhere."""
        return self.folder / "signers.json"

    @property
    def passphrase_path(self) -> Path:
        """The file of the passphrase."""
        return self.passphrase_file or self.folder / "passphrase"

    @property
    def passphrase_command(self) -> Path:
        """The file that names the program which gives the passphrase."""
        return self.folder / "passphrase-command.json"

    @property
    def next_passphrase_path(self) -> Path:
        """The file of the new passphrase, while it is being changed."""
        return self.folder / "passphrase.next"

    def key_file(self, name: str) -> Path:
        """The file of a key.

        Args:
            name: A role, or a role and ``.next``.
        """
        return self.folder / f"{name}.pem"

    def passphrase(self) -> bytes:
        """The passphrase of the key files.

        Raises:
            InputError: Its file is missing, empty or readable by others.
            SigningError: The program that gives it failed.
        """
        if self.passphrase_file is None and self.passphrase_command.exists():
            return self._ask_for_passphrase()
        path = self.passphrase_path
        if not path.exists():
            raise InputError(
                f"{self.owner}: the key passphrase file {path} is missing.",
                remedy=f"Restore it from the key backup of {self.owner}.",
            )
        return self.read_passphrase(path)

    def read_passphrase(self, path: Path) -> bytes:
        """Reads a passphrase from a file of mode 0600; space around it does not count.

        Raises:
            InputError: It is missing, empty or readable by others.
        """
        secret = read_private(path, "key passphrase file").strip()
        if not secret:
            raise InputError(
                f"{self.owner}: the key passphrase file {path} is empty.",
                remedy=f"Restore it from the key backup of {self.owner}.",
            )
        return secret

    def signer(self, name: str) -> Signer:
        """Opens one key.

        Args:
            name: A role, or a role and ``.next``.

        Raises:
            InputError: There is no such key, or it does not open.
            FormatError: Its file or its declaration is malformed.
        """
        external = self.external().get(name)
        if external is not None:
            return CommandSigner(external.public_key, external.command)
        return self.open_file(self.key_file(name))

    def open_file(self, path: Path) -> Ed25519FileSigner:
        """Opens an encrypted key file with the passphrase, or with the one that follows it."""
        # The new one is read first: when it is gone, the change is complete.
        if self.next_passphrase_path.exists():
            try:
                return load_key(path, self.read_passphrase(self.next_passphrase_path))
            except FedprefError:
                return load_key(path, self.passphrase())
        return load_key(path, self.passphrase())

    def external(self) -> Mapping[str, ExternalKey]:
        """The keys that ``signers.json`` declares, by name.

        Raises:
            InputError: Others than its owner can use the file.
            FormatError: It is malformed.
            VerificationError: A public key is not sound.
        """
        path = self.signers
        if not path.exists():
            return {}
        try:
            value = canonical_json.decode(read_private(path, "signers file"))
            if not isinstance(value, dict):
                raise FormatError("it is not an object")
            return {name: _external_key(name, item) for name, item in value.items()}
        except (FormatError, VerificationError) as error:
            raise type(error)(f"The signers file {path}: {error}") from error

    def names(self) -> tuple[str, ...]:
        """The keys there are, by name, in order: roles, and roles with ``.next``."""
        files = {path.stem for path in self.folder.glob("*.pem")}
        return tuple(sorted(name for name in {*files, *self.external()} if _is_name(name)))

    def place(self, name: str) -> str:
        """Where a key is kept, in a few words; empty if it is nowhere."""
        external = self.external().get(name)
        if external is not None:
            return f"program {external.command[0]}"
        return f"keys/{name}.pem" if self.key_file(name).exists() else ""

    def _ask_for_passphrase(self) -> bytes:
        path = self.passphrase_command
        value = canonical_json.decode(read_private(path, "passphrase command file"))
        command = check_program(value, f"{path}: its content")
        secret = run_program(command, b"", timeout_s=PROGRAM_TIMEOUT_S).strip()
        if not secret:
            raise InputError(
                f"{self.owner}: the program {command[0]} gave an empty passphrase.",
                remedy=f"Check the command in {path}.",
            )
        return secret


def role_of(name: str) -> str:
    """The role that a key's name begins with."""
    return name.removesuffix(NEXT)


def _is_name(name: str) -> bool:
    return role_of(name) in ROLES


def _external_key(name: str, value: JsonValue) -> ExternalKey:
    if not _is_name(name):
        raise FormatError(f"{name[:40]!r} is not a role, nor a role and {NEXT!r}")
    fields = exact_fields(value, _SIGNER_FIELDS, name)
    public_key = bytes.fromhex(sha256_hex(fields["public_key"], f"{name}: public_key"))
    check_public_key(public_key)
    return ExternalKey(public_key, check_program(fields["command"], f"{name}: command"))
