"""The offline verifier: what a bundle of files proves, without trusting who wrote it.

It parses and replays by its own code; only the primitives of hashing, canonical JSON, envelopes and
signed notes are shared with the writers. Its steps carry the specification's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from common.audit.verify.access import verify_access
from common.audit.verify.answers import verify_answers
from common.audit.verify.budget import verify_budget
from common.audit.verify.chain import verify_chain
from common.audit.verify.completeness import verify_completeness
from common.audit.verify.files import (
    BundleFolder,
    Manifest,
    check_artifacts,
    check_files,
    read_manifest,
)
from common.audit.verify.key_ring import KeyRing
from common.audit.verify.logs import LogReplayer, replay_log
from common.audit.verify.masks import verify_masks
from common.audit.verify.partial import PartialReplayer
from common.audit.verify.plan_facts import read_plan
from common.audit.verify.policy_bounds import verify_policies
from common.audit.verify.queries import verify_queries
from common.audit.verify.registry import verify_registry
from common.audit.verify.replay import SERVER, Evidence
from common.audit.verify.rounds import verify_rounds
from common.audit.verify.scope import whole_logs
from common.audit.verify.shared_noise import verify_shared_noise
from common.audit.verify.tiles import check_names
from common.audit.verify.verdict import (
    LIMITS,
    LOGS,
    MANIFEST,
    RECORDS,
    SUBJECTS,
    Failure,
    Findings,
    RootKey,
    StepResult,
    Verdict,
)
from common.audit.verify.witnesses import describe_witnesses
from common.errors import FedprefError, UsageError
from common.timestamps import parse_time

__all__ = [
    "LIMITS",
    "Evidence",
    "Failure",
    "StepResult",
    "Verdict",
    "verify_bundle",
    "verify_with_evidence",
]

_KEY_ID = re.compile(r"[0-9a-f]{64}")


def verify_bundle(path: Path, *, root_key_ids: Collection[str] = ()) -> Verdict:
    """Verifies a bundle: what holds, and every place found where it does not.

    Args:
        path: The run folder, or the bundle folder itself; its files are read, nothing else is.
        root_key_ids: Ids of the root keys the reader trusts, in hex. Without them the bundle's own
            are taken, and named in the verdict for the reader to compare.

    Raises:
        InputError: There is no bundle at ``path``.
        UsageError: A root key id is not 64 hex digits.
    """
    return verify_with_evidence(path, root_key_ids=root_key_ids)[0]


def verify_with_evidence(
    path: Path, *, root_key_ids: Collection[str] = ()
) -> tuple[Verdict, Evidence | None]:
    """Verifies a bundle as `verify_bundle` does, and gives what it admitted as well.

    Args:
        path: As for `verify_bundle`.
        root_key_ids: As for `verify_bundle`.

    Returns:
        The verdict, and the replayed content; None if manifest or registry cannot be used, for
        nothing can then be ascribed to anyone.

    Raises:
        InputError: There is no bundle at ``path``.
        UsageError: A root key id is not 64 hex digits.
    """
    check_root_key_ids(root_key_ids)
    folder, findings = BundleFolder(path), Findings()
    manifest, ring, root_keys = open_bundle(folder, root_key_ids, findings)
    evidence: Evidence | None = None
    if manifest is not None and ring is not None:
        evidence = _verify_content(folder, manifest, ring, findings)
    run, scope = (manifest.run, manifest.scope) if manifest else ("", "")
    federation = manifest.federation if manifest else ""
    return findings.verdict(federation, run, root_keys, scope=scope), evidence


def check_root_key_ids(root_key_ids: Collection[str]) -> None:
    """Checks the form of root keys' ids.

    Raises:
        UsageError: One is not 64 hex digits.
    """
    for key in root_key_ids:
        if _KEY_ID.fullmatch(key) is None:
            raise UsageError(
                f"{key!r} is not the id of a root key.",
                remedy="An id has 64 lower-case hex digits.",
            )


def open_bundle(
    folder: BundleFolder, root_key_ids: Collection[str], findings: Findings
) -> tuple[Manifest | None, KeyRing | None, tuple[RootKey, ...]]:
    """Steps 0 and 1: the manifest, every file against it, and the key registry.

    Args:
        folder: The bundle.
        root_key_ids: Ids of the root keys the reader trusts.
        findings: Where failures go.

    Returns:
        The manifest and the key ring, each None if it cannot be used, and the root keys.
    """
    manifest = read_manifest(folder, findings)
    if manifest is not None:
        check_files(folder, manifest, findings)
        check_artifacts(folder, manifest, findings)
    federation = manifest.federation if manifest else None
    ring, root_keys = verify_registry(folder, federation, root_key_ids, findings)
    if manifest is not None and ring is not None:
        _check_manifest_signature(manifest, ring, findings)
    elif manifest is not None:
        # Where the two only disagree about the federation, the signature tells which was altered.
        other, _ = verify_registry(folder, None, (), Findings())
        if other is not None:
            _check_manifest_signature(manifest, other, findings)
    return manifest, ring, root_keys


def _check_manifest_signature(manifest: Manifest, ring: KeyRing, findings: Findings) -> None:
    # The server makes a run's bundle; a region exports what it answers for by its controller's key.
    signatures = manifest.envelope.signatures
    named = ring.party_of(signatures[0].key_id) if signatures else None
    party = named if named in ring.parties and named is not None else SERVER
    try:
        ring.check_signatures(
            manifest.envelope,
            party=party,
            role="aggregator" if party == SERVER else "controller",
            own_ms=parse_time(manifest.created_at),
        )
        findings.signed_by = party
    except FedprefError as error:
        findings.fail(
            MANIFEST, "manifest-signature", f"manifest.json: {error.message}", file="manifest.json"
        )


def _verify_content(
    folder: BundleFolder, manifest: Manifest, ring: KeyRing, findings: Findings
) -> Evidence:
    """Steps 2 to 8."""
    parties = folder.list_folder("logs")
    for party in parties:
        if party not in ring.parties:
            findings.fail(LOGS, "party", f"The registry has no log key of {party}.", party=party)
    for step in (LOGS, RECORDS, SUBJECTS):
        findings.begin(step)
    created_ms = parse_time(manifest.created_at)
    whole = whole_logs(folder, manifest.scope, parties, findings)
    replays = {
        party: replay_log(
            folder,
            party,
            manifest.federation,
            ring,
            created_ms,
            findings,
            LogReplayer if party in whole else PartialReplayer,
        )
        for party in parties
        if party in ring.parties
    }
    if not whole - {SERVER}:
        findings.leave_out(SUBJECTS)
    witnesses = {key.party for key in ring.keys_of("witness")}
    sizes = {party: replay.size for party, replay in replays.items()}
    parts = {party: replay.files for party, replay in replays.items() if not replay.whole}
    check_names(folder, sizes, parts, witnesses, findings)
    plan = read_plan(folder, manifest, findings)
    evidence = Evidence(
        federation=manifest.federation,
        run=manifest.run,
        ring=ring,
        plan=plan,
        parties=ring.parties if plan is None else plan.regions | {SERVER},
        replays=replays,
        findings=findings,
    )
    findings.witnesses = describe_witnesses(evidence)
    verify_access(evidence)
    verify_rounds(evidence)
    verify_budget(evidence)
    verify_queries(evidence)
    verify_policies(evidence)
    verify_chain(evidence, folder)
    verify_answers(evidence, folder)
    verify_masks(evidence)
    verify_shared_noise(evidence)
    verify_completeness(evidence, folder, manifest)
    return evidence
