"""Steps 0 to 2 alone: that files, registry and logs are those that were signed and witnessed.

For whoever has verified all of a bundle before and asks only whether these are still the same
histories: what the entries say, and who signed them, is not looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from common.audit.merkle import leaf_hash
from common.audit.verify import check_root_key_ids, open_bundle
from common.audit.verify.files import BundleFolder
from common.audit.verify.logs import LogReplayer, replay_log
from common.audit.verify.partial import PartialReplayer
from common.audit.verify.scope import whole_logs
from common.audit.verify.tiles import read_tiles, tile_name
from common.audit.verify.verdict import LOGS, MANIFEST, REGISTRY, Findings, Verdict
from common.errors import InputError
from common.timestamps import parse_time

STEPS = (MANIFEST, REGISTRY, LOGS)


def verify_checkpoints(path: Path, *, root_key_ids: Collection[str] = ()) -> Verdict:
    """Checks a bundle's files, registry, trees and checkpoints, and nothing that entries say.

    Args:
        path: The run folder, or the bundle folder itself.
        root_key_ids: As for `common.audit.verify.verify_bundle`.

    Returns:
        A verdict whose steps 3 to 8 are not checked: never ``verified``. See `checkpoints_hold`.

    Raises:
        InputError: There is no bundle at ``path``.
        UsageError: A root key id is not 64 hex digits.
    """
    check_root_key_ids(root_key_ids)
    folder, findings = BundleFolder(path), Findings()
    manifest, ring, root_keys = open_bundle(folder, root_key_ids, findings)
    if manifest is not None and ring is not None:
        findings.begin(LOGS)
        parties = folder.list_folder("logs")
        whole = whole_logs(folder, manifest.scope, parties, findings)
        for party in parties:
            if party not in ring.parties:
                message = f"The registry has no log key of {party}."
                findings.fail(LOGS, "party", message, party=party)
                continue
            replay_log(
                folder,
                party,
                manifest.federation,
                ring,
                parse_time(manifest.created_at),
                findings,
                _CheckpointReplayer if party in whole else PartialReplayer,
            )
    run, scope = (manifest.run, manifest.scope) if manifest else ("", "")
    federation = manifest.federation if manifest else ""
    return findings.verdict(federation, run, root_keys, scope=scope)


def checkpoints_hold(verdict: Verdict) -> bool:
    """Whether steps 0 to 2 all passed."""
    return all(verdict.steps[step].status == "passed" for step in STEPS)


class _CheckpointReplayer(LogReplayer):
    """One pass over the entries' hashes."""

    def replay(self, folder: BundleFolder) -> None:
        """Hashes the entries, and compares the tree with every checkpoint."""
        self._compare_roots(0, self._tree.root())
        try:
            for _, first, entries in read_tiles(folder, self._log.party, self._log.size):
                for size, data in enumerate(entries, start=first + 1):
                    self._tree.append(leaf_hash(data))
                    if size in self._checkpoints:
                        self._compare_roots(size, self._tree.root())
        except InputError as error:
            index = self._tree.size
            file = tile_name(self._log.party, index, self._log.size)
            self._fail(LOGS, "entries-unreadable", error.message, index=index, file=file)
        self._findings.count(LOGS, "entries", self._tree.size)
