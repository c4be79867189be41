"""Digests of the engine's own code: what permits name and every round entry repeats."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import client
import common


@cache
def engine_digest() -> str:
    """SHA-256 over the path and content of every module of ``client`` and ``common``, in hex."""
    return code_digest(client, common)


def code_digest(*packages: ModuleType) -> str:
    """SHA-256 over the path and content of every module of top-level packages, in hex.

    It is the digest of the installed code as it lies on disk, whether from a wheel or a checkout;
    compiled parts count as they were built here.
    """
    content = hashlib.sha256()
    for package in packages:
        folder = Path(str(package.__file__)).parent
        for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.so"))):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            file_digest = hashlib.sha256(path.read_bytes()).hexdigest()
            content.update(f"{file_digest}  {name}\n".encode())
    return content.hexdigest()


@cache
def dependencies_digest() -> str:
    """SHA-256 over the sorted ``name==version`` lines of all installed distributions, in hex."""
    versions = {
        f"{distribution.name.lower().replace('_', '-')}=={distribution.version}"
        for distribution in metadata.distributions()
    }
    return hashlib.sha256("\n".join(sorted(versions)).encode()).hexdigest()
