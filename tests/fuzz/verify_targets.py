"""Targets: the verifier, given a dishonest operator's files and signed records."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from common.audit.verify import verify_bundle
from common.envelope import Envelope, sign_record
from common.errors import FormatError
from tests.fuzz.record_targets import record_from, scratch
from tests.fuzz.target import Target
from tests.support.bundle_builder import SERVER, Federation, record_of

_MANIFEST = "manifest.json"


@cache
def _small() -> Federation:
    return Federation(customers=1, rounds=1, cosigners=("region-1", "region-2", "server")).run()


@cache
def _files() -> dict[str, bytes]:
    return dict(_small().bundle_files())


@cache
def _run() -> Path:
    return _small().write(scratch() / "verified", _files())


def _verdict(files: dict[str, bytes], manifest: bytes, changed: set[str]) -> None:
    """Verifies a bundle with some files changed, and puts the honest ones back."""
    folder = _run() / "bundle"
    for name in changed:
        (folder / name).write_bytes(files[name])
    (folder / _MANIFEST).write_bytes(manifest)
    try:
        verdict = verify_bundle(_run())
    finally:
        for name in changed:
            (folder / name).write_bytes(_files()[name])
    verdict.to_record()
    if not verdict.verified:
        if not verdict.failures:
            raise AssertionError("refused without a word of why")
        raise FormatError(verdict.failures[0].message or "")


def _file(data: bytes) -> None:
    """The first byte chooses a file; the rest replaces it, under a manifest signed for it."""
    names = sorted(_files())
    name = names[data[0] % len(names)] if data else names[0]
    files = {**_files(), name: data[1:]}
    _verdict(files, _small().manifest(files), {name})


def _file_seeds() -> Iterator[bytes]:
    for number, (_, data) in enumerate(sorted(_files().items())):
        yield bytes([number]) + data


def _manifest(data: bytes) -> None:
    """A manifest of the honest files, signed whatever it says."""
    record = record_from(data)
    _verdict(_files(), sign_record(record, _small().keys[SERVER, "aggregator"]), set())


def _record(data: bytes) -> None:
    """Two bytes choose a log and an entry; the rest is the record there, signed by its owner."""
    party = sorted(_small().logs)[data[0] % len(_small().logs) if data else 0]
    log = _small().logs[party]
    index = data[1] % len(log) if len(data) > 1 else 0
    record = record_from(data[2:])
    old = record_of(log[index])
    signer = _small().signer(party, old["v"].removeprefix("fedpref-").removesuffix("/1"))
    lying = copy.copy(_small())
    lying.logs = {
        **_small().logs,
        party: [*log[:index], sign_record(record, signer), *log[index + 1 :]],
    }
    files = lying.bundle_files()
    if files.keys() != _files().keys():
        raise FormatError("The harness keeps the files' names.")
    changed = {name for name, content in files.items() if content != _files()[name]}
    _verdict(dict(files), lying.manifest(files), changed)


def _record_seeds() -> Iterator[bytes]:
    for number, party in enumerate(sorted(_small().logs)):
        for index, entry in enumerate(_small().logs[party]):
            yield bytes([number, index]) + Envelope.decode(entry).payload


TARGETS = (
    Target("verify-file", _file, _file_seeds, head_bytes=1, runs=12),
    Target(
        "verify-manifest",
        _manifest,
        lambda: [Envelope.decode(_small().manifest(_files())).payload],
        runs=12,
    ),
    Target("verify-record", _record, _record_seeds, head_bytes=2, runs=12),
)
