"""Exports a bundle for someone else: all of it, one region's part, or what may cross a border.

Nothing is taken from a database: the source is a bundle, verified first. What leaves carries the
source's own signed notes and entries, byte for byte, under a manifest of whoever exports it.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common.audit.bundle_folder import (
    BUNDLE_FOLDER,
    SCOPE_CROSS_BORDER,
    SCOPE_ONE_REGION,
    SCOPE_REGIONAL,
    publish,
    storage_errors,
    temporary_folder,
    write_file,
    write_manifest,
)
from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.merkle import leaf_hash, prove_consistency, prove_inclusion
from common.audit.proof_file import LogProof
from common.audit.tree_hashes import TreeHashes
from common.audit.verify import Evidence, verify_with_evidence
from common.audit.verify.files import BundleFolder, Manifest, read_manifest
from common.audit.verify.replay import SERVER, LogReplay
from common.audit.verify.tiles import PLAN_NAME, WITNESSES, conflict_files, log_folder, read_tiles
from common.audit.verify.verdict import Findings
from common.canonical_json import JsonValue
from common.errors import InputError, PolicyError, VerificationError
from common.keys import Signer

# Of a run's results, only the published model and its card, which has public numbers alone, cross a
# border; others count customers by region.
CROSS_BORDER_ARTIFACTS = frozenset({"model.safetensors", "model-card.json", "model-card.md"})


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        path: Where it is; it can be verified as it stands.
        scope: What it holds.
        entries: How many entries are in it, by party.
        left_out: How many are not, by party: every one of them is a consent.
    """

    path: Path
    scope: str
    entries: dict[str, int]
    left_out: dict[str, int]


def export_bundle(
    source: Path,
    out: Path,
    *,
    scope: str,
    region: str | None,
    signer: Signer,
    created_at_ms: int,
    unverified: bool = False,
) -> Exported:
    """Writes a bundle made from another, whole or not at all.

    Args:
        source: A run folder or bundle folder.
        out: A folder that is not there yet, or empty.
        scope: ``SCOPE_REGIONAL`` or ``SCOPE_CROSS_BORDER``.
        region: With ``SCOPE_REGIONAL``, the only region whose log is exported whole; None for all.
        signer: The server's ``aggregator`` key, or the ``controller`` key of a region.
        created_at_ms: Now, in milliseconds since the epoch.
        unverified: Export a source that does not verify, too. Whoever verifies the export sees what
            is wrong with it.

    Raises:
        InputError: There is no such bundle or region, the source lacks what is asked for, or
            ``out`` is not empty.
        VerificationError: The source does not verify, or nothing in it can be ascribed to anyone.
        PolicyError: The key may not sign a manifest.
        StorageError: The disk is full or refuses; nothing is left at ``out``.
    """
    verdict, evidence = verify_with_evidence(source)
    folder = BundleFolder(source)
    manifest = read_manifest(folder, Findings())
    if evidence is None or manifest is None or not (verdict.verified or unverified):
        first = verdict.first_failure
        raise VerificationError(
            f"{source} does not verify{f': {first.message}' if first else '.'}",
            remedy="See fedpref-audit verify. A faulty bundle can be exported with --unverified, "
            "unless its manifest or registry cannot be used at all.",
        )
    _check_signer(evidence, signer, created_at_ms)
    whole = _whole_logs(evidence, scope, region, source)
    export = _Export(
        folder, manifest, evidence, whole, scope if region is None else SCOPE_ONE_REGION
    )
    return export.write(out, signer, created_at_ms)


def _check_signer(evidence: Evidence, signer: Signer, at_ms: int) -> None:
    ring = evidence.ring
    keys = [*ring.keys_of("aggregator", SERVER)]
    keys += [key for key in ring.keys_of("controller") if key.party in ring.parties]
    if not any(key.key_id == signer.key_id and key.valid_at(at_ms) for key in keys):
        raise PolicyError(
            f"The key {signer.key_id[:12]}… may not sign a bundle.",
            remedy="Use the server's aggregator key or a region's controller key, while it is "
            "valid by the bundle's registry.",
        )


def _whole_logs(evidence: Evidence, scope: str, region: str | None, source: Path) -> frozenset[str]:
    """The parties whose logs are exported whole."""
    regions = frozenset(evidence.replays) - {SERVER}
    if scope == SCOPE_CROSS_BORDER:
        if region is not None:
            raise InputError("A cross-border bundle has no region's log whole.")
        whole = frozenset[str]()
    elif scope != SCOPE_REGIONAL:
        raise InputError(f"{scope!r} is no scope of a bundle.")
    elif region is None:
        whole = regions
    elif region not in regions:
        raise InputError(
            f"The bundle has no log of the region {region!r}.",
            remedy=f"It has those of {', '.join(sorted(regions))}.",
        )
    else:
        whole = frozenset({region})
    lacking = sorted(party for party in whole if not evidence.replays[party].whole)
    if lacking:
        raise InputError(
            f"{source} does not hold the whole log of {', '.join(lacking)}.",
            remedy="Ask that region for its regional bundle.",
        )
    return whole | {SERVER}


class _Export:
    """One export from a verified source."""

    def __init__(
        self,
        folder: BundleFolder,
        manifest: Manifest,
        evidence: Evidence,
        whole: frozenset[str],
        scope: str,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._evidence = evidence
        self._whole = whole
        self._scope = scope

    def write(self, out: Path, signer: Signer, created_at_ms: int) -> Exported:
        out = out.absolute()
        with storage_errors(out):
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InputError(
                    f"{out} is not empty.", remedy="Name a folder that is not there yet."
                )
            out.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(out.parent, out.name) as temporary:
                run_folder = self._folder.run_folder
                bundle = temporary if run_folder is None else temporary / BUNDLE_FOLDER
                bundle.mkdir(exist_ok=True)
                counts = self._write_files(bundle)
                write_manifest(
                    bundle,
                    federation=self._manifest.federation,
                    run=self._manifest.run,
                    scope=self._scope,
                    artifacts=self._artifacts(temporary),
                    signer=signer,
                    created_at_ms=created_at_ms,
                )
                publish(temporary, out)
        sizes = {party: replay.size for party, replay in self._evidence.replays.items()}
        left_out = {party: sizes[party] - number for party, number in counts.items()}
        return Exported(out, self._scope, counts, left_out)

    def _artifacts(self, target: Path) -> dict[str, JsonValue]:
        """Copies the run's results that belong to the scope, as the source's manifest has them."""
        states: dict[str, JsonValue] = {}
        for name, state in self._manifest.artifacts.items():
            if self._scope == SCOPE_REGIONAL or name in CROSS_BORDER_ARTIFACTS:
                states[name] = {"sha256": state.sha256, "bytes": state.size_bytes}
                if self._folder.run_folder is not None:
                    shutil.copyfile(self._folder.run_folder / name, target / name)
        return states

    def _write_files(self, bundle: Path) -> dict[str, int]:
        names = [PLAN_NAME, *(f"registry/{name}" for name in self._folder.list_folder("registry"))]
        names += self._witness_files()
        for name in names:
            self._copy(name, bundle)
        return {
            party: self._write_log(replay, bundle)
            for party, replay in sorted(self._evidence.replays.items())
        }

    def _witness_files(self) -> Iterator[str]:
        for witness in self._folder.list_folder(WITNESSES):
            for party in self._evidence.replays:
                name = f"{WITNESSES}/{witness}/{party}"
                if self._folder.has(name):
                    yield name
                for pair in conflict_files(self._folder, witness, party):
                    yield from (name for name in pair if self._folder.has(name))

    def _copy(self, name: str, bundle: Path) -> None:
        write_file(bundle / name, self._folder.read(name))

    def _write_log(self, replay: LogReplay, bundle: Path) -> int:
        """Writes one party's log, whole or in part, and counts its entries there."""
        place = log_folder(replay.party)
        for name in self._notes(replay):
            self._copy(name, bundle)
        if replay.whole and replay.party not in self._whole:
            return self._write_part(replay, bundle)
        if replay.whole:
            for name, _, _ in read_tiles(self._folder, replay.party, replay.size):
                self._copy(name, bundle)
            return replay.size
        for kind in ("entries", "proofs", "consistency"):
            for name in self._folder.list_folder(f"{place}/{kind}"):
                self._copy(f"{place}/{kind}/{name}", bundle)
        return len(replay.entries)

    def _notes(self, replay: LogReplay) -> list[str]:
        place = log_folder(replay.party)
        earlier = self._folder.list_folder(f"{place}/checkpoints")
        return [f"{place}/checkpoint", *(f"{place}/checkpoints/{name}" for name in earlier)]

    def _write_part(self, replay: LogReplay, bundle: Path) -> int:
        """Writes all entries of a log but its consents, each with a proof that it is in the log."""
        place = bundle / log_folder(replay.party)
        # Only what the verifier has admitted as an entry of another kind ever leaves.
        chosen = {entry.index for entry in replay.entries}
        tree = TreeHashes()
        for _, first, entries in read_tiles(self._folder, replay.party, replay.size):
            for index, data in enumerate(entries, start=first):
                tree.append(leaf_hash(data))
                if index in chosen:
                    write_file(place / "entries" / str(index), data)
        newest = self._folder.read(f"{log_folder(replay.party)}/checkpoint")
        for index in chosen:
            hashes = tuple(prove_inclusion(tree.read, index, replay.size))
            write_file(place / "proofs" / str(index), LogProof(index, hashes, newest).encode())
        sizes = sorted(self._proved_sizes(replay))
        for smaller, larger in pairwise(sizes):
            proof = prove_consistency(tree.read, smaller, larger)
            lines = [f"{base64.b64encode(each).decode()}\n" for each in proof]
            write_file(place / "consistency" / f"{smaller}-{larger}", "".join(lines).encode())
        return len(chosen)

    def _proved_sizes(self, replay: LogReplay) -> set[int]:
        """Every size of which a note in the bundle states this log's root."""
        names = self._notes(replay)
        names += [name for name in self._witness_files() if replay.party in name.split("/")[-1]]
        sizes = {replay.size}
        for name in names:
            checkpoint = Checkpoint.parse(parse_note(self._folder.read(name)).text)
            if checkpoint.origin == replay.origin and 0 < checkpoint.size < replay.size:
                sizes.add(checkpoint.size)
        return sizes
