"""A key kept outside the process: a program that signs what it reads, as a KMS's would."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PROGRAM = """\
#!{python} -I
import sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex("{secret}"))
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))
"""


def external_key(folder: Path, name: str = "kms") -> tuple[bytes, list[str]]:
    """Makes a key and the program that signs with it; gives the public key and the command."""
    private = Ed25519PrivateKey.generate()
    text = _PROGRAM.format(python=sys.executable, secret=private.private_bytes_raw().hex())
    return private.public_key().public_bytes_raw(), program(folder, name, text)


def program(folder: Path, name: str, text: str) -> list[str]:
    """Writes a program of one's own; gives the command."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o700)
    return [str(path)]
