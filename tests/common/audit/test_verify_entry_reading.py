"""Entries read quickly and by several processes give what the general reading gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.merkle import leaf_hash
from common.audit.verify import entry_reading, verify_bundle
from common.audit.verify.entry_reading import GoodConsent, read_entries
from common.audit.verify.files import BundleFolder
from common.errors import InputError, StorageError
from tests.support.bundle_builder import REGIONS, Federation, record_of

R1 = REGIONS[0]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation(customers=300).run()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes, whatever the log's size and the machine."""
    monkeypatch.setattr(entry_reading, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(entry_reading, "_TILES_PER_TASK", 1)
    monkeypatch.setattr(entry_reading.os, "sched_getaffinity", lambda _: {0, 1})


def consent_keys(federation: Federation) -> dict[str, bytes]:
    signer = federation.keys[R1, "consent"]
    return {signer.key_id: signer.public_key}


def read(federation: Federation, folder: Path) -> list[GoodConsent | bytes]:
    bundle = BundleFolder(federation.write(folder))
    size = len(federation.logs[R1])
    tiles = list(read_entries(bundle, R1, size, consent_keys(federation)))
    assert [first for _, first, _ in tiles] == list(range(0, size, 256))
    return [entry for _, _, entries in tiles for entry in entries]


def test_consents_come_back_read_and_all_else_as_it_stands(
    federation: Federation, tmp_path: Path
) -> None:
    entries = read(federation, tmp_path)
    for entry, data in zip(entries, federation.logs[R1], strict=True):
        record = record_of(data)
        if record["v"] != "fedpref-consent/1":
            assert entry == data
            continue
        assert isinstance(entry, GoodConsent)
        assert entry.leaf == leaf_hash(data)
        assert entry.facts.sid.hex() == record["sid"]


@pytest.mark.usefixtures("processes")
def test_processes_read_the_same(federation: Federation, tmp_path: Path) -> None:
    alone = list(read_entries(*_arguments(federation, tmp_path / "a")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_reading, "_WORTH_PROCESSES", 1 << 40)
        assert list(read_entries(*_arguments(federation, tmp_path / "a"))) == alone


def _arguments(
    federation: Federation, folder: Path
) -> tuple[BundleFolder, str, int, dict[str, bytes]]:
    bundle = BundleFolder(federation.write(folder))
    return bundle, R1, len(federation.logs[R1]), consent_keys(federation)


@pytest.mark.usefixtures("processes")
def test_a_verdict_by_processes_is_the_same(federation: Federation, tmp_path: Path) -> None:
    run = federation.write(tmp_path)
    by_processes = verify_bundle(run).to_record()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_reading, "_WORTH_PROCESSES", 1 << 40)
        assert verify_bundle(run).to_record() == by_processes
    assert by_processes["verified"]


@pytest.mark.usefixtures("processes")
def test_processes_find_a_bad_signature_and_a_missing_tile(
    federation: Federation, tmp_path: Path
) -> None:
    forged = federation.copy()
    index = forged.find(R1, "consent", 270)
    entry = forged.logs[R1][index]
    other = forged.logs[R1][index + 1]
    start = entry.index(b'"sig":"')
    forged.logs[R1][index] = entry[:start] + other[other.index(b'"sig":"') :]
    run = forged.write(tmp_path)
    failures = {(f.code, f.party, f.index) for f in verify_bundle(run).failures}
    assert ("record", R1, index) in failures
    (run / f"bundle/logs/{R1}/tile/entries/000").unlink()
    failures = {(f.code, f.party, f.index) for f in verify_bundle(run).failures}
    assert ("entries-unreadable", R1, 0) in failures


def test_a_process_that_dies_is_no_verdict(
    federation: Federation, tmp_path: Path, processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = federation.write(tmp_path)
    monkeypatch.setattr(entry_reading, "_start_process", _die)
    with pytest.raises(StorageError, match="ended early"):
        verify_bundle(run)


def _die(*_: object) -> None:
    raise SystemExit(1)


def test_a_tile_that_is_missing_is_named(federation: Federation, tmp_path: Path) -> None:
    bundle, party, size, keys = _arguments(federation, tmp_path)
    (bundle.root / f"logs/{R1}/tile/entries/000").unlink()
    with pytest.raises(InputError, match="entries/000 is missing"):
        list(read_entries(bundle, party, size, keys))
