"""Writes an audit bundle: everything that an offline verifier needs, and nothing else.

A bundle is a folder of plain files. A signed manifest names every file with its size and digest,
and the run's results beside the folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from common.audit.bundle_folder import (
    BUNDLE_FOLDER,
    SCOPE_REGIONAL,
    file_state,
    publish,
    storage_errors,
    temporary_folder,
    write_file,
    write_manifest,
)
from common.audit.checkpoint import Checkpoint, parse_note
from common.envelope import Envelope
from common.errors import FormatError, InputError
from common.keys import Signer

# The records that name the consents they rest on.
_CONSENT_BOUND = frozenset({"round", "answer"})
_CONSENT_BOUND_TYPES = tuple(
    f"application/vnd.fedpref.{kind}+json".encode() for kind in sorted(_CONSENT_BOUND)
)
_PARTY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

# A log's party and the two notes, both signed by that log, that cannot both be true of it.
Conflict = tuple[str, bytes, bytes]


class ExportableLog(Protocol):
    """What the bundle needs of a log (`common.audit.log.AuditLog`)."""

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Every entry with its index."""

    def export(self, folder: Path, *, sizes: Collection[int]) -> None:
        """Writes the entry tiles and the checkpoints, those of ``sizes`` too."""


def write_bundle(
    run_folder: Path,
    *,
    federation: str,
    run: str,
    registry: Sequence[bytes],
    plan: bytes,
    logs: Mapping[str, ExportableLog],
    artifacts: Iterable[str],
    signer: Signer,
    created_at_ms: int,
    cosigned: Mapping[str, Mapping[int, bytes]] = MappingProxyType({}),
    witnessed: Mapping[str, Mapping[str, bytes]] = MappingProxyType({}),
    evidence: Mapping[str, Sequence[Conflict]] = MappingProxyType({}),
) -> Path:
    """Writes ``run_folder/bundle``, whole or not at all; an earlier bundle is replaced.

    Args:
        run_folder: The run's folder, which holds the artifacts.
        federation: The federation's name.
        run: The run's id.
        registry: The key registry's envelopes, oldest first, from version 1.
        plan: The run plan as canonical JSON.
        logs: Every party's log, by party name.
        artifacts: Names of the run's result files in ``run_folder`` that the manifest covers.
        signer: The server's ``aggregator`` key, or the ``controller`` key of a region.
        created_at_ms: Now, in milliseconds since the epoch.
        cosigned: By party and size, the notes of its log that others cosigned; all are exported,
            and replace the plain notes of these sizes.
        witnessed: By witness and log party, the newest note of that log that the witness holds,
            with the witness's own line.
        evidence: By witness, the conflicts that it keeps.

    Returns:
        The bundle folder.

    Raises:
        InputError: A party's name is no plain name, an artifact is missing, or a cosigned note is
            not of the size and log it is given for.
        StorageError: The disk is full or refuses; an earlier bundle is left as it was.
    """
    names = {*logs, *cosigned, *witnessed, *evidence}
    names |= {party for notes in witnessed.values() for party in notes}
    names |= {party for conflicts in evidence.values() for party, _, _ in conflicts}
    for party in sorted(names):
        # A witness's folder holds a note for each log by its party's name, and one folder more.
        if _PARTY.fullmatch(party) is None or party == "evidence":
            raise InputError(f"The party name {party!r} cannot name a folder of a bundle.")
    with storage_errors(run_folder):
        covered = {name: file_state(_artifact(run_folder, name)) for name in sorted(artifacts)}
        with temporary_folder(run_folder, BUNDLE_FOLDER) as folder:
            for number, envelope in enumerate(registry, start=1):
                write_file(folder / "registry" / f"{number}.json", envelope)
            write_file(folder / "plan.json", plan)
            for party, log in logs.items():
                notes = cosigned.get(party, {})
                _export_log(log, folder / "logs" / party, f"{federation}/{party}", notes)
            _write_witnesses(folder / "witnesses", witnessed, evidence)
            write_manifest(
                folder,
                federation=federation,
                run=run,
                scope=SCOPE_REGIONAL,
                artifacts=covered,
                signer=signer,
                created_at_ms=created_at_ms,
            )
            return publish(folder, run_folder / BUNDLE_FOLDER)


def _export_log(
    log: ExportableLog, folder: Path, origin: str, cosigned: Mapping[int, bytes]
) -> None:
    """Writes one log; where others cosigned a checkpoint, that note stands for the plain one."""
    for size, note in cosigned.items():
        checkpoint = Checkpoint.parse(parse_note(note).text)
        if (checkpoint.origin, checkpoint.size) != (origin, size):
            raise InputError(f"The note given for size {size} of {origin} is of another.")
    folder.mkdir(parents=True)
    log.export(folder, sizes=_consent_sizes(log) - cosigned.keys())
    newest = folder / "checkpoint"
    final = Checkpoint.parse(parse_note(newest.read_bytes()).text).size if cosigned else None
    for size, note in cosigned.items():
        write_file(newest if size == final else folder / "checkpoints" / str(size), note)


def _write_witnesses(
    folder: Path,
    witnessed: Mapping[str, Mapping[str, bytes]],
    evidence: Mapping[str, Sequence[Conflict]],
) -> None:
    for witness, notes in witnessed.items():
        for party, note in notes.items():
            write_file(folder / witness / party, note)
    for witness, conflicts in evidence.items():
        for number, (party, first, second) in enumerate(conflicts, start=1):
            stem = f"{number}-{party}"
            write_file(folder / witness / "evidence" / f"{stem}-a", first)
            write_file(folder / witness / "evidence" / f"{stem}-b", second)


def _consent_sizes(log: ExportableLog) -> set[int]:
    """The sizes at which rounds and answers took their consents: each needs its checkpoint."""
    sizes: set[int] = set()
    for _, data in log.entries():
        # Decoding a million consents only to pass them over would take a minute.
        if not any(each in data for each in _CONSENT_BOUND_TYPES):
            continue
        envelope = Envelope.decode(data)
        if envelope.kind in _CONSENT_BOUND:
            consent = envelope.record()["consent"]
            size = consent["size"] if isinstance(consent, dict) else None
            if not isinstance(size, int):
                raise FormatError(
                    f"A {envelope.kind} entry does not say at which size its consents end."
                )
            sizes.add(size)
    return sizes


def _artifact(run_folder: Path, name: str) -> Path:
    path = run_folder / name
    if path.parent != run_folder or not path.is_file():
        raise InputError(
            f"The run's result {name} is not in {run_folder}.",
            remedy="Finish the run before its bundle is written.",
        )
    return path
