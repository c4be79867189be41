"""What a witness remembers over restarts, power cuts and full disks; own cosignatures."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    NoteKey,
    add_cosignature,
    open_checkpoint,
    parse_note,
    sign_note,
)
from common.audit.witness import database
from common.audit.witness import store as store_module
from common.audit.witness.store import SPLIT_VIEW, UNPROVEN, CosignatureStore, WitnessStore
from common.audit.witness.witness import ConflictError
from common.errors import InputError, StorageError
from simulations.faults.disk import fault_vfs
from tests.support.branching_log import BranchingLog
from tests.support.memory_signer import MemorySigner
from tests.support.witness_racer import LOG, make_witness, outcome


@pytest.fixture
def path(tmp_path):
    return tmp_path / "witness.sqlite"


@pytest.fixture
def store(path):
    with WitnessStore.open(path, create=True) as store:
        yield store


def test_the_file_is_its_owners_alone_and_strict(path, store):
    outcome(store, 3, 0, "true")
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
    connection = apsw.Connection(os.fspath(path))
    assert connection.pragma("journal_mode") == "wal"
    tables = connection.execute(
        "SELECT strict FROM pragma_table_list WHERE name IN "
        "('head', 'cosigned', 'evidence', 'cosignature')"
    ).fetchall()
    assert tables == [(1,)] * 4
    assert store.database._connection.pragma("synchronous") == 2  # FULL


def test_a_lost_memory_is_not_made_anew(path):
    with pytest.raises(InputError, match="no witness file") as refusal:
        WitnessStore.open(path)
    assert "rollback" in refusal.value.remedy
    assert not path.exists()


def test_creating_over_an_existing_memory_keeps_it(path, store):
    outcome(store, 3, 0, "true")
    with WitnessStore.open(path, create=True) as again:
        assert again.seen(LOG.origin).size == 3


def test_head_and_evidence_are_there_after_a_restart(path):
    with WitnessStore.open(path, create=True) as store:
        outcome(store, 8, 0, "true")
        assert outcome(store, 8, 8, "forked") == "conflict"
        assert outcome(store, 12, 8, "forked") == "conflict"
        before = store.seen(LOG.origin), store.evidence(), store.notes()
    with WitnessStore.open(path) as store:
        assert (store.seen(LOG.origin), store.evidence(), store.notes()) == before
        assert [each.kind for each in store.evidence()] == [SPLIT_VIEW, UNPROVEN]
        assert outcome(store, 3, 0, "true") == "stale"


def test_evidence_is_kept_once(store):
    outcome(store, 8, 0, "true")
    for _ in range(3):
        assert outcome(store, 8, 8, "forked") == "conflict"
        assert outcome(store, 12, 8, "forked") == "conflict"
    assert len(store.evidence()) == 2


def test_evidence_is_bounded_and_its_kinds_do_not_crowd_each_other_out(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_EVIDENCE", 3)
    outcome(store, 8, 0, "true")
    assert outcome(store, 8, 8, "forked") == "conflict"
    for size in range(9, 16):
        assert outcome(store, size, 8, "forked") == "conflict"
    found = store.evidence()
    assert [each.kind for each in found] == [SPLIT_VIEW] + [UNPROVEN] * 3
    sizes = [parse_note(each.other).text.split("\n")[1] for each in found]
    assert sizes == ["8", "13", "14", "15"]
    # Those of split views stay: the first ones say all.
    log = [BranchingLog(fork_at=fork) for fork in range(1, 7)]
    for each in log:
        with pytest.raises(ConflictError):
            make_witness(store).cosign(each.note(8, "forked"), 8, [])
    assert [each.kind for each in store.evidence()].count(SPLIT_VIEW) == 3


def test_earlier_checkpoints_are_bounded(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_COSIGNED", 4)
    for size in range(1, 10):
        assert outcome(store, size, size - 1, "true") == "cosigned"
    held = [size for size in range(10) if store.cosigned_at(LOG.origin, size)]
    assert held == [6, 7, 8, 9]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE head SET size = 1",
        "UPDATE head SET time_s = 1",
        "UPDATE head SET root = zeroblob(32)",
        "UPDATE head SET origin = 'x'",
        "DELETE FROM head",
        "UPDATE evidence SET other = x'00'",
        "DELETE FROM evidence",
    ],
)
def test_the_file_itself_refuses_to_go_back(path, store, change):
    outcome(store, 8, 0, "true")
    outcome(store, 8, 8, "forked")
    with pytest.raises(apsw.ConstraintError):
        apsw.Connection(os.fspath(path)).execute(change)


def test_a_removed_trigger_is_noticed(path, store):
    store.close()
    apsw.Connection(os.fspath(path)).execute("DROP TRIGGER head_stays")
    with pytest.raises(StorageError, match="triggers"):
        WitnessStore.open(path)


def test_another_kind_of_file_is_refused_and_left_as_it_is(path):
    path.write_bytes(b"no database")
    with pytest.raises(StorageError, match="not a witness's file"):
        WitnessStore.open(path, create=True)
    assert path.read_bytes() == b"no database"
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    for create in (True, False):
        with pytest.raises(StorageError, match="not a witness's file"):
            WitnessStore.open(path, create=create)


def test_a_damaged_file_gives_an_error_and_no_cosignature(path):
    with WitnessStore.open(path, create=True) as store:
        for size in range(1, 20):
            outcome(store, size, size - 1, "true")
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data)):
        data[at] = 0x5A
    path.write_bytes(data)
    with pytest.raises(StorageError) as refusal:
        with WitnessStore.open(path) as store:
            outcome(store, 20, 19, "true")
    assert str(path) in refusal.value.message


def test_a_locked_file_is_said(path, store, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 30)
    other = apsw.Connection(os.fspath(path))
    with WitnessStore.open(path) as mine:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            outcome(mine, 3, 0, "true")
        other.execute("ROLLBACK")
        assert outcome(mine, 3, 0, "true") == "cosigned"


def attempt(store, branch):
    try:
        return outcome(store, 12, 8, branch)
    except StorageError as error:
        return error.message


@pytest.mark.parametrize(("error", "said"), [(apsw.FullError, "full"), (apsw.IOError, "used")])
@pytest.mark.parametrize("branch", ["true", "forked"])
def test_a_disk_that_fails_at_any_write_gives_no_cosignature(tmp_path, error, said, branch):
    """At each write in turn; also of evidence. The next try, with room, goes well."""
    expected = {"true": "cosigned", "forked": "conflict"}[branch]
    with fault_vfs() as disk:
        for number in range(1, 60):
            path = tmp_path / f"{number}.sqlite"
            with WitnessStore.open(path, create=True) as store:
                outcome(store, 8, 0, "true")
                last = disk.operations + number

                def fail(operation, last=last):
                    if operation >= last:
                        raise error("no")

                disk.fault = fail
                came = attempt(store, branch)
                disk.fault = lambda _: None
                if came == expected:
                    break
                assert said in came
                assert str(path) in came
                assert store.seen(LOG.origin).size == 8
                assert store.evidence() == []
                assert outcome(store, 12, 8, branch) == expected
    assert 2 < number < 59


def test_what_was_cosigned_is_on_the_disk_after_a_power_cut(tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    path = tmp_path / "witness.sqlite"
    with fault_vfs() as disk:
        disk.survivors = cut
        store = WitnessStore.open(path, create=True)
        outcome(store, 8, 0, "true")
        assert outcome(store, 12, 8, "forked") == "conflict"
        after = tmp_path / "after"
        shutil.copytree(cut, after)
        disk.survivors = None
        store.close()
    with WitnessStore.open(after / path.name) as store:
        assert store.seen(LOG.origin).size == 8
        assert len(store.evidence()) == 1


@contextmanager
def as_nobody():
    """Root may write anywhere; here it is another user for a while."""
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o444, 0o777), (0o444, 0o555)])
def test_a_read_only_store_is_said(mode, folder_mode):
    folder = Path(tempfile.mkdtemp())
    path = folder / "witness.sqlite"
    try:
        WitnessStore.open(path, create=True).close()
        path.chmod(mode)
        folder.chmod(folder_mode)
        with as_nobody(), pytest.raises(StorageError, match="opened or written") as refusal:
            WitnessStore.open(path)
        assert str(path) in refusal.value.message
        assert "right to write" in refusal.value.remedy
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


ONE, TWO = MemorySigner("one"), MemorySigner("two")
KEYS = [
    NoteKey("one", ONE.public_key, COSIGNATURE_V1),
    NoteKey("two", TWO.public_key, COSIGNATURE_V1),
]


def line_of(size, name, signer, time_s, branch="true"):
    note = add_cosignature(LOG.note(size, branch), name, signer, time_s=time_s).encode()
    return parse_note(note).signatures[-1].line


@pytest.fixture
def kept(store):
    return CosignatureStore(store, LOG.origin)


def test_cosignatures_are_kept_and_merged_into_the_note(kept):
    lines = [line_of(8, "one", ONE, 100), line_of(8, "two", TWO, 101)]
    assert kept.keep(LOG.note(8), lines, KEYS) == ("one", "two")
    signed = open_checkpoint(kept.note(8, LOG.note(8)), LOG.key, KEYS)
    assert signed.cosigned_at_s == {"one": 100, "two": 101}
    assert kept.sizes() == [8]
    assert kept.note(5, LOG.note(5)) == LOG.note(5)


def test_keeping_again_changes_nothing_and_later_ones_take_the_place_of_earlier(kept):
    for time_s in (100, 100, 90, 120, 110):
        kept.keep(LOG.note(8), [line_of(8, "one", ONE, time_s)], KEYS)
    merged = kept.note(8, kept.note(8, LOG.note(8)))
    assert merged == kept.note(8, LOG.note(8))
    assert open_checkpoint(merged, LOG.key, KEYS).cosigned_at_s == {"one": 120}


def test_without_renewal_an_earlier_cosignature_stays_and_another_witness_is_added(kept):
    kept.keep(LOG.note(8), [line_of(8, "one", ONE, 100)], KEYS)
    lines = [line_of(8, "one", ONE, 220), line_of(8, "two", TWO, 220)]
    assert kept.keep(LOG.note(8), lines, KEYS, renew=False) == ("one", "two")
    signed = open_checkpoint(kept.note(8, LOG.note(8)), LOG.key, KEYS)
    assert signed.cosigned_at_s == {"one": 100, "two": 220}


def test_only_what_verifies_under_a_given_key_is_kept(kept):
    good = line_of(8, "one", ONE, 100)
    lines = [
        line_of(8, "one", TWO, 100),  # another key under a known name
        line_of(8, "three", MemorySigner("three"), 100),  # an unknown witness
        line_of(9, "two", TWO, 100),  # of another size
        line_of(8, "two", TWO, 100, "forked"),  # of another root
        LOG.note(8).decode().split("\n\n")[1],  # the log's own signature
        good.rstrip("\n"),
        good + good,
        "\u2014 two \n",
        "nonsense\n",
        "",
        "\ud800\n",
        good,
    ]
    assert kept.keep(LOG.note(8), lines, KEYS) == ("one",)
    assert open_checkpoint(kept.note(8, LOG.note(8)), LOG.key, KEYS).cosigned_at_s == {"one": 100}
    assert kept.sizes() == [8]


def test_a_witness_key_that_is_not_given_does_not_count(kept):
    assert kept.keep(LOG.note(8), [line_of(8, "one", ONE, 100)], KEYS[1:]) == ()
    plain = NoteKey("one", ONE.public_key)
    signed = sign_note(LOG.checkpoint(8).body(), "one", ONE).split("\n\n")[1]
    assert kept.keep(LOG.note(8), [signed], [plain]) == ()
    assert kept.sizes() == []


def test_another_logs_checkpoint_or_size_is_refused(kept):
    other = BranchingLog("small.example/region-2")
    with pytest.raises(InputError, match="region-2"):
        kept.keep(other.note(8), [], KEYS)
    with pytest.raises(InputError, match="size 8"):
        kept.note(9, LOG.note(8))


def test_cosignatures_of_another_root_of_the_same_size_are_not_merged(kept):
    kept.keep(LOG.note(8, "forked"), [line_of(8, "one", ONE, 100, "forked")], KEYS)
    assert kept.note(8, LOG.note(8)) == LOG.note(8)


def test_own_cosignatures_are_there_after_a_restart_beside_the_witnesses_memory(path, store, kept):
    outcome(store, 3, 0, "true")
    kept.keep(LOG.note(8), [line_of(8, "one", ONE, 100)], KEYS)
    store.close()
    with WitnessStore.open(path) as again:
        assert CosignatureStore(again, LOG.origin).sizes() == [8]
        assert CosignatureStore(again, "other.example/x").sizes() == []
        assert again.seen(LOG.origin).size == 3
