"""A home's copy of the key registry: how a new version comes in, and that it reaches the log.

A home keeps every version, ``registry/1.json`` and on. A version is taken in only if it follows
what is there. Two different versions of one number, both validly signed, are a fork: root keys have
signed two histories. The second is refused, and both are kept as evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.audit.entry import MAX_ENTRY_BYTES
from common.audit.log import AuditLog
from common.audit.registry_entry import named_registry
from common.durable_file import make_folder_durably
from common.envelope import Envelope
from common.errors import FormatError, InputError, StorageError, VerificationError
from common.key_files import create_whole
from common.key_registry import MAX_REGISTRY_BYTES, Registry

_PUBLIC_MODE = 0o644


@dataclass(frozen=True)
class Installed:
    """What came of installing a version.

    Attributes:
        version: Its number.
        is_new: Whether the home did not have it yet.
        registry: The home's registry afterwards.
    """

    version: int
    is_new: bool
    registry: Registry


def registry_envelopes(folder: Path) -> list[bytes]:
    """The versions in a folder, oldest first; none if there are none.

    Raises:
        InputError: A file there has no version for a name, or cannot be read.
    """
    try:
        files = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
        return [path.read_bytes() for path in files]
    except ValueError as error:
        raise InputError(f"{folder} has a file that is not named by its version.") from error
    except OSError as error:
        raise InputError(f"A version in {folder} cannot be read: {error.strerror}.") from error


def install_version(
    folder: Path,
    evidence: Path,
    data: bytes,
    *,
    federation: str,
    root_key_ids: Collection[str] = (),
) -> Installed:
    """Takes one version in: whole and durable, or not at all.

    Args:
        folder: The home's folder of versions.
        evidence: Where a fork is kept.
        data: The version's envelope.
        federation: The federation that the home belongs to.
        root_key_ids: The ids of version 1's root keys, known from elsewhere; needed for version 1.

    Raises:
        FormatError: The version is malformed.
        VerificationError: It does not follow what the home has, or is a fork.
        InputError: A version between is missing, or version 1 comes without its root key ids.
        StorageError: It cannot be written.
    """
    chain = registry_envelopes(folder)
    number = _number(data)
    if number <= len(chain):
        if chain[number - 1] != data:
            _refuse_fork(chain, data, number, evidence)
        return Installed(number, False, Registry.from_envelopes(chain, root_key_ids=None))
    if number > len(chain) + 1:
        raise InputError(
            f"The home has {len(chain)} registry versions; this is version {number}.",
            remedy="Install the versions between first, in order.",
        )
    if not chain and not root_key_ids:
        raise InputError(
            "The home has no key registry yet: version 1 is trusted only by its root keys' ids.",
            remedy="Give each with --root-key, as the federation's officers told you.",
        )
    chain.append(data)
    registry = Registry.from_envelopes(chain, root_key_ids=root_key_ids or None)
    if registry.federation != federation:
        raise VerificationError(
            f"The registry is that of {registry.federation}; the home belongs to {federation}."
        )
    _store(folder, number, data)
    return Installed(number, True, registry)


def unlogged_versions(folder: Path, log: AuditLog) -> list[bytes]:
    """The versions of a home's registry that its log does not have yet, oldest first.

    Append their entries (`common.audit.registry_entry`) before anything else is logged: entries
    signed by a new key follow the version that enrols it. The log is read until every version is
    found, so that usually little of it is read.

    Args:
        folder: The home's folder of versions.
        log: Its open log.
    """
    missing = {hashlib.sha256(data).hexdigest(): data for data in registry_envelopes(folder)}
    short = {data: digest for digest, data in missing.items() if len(data) <= MAX_ENTRY_BYTES}
    for _, data in log.entries():
        if not missing:
            break
        missing.pop(short.get(data) or named_registry(data) or "", None)
    return list(missing.values())


def _number(data: bytes) -> int:
    envelope = Envelope.decode(data, max_bytes=MAX_REGISTRY_BYTES)
    number = envelope.record().get("registry_version")
    if envelope.kind != "keys" or type(number) is not int or number < 1:
        raise FormatError("The file is not a version of a key registry (fedpref-keys/1).")
    return number


def _refuse_fork(chain: Sequence[bytes], data: bytes, number: int, evidence: Path) -> None:
    """Refuses another envelope of a version that is there; keeps it if root keys vouch for it."""
    first = Registry.from_envelopes(chain[:1], root_key_ids=None)
    Registry.from_envelopes([*chain[: number - 1], data], root_key_ids=first.root_key_ids)
    kept = []
    try:
        make_folder_durably(evidence)
        for each in (chain[number - 1], data):
            name = f"registry-{number}-{hashlib.sha256(each).hexdigest()[:16]}.json"
            kept.append(name)
            if not (evidence / name).exists():
                create_whole(evidence / name, each, mode=_PUBLIC_MODE)
    except OSError as error:
        raise StorageError(f"{evidence} cannot be written: {error.strerror}.") from error
    raise VerificationError(
        f"The registry is forked: the home has another version {number}, and the root keys signed "
        f"both. Nothing was installed; both are kept in {evidence}: {' and '.join(kept)}.",
        remedy="Stop, and send both to every party: a root key has signed two histories.",
    )


def _store(folder: Path, number: int, data: bytes) -> None:
    path = folder / f"{number}.json"
    try:
        make_folder_durably(folder)
        create_whole(path, data, mode=_PUBLIC_MODE)
    except FileExistsError as error:
        raise InputError(
            f"{path} was installed by another command just now.",
            remedy="Run the command again.",
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
