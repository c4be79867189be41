"""Which logs a witness watches, and with which keys, as the key registry changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.audit.checkpoint import NoteKey
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.store import WitnessStore
from common.audit.witness.watched_registry import WatchedRegistry
from common.audit.witness.witness import UnknownLogError, UnsignedError, Witness
from common.errors import InputError, VerificationError
from tests.support.branching_log import BranchingLog
from tests.support.memory_signer import MemorySigner
from tests.support.small_registry import (
    ROOT,
    START_MS,
    YEAR_MS,
    key_entry,
    registry_chain,
    registry_of,
)

LOG = BranchingLog()
WITNESS = MemorySigner("witness")
NOW_MS = START_MS + YEAR_MS
OLD = key_entry("region-1", "log", LOG.signer.public_key)
NEW_SIGNER = MemorySigner("next log key")
NEW = key_entry("region-1", "log", NEW_SIGNER.public_key, not_before_ms=NOW_MS)
SERVER = key_entry("server", "log", MemorySigner("server log").public_key)
OWN = key_entry("witness", "witness", WITNESS.public_key)
OTHER_ROLE = key_entry("region-2", "trainer", MemorySigner("trainer").public_key)


def logs_of(*entries, at_ms=NOW_MS, but=None):
    return RegistryLogs(lambda: registry_of(entries), but=but, clock_ms=lambda: at_ms)


def test_the_logs_are_those_of_parties_with_a_log_key():
    logs = logs_of(OLD, NEW, SERVER, OWN, OTHER_ROLE)
    assert list(logs) == ["small.example/region-1", "small.example/server"]
    assert len(logs) == 2
    keys = [NoteKey(LOG.origin, entry.public_key) for entry in (OLD, NEW)]
    assert list(logs[LOG.origin]) == keys


@pytest.mark.parametrize(
    "origin",
    ["small.example/witness", "small.example/region-2", "other.example/region-1", "region-1", ""],
)
def test_nothing_else_is_a_log(origin):
    assert logs_of(OLD, OWN, OTHER_ROLE).get(origin) is None


def test_nobody_is_their_own_witness():
    logs = logs_of(OLD, SERVER, but="region-1")
    assert list(logs) == ["small.example/server"]
    assert LOG.origin not in logs


@pytest.mark.parametrize(
    ("entry", "counts"),
    [
        (OLD, True),
        (replace(OLD, not_before_ms=NOW_MS), True),
        (replace(OLD, not_before_ms=NOW_MS + 1), False),
        (replace(OLD, not_after_ms=NOW_MS + 1), True),
        (replace(OLD, not_after_ms=NOW_MS), False),
        (replace(OLD, revoked_at_ms=NOW_MS + 1), True),
        (replace(OLD, revoked_at_ms=NOW_MS), False),
    ],
)
def test_a_key_counts_only_while_it_is_in_force(tmp_path, entry, counts):
    logs = logs_of(entry)
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        witness = Witness(store, name="witness", signer=WITNESS, log_keys=logs)
        if counts:
            assert witness.cosign(LOG.note(3), 0, [])
        else:
            # A known log without a key: 403, not 404.
            with pytest.raises(UnsignedError):
                witness.cosign(LOG.note(3), 0, [])


class Folder:
    def __init__(self, path, *versions):
        self.path = path
        self.path.mkdir()
        self.faults = []
        self.write(*versions)

    def write(self, *versions):
        for number, data in enumerate(registry_chain(*versions), start=1):
            (self.path / f"{number}.json").write_bytes(data)

    def watch(self, root_key_ids=(ROOT.key_id,)):
        return WatchedRegistry(
            self.path, root_key_ids=root_key_ids, on_fault=lambda error: self.faults.append(error)
        )


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "registry", [OLD, OWN])


def test_a_revocation_and_a_new_key_take_effect_as_they_come_in(tmp_path, folder):
    watched = folder.watch()
    logs = RegistryLogs(watched.current, clock_ms=lambda: NOW_MS)
    with WitnessStore.open(tmp_path / "witness.sqlite", create=True) as store:
        witness = Witness(store, name="witness", signer=WITNESS, log_keys=logs)
        assert witness.cosign(LOG.note(3), 0, [])
        revoked = replace(OLD, revoked_at_ms=NOW_MS)
        folder.write([OLD, OWN], [revoked, OWN, NEW])
        with pytest.raises(UnsignedError):
            witness.cosign(LOG.note(8), 3, LOG.proof(3, 8))
        assert witness.cosign(LOG.note(8, signer=NEW_SIGNER), 3, LOG.proof(3, 8))
        other = BranchingLog("small.example/server")
        with pytest.raises(UnknownLogError):
            witness.cosign(other.note(3), 0, [])
        server = key_entry("server", "log", other.signer.public_key)
        folder.write([OLD, OWN], [revoked, OWN, NEW], [revoked, OWN, NEW, server])
        assert witness.cosign(other.note(3), 0, [])
    assert folder.faults == []


def test_an_unchanged_folder_is_not_read_again(folder, monkeypatch):
    watched = folder.watch()
    first = watched.current()
    assert watched.current() is first


def write_garbage(path):
    (path / "2.json").write_bytes(b"{}")


def replace_first(path):
    other = registry_chain([OLD, OWN, NEW])
    (path / "1.json").write_bytes(other[0])


def remove_first(path):
    (path / "1.json").unlink()


def misname(path):
    (path / "x.json").write_bytes(b"{}")


def unsigned_second(path):
    chain = registry_chain([OLD, OWN], [OLD, OWN, NEW])
    (path / "2.json").write_bytes(
        chain[1].replace(b'"sig":"A', b'"sig":"B').replace(b'"sig":"', b'"sig":"AA', 1)
    )


@pytest.mark.parametrize(
    "change", [write_garbage, replace_first, remove_first, misname, unsigned_second]
)
def test_a_folder_that_does_not_verify_does_not_take_effect(folder, change):
    watched = folder.watch()
    before = watched.current()
    change(folder.path)
    assert watched.current() is before
    assert watched.current() is before
    assert len(folder.faults) == 1


def test_a_registry_with_other_root_keys_is_not_started_with(folder):
    with pytest.raises(VerificationError, match="root keys"):
        folder.watch(root_key_ids=["0" * 64])


def test_no_registry_is_said(tmp_path):
    with pytest.raises(InputError, match="no key registry"):
        WatchedRegistry(tmp_path / "none", on_fault=lambda _: None)
