"""Signing keys that are kept elsewhere than in a file: in a KMS, on a PKCS#11 token.

Whatever signs, only what verifies under the key's public key is used: a store that answers with
another key, with a pre-hashed variant (Ed25519ph) or with an error page stops at once and is named,
before anything is logged or sent.

`CallableSigner` takes a function, for an SDK in the same process. `CommandSigner` starts a program
for each signature; the message is its standard input, the 64 bytes of the signature are its whole
standard output. With OpenSC, the PIN coming from the environment of the process::

    ["/usr/bin/pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--login",
     "--pin", "env:FEDPREF_PIN", "--sign", "--mechanism", "EDDSA", "--label", "trainer"]

A KMS whose command line speaks base64 needs a wrapper; for HashiCorp Vault's transit engine::

    #!/bin/sh
    base64 -w0 | vault write -field=signature transit/sign/trainer input=- | cut -d: -f3 | base64 -d

The signature is plain Ed25519 over the whole message (RFC 8032, 5.1), which may have 64 KiB: a
store that takes less, or only a digest, cannot sign records.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import FormatError, StorageError
from common.signatures import SIGNATURE_BYTES, check_public_key, key_id, verify_signature

#: How long a program may take for one answer, in seconds.
PROGRAM_TIMEOUT_S = 30.0
#: How much of a failed program's own words a message repeats.
_MAX_WORDS = 300


class SigningError(StorageError):
    """Where a key is kept, no usable signature could be had."""


class CallableSigner:
    """A signing key behind a function; implements `common.signatures.Signer`.

    Args:
        public_key: The public key, 32 bytes.
        sign: Gives the 64 bytes of the Ed25519 signature of a message. An `OSError` it raises is
            reported as a `SigningError`.
        name: What the key's store is called in messages.

    Raises:
        VerificationError: The public key is not sound.
    """

    def __init__(
        self, public_key: bytes, sign: Callable[[bytes], bytes], *, name: str = "its store"
    ) -> None:
        check_public_key(public_key)
        self._public_key = bytes(public_key)
        self._key_id = key_id(self._public_key)
        self._sign = sign
        self._name = name

    @property
    def key_id(self) -> str:
        """The key's id."""
        return self._key_id

    @property
    def public_key(self) -> bytes:
        """The public key, 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Signs a message; gives 64 bytes that verify under the public key.

        Raises:
            SigningError: The store failed, or gave something else.
        """
        where = f"The key {self._key_id[:16]}… in {self._name}"
        try:
            signature = self._sign(message)
        except OSError as error:
            raise SigningError(f"{where} cannot sign: {error}.") from error
        if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
            got = f"{len(signature)} bytes" if isinstance(signature, bytes) else "no bytes"
            raise SigningError(
                f"{where} gave {got} instead of a signature of {SIGNATURE_BYTES}.",
                remedy="It must give the raw signature: no base64, no header, no line end.",
            )
        if not verify_signature(self._public_key, message, signature):
            raise SigningError(
                f"{where} gave a signature that its public key does not verify.",
                remedy="Check that the public key is the store's, and that it signs the message "
                "itself with Ed25519: not Ed25519ph, not a digest.",
            )
        return signature

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_id={self._key_id!r})"


class CommandSigner(CallableSigner):
    """A signing key behind a program; see the module's docstring for what the program does.

    Args:
        public_key: The public key, 32 bytes.
        argv: The program, as an absolute path, and its arguments. No shell reads them.
        timeout_s: How long one signature may take, in seconds.

    Raises:
        FormatError: ``argv`` names no program by an absolute path.
        VerificationError: The public key is not sound.
    """

    def __init__(
        self, public_key: bytes, argv: Sequence[str], timeout_s: float = PROGRAM_TIMEOUT_S
    ) -> None:
        command = check_program(argv, "A signer's command")
        super().__init__(
            public_key,
            lambda message: run_program(command, message, timeout_s=timeout_s),
            name=command[0],
        )


def check_program(argv: object, what: str) -> tuple[str, ...]:
    """Reads a command: a program by its absolute path, and its arguments.

    Raises:
        FormatError: It is none.
    """
    # A bare name would be searched in PATH, where others may be able to put one of theirs.
    if (
        not isinstance(argv, list | tuple)
        or not argv
        or not all(isinstance(item, str) and "\0" not in item for item in argv)
        or not Path(argv[0]).is_absolute()
    ):
        raise FormatError(
            f"{what} is not a list of texts that begins with a program's absolute path."
        )
    return tuple(argv)


def run_program(argv: Sequence[str], data: bytes, *, timeout_s: float) -> bytes:
    """Gives a program its input and returns its whole output; no shell is involved.

    A program that takes too long is killed with all that it started.

    Raises:
        SigningError: It cannot be started, failed, or took too long.
    """
    name = argv[0]
    try:
        # In a session of its own, so that a timeout can end its children too.
        process = subprocess.Popen(  # noqa: S603 - the operator's own program, without a shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SigningError(f"The program {name} cannot be started: {error.strerror}.") from error
    with process:
        try:
            output, words = process.communicate(data, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise SigningError(
                f"The program {name} gave no answer within {timeout_s:g} s.",
                remedy="Check that the key's store is reachable and does not ask for a PIN.",
            ) from error
        except BaseException:
            _kill(process)
            raise
    if process.returncode != 0:
        raise SigningError(
            f"The program {name} ended with code {process.returncode}.{_said(words)}"
        )
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Gone already is as good.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _said(words: bytes) -> str:
    """The end of what a program said, as one printable line."""
    text = " ".join(words.decode("utf-8", "replace").split())
    printable = "".join(each if each.isprintable() else "?" for each in text)[-_MAX_WORDS:]
    return f" It said: {printable}" if printable else ""
