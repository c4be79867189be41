"""Registries longer than a log entry: logged by digest, found again, and verified."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from common.audit.entry import MAX_ENTRY_BYTES, make_entry
from common.audit.log import AuditLog
from common.audit.registry_entry import named_registry, registry_entry
from common.audit.verify import verify_bundle
from common.envelope import Envelope, sign_record, verify_envelope
from common.errors import FormatError
from common.registry_install import unlogged_versions
from tests.support.bundle_builder import REGIONS, SERVER, Federation
from tests.support.memory_signer import MemorySigner

R1, R2 = REGIONS
ROOT, TRAINER = MemorySigner("root"), MemorySigner("trainer")


def version(number: int, *, keys: int) -> bytes:
    """Something as long as a version with so many keys."""
    record = {
        "v": "fedpref-keys/1",
        "registry_version": number,
        "keys": [{"key_id": f"{key:064x}", "public_key": "0" * 64} for key in range(keys)],
    }
    return sign_record(record, ROOT, max_bytes=1 << 20)  # type: ignore[arg-type]


def test_a_version_that_fits_is_logged_as_it_is() -> None:
    short = version(1, keys=2)
    assert registry_entry(short, TRAINER) == short
    assert named_registry(short) is None


def test_a_longer_one_is_logged_by_its_digest() -> None:
    long = version(3, keys=500)
    assert len(long) > MAX_ENTRY_BYTES
    entry = registry_entry(long, TRAINER)
    envelope = Envelope.decode(entry)
    verify_envelope(envelope, {TRAINER.key_id: TRAINER.public_key})
    assert envelope.record() == {
        "v": "fedpref-keys-digest/1",
        "registry_version": 3,
        "sha256": hashlib.sha256(long).hexdigest(),
    }
    assert named_registry(entry) == hashlib.sha256(long).hexdigest()


def test_no_registry_has_no_entry() -> None:
    record = {"v": "fedpref-keys/1", "filling": "x" * MAX_ENTRY_BYTES}
    with pytest.raises(FormatError, match="no version number"):
        registry_entry(sign_record(record, ROOT, max_bytes=1 << 20), TRAINER)


def test_words_in_another_entry_are_no_registrys() -> None:
    incident = {
        "v": "fedpref-incident/1",
        "run": None,
        "round": None,
        "region": None,
        "party": "r",
        "reason": "x",
        "detail": "vnd.fedpref.keys-digest",
        "time": "2024-01-01T00:00:00.000Z",
    }
    assert named_registry(make_entry(incident, TRAINER)) is None  # type: ignore[arg-type]


def test_a_version_logged_by_digest_is_not_logged_twice(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    short, long = version(1, keys=2), version(2, keys=500)
    (folder / "1.json").write_bytes(short)
    (folder / "2.json").write_bytes(long)
    path = tmp_path / "log.sqlite"
    with AuditLog.open(path, origin="o/r", signer=MemorySigner("log"), create=True) as log:
        assert unlogged_versions(folder, log) == [short, long]
        log.append([short, b"something else"])
        assert unlogged_versions(folder, log) == [long]
        # By whichever key: a trainer key may have been rotated since.
        log.append([registry_entry(long, MemorySigner("earlier trainer"))])
        assert unlogged_versions(folder, log) == []


@pytest.mark.parametrize("party", [R1, SERVER])
@pytest.mark.parametrize("honest", [True, False])
def test_the_verifier_finds_the_version_that_is_named(
    party: str, honest: bool, tmp_path: Path
) -> None:
    federation = Federation().run()
    named = federation.registry[0] if honest else b"another registry"
    federation.log(
        party,
        {
            "v": "fedpref-keys-digest/1",
            "registry_version": 1,
            "sha256": hashlib.sha256(named).hexdigest(),
        },
    )
    verdict = verify_bundle(federation.write(tmp_path))
    messages = [failure.message for failure in verdict.failures if failure.party == party]
    assert any("digest of no key registry" in message for message in messages) == (not honest)
    assert verdict.verified == honest
