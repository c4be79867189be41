"""The report's appendix on files: what to compare, digest by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.audit.report.material import Material
from common.audit.verify.files import FileState


@dataclass(frozen=True)
class File:
    """A file as the manifest states it."""

    name: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class BundleFiles:
    """The files of a bundle.

    Attributes:
        manifest_sha256: Digest of the manifest; it covers all others. None if it is unreadable.
        entry_files: How many files hold log entries or proofs; they are too many to list.
        entry_bytes: Their bytes.
        named: All other files of the bundle folder.
        artifacts: The run's results beside the bundle.
    """

    manifest_sha256: str | None
    entry_files: int
    entry_bytes: int
    named: tuple[File, ...]
    artifacts: tuple[File, ...]


_MANY = ("/tile/", "/entries/", "/proofs/", "/consistency/")


def bundle_files(material: Material) -> BundleFiles:
    """The files that the manifest names."""
    if material.manifest is None:
        return BundleFiles(None, 0, 0, (), ())
    states = material.manifest.files
    many = {name for name in states if any(part in f"/{name}" for part in _MANY)}
    return BundleFiles(
        manifest_sha256=material.manifest_sha256,
        entry_files=len(many),
        entry_bytes=sum(states[name].size_bytes for name in many),
        named=_files({name: state for name, state in states.items() if name not in many}),
        artifacts=_files(material.manifest.artifacts),
    )


def _files(states: Mapping[str, FileState]) -> tuple[File, ...]:
    return tuple(
        File(name, state.sha256, state.size_bytes) for name, state in sorted(states.items())
    )
