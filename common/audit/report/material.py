"""What a report is made from: one pass of the verifier over a bundle, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from common.audit.verify import Evidence, Verdict, verify_with_evidence
from common.audit.verify.files import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    BundleFolder,
    Manifest,
    read_manifest,
)
from common.audit.verify.verdict import Findings
from common.timestamps import parse_time


@dataclass(frozen=True)
class Material:
    """A bundle, what the verifier says of it, and what it admitted.

    Attributes:
        folder: The bundle's files.
        verdict: The verdict.
        manifest: The manifest; None if it cannot be read.
        evidence: The verified content; None if nothing can be ascribed to anyone.
    """

    folder: BundleFolder
    verdict: Verdict
    manifest: Manifest | None
    evidence: Evidence | None

    @property
    def created_ms(self) -> int:
        """When the bundle was written: the moment as of which the report speaks."""
        return 0 if self.manifest is None else parse_time(self.manifest.created_at)

    @property
    def manifest_sha256(self) -> str | None:
        """Digest of the manifest's file, in hex: the one digest that covers all others."""
        if self.manifest is None:
            return None
        data = self.folder.read(MANIFEST_NAME, max_bytes=MAX_MANIFEST_BYTES)
        return hashlib.sha256(data).hexdigest()

    def whole(self, party: str) -> bool:
        """Whether every entry of a party's log is in the bundle, and not only what may travel."""
        replay = self.evidence.replays.get(party) if self.evidence else None
        return replay is not None and replay.whole


def read_material(path: Path, *, root_key_ids: Collection[str] = ()) -> Material:
    """Verifies a bundle and keeps what the report is made from.

    Args:
        path: The run folder, or the bundle folder itself.
        root_key_ids: Ids of the root keys the reader trusts, in hex.

    Raises:
        InputError: There is no bundle at ``path``.
        UsageError: A root key id is not 64 hex digits.
    """
    verdict, evidence = verify_with_evidence(path, root_key_ids=root_key_ids)
    folder = BundleFolder(path)
    return Material(folder, verdict, read_manifest(folder, Findings()), evidence)
