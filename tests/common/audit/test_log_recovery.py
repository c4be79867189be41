"""A log after a crash, a power cut, or a change of its file."""

from __future__ import annotations

import random
import re
import shutil
from contextlib import contextmanager

import apsw
import pytest

from common.audit import merkle
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.log import AuditLog
from common.audit.log_store import LogStore
from common.errors import InputError, StorageError
from simulations.faults.disk import fault_vfs
from tests.support.memory_signer import MemorySigner

ORIGIN = "retail-5.example/region-1"
SIGNER = MemorySigner("log")
KEY = NoteKey(ORIGIN, SIGNER.public_key)


def opened(path, **options):
    return AuditLog.open(path, origin=ORIGIN, signer=SIGNER, **options)


def entries_of(size, start=0):
    return [b"entry %d" % number for number in range(start, start + size)]


def root_of(size):
    return merkle.root_hash([merkle.leaf_hash(entry) for entry in entries_of(size)])


@pytest.fixture
def path(tmp_path):
    """A log of 600 entries in three batches, closed."""
    path = tmp_path / "audit.log"
    with opened(path, create=True) as log:
        for width in (300, 1, 299):
            log.append(entries_of(width, log.size))
    return path


def change(path, *statements):
    """Changes the file as an attacker with its rights can: past the triggers, which stay as is."""
    raw = apsw.Connection(str(path))
    triggers = raw.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        raw.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        raw.execute(statement)
    for _, sql in triggers:
        raw.execute(sql)
    raw.close()


@pytest.mark.parametrize(
    ("what", "statements"),
    [
        ("has 599 entries of 600", ["DELETE FROM entry WHERE leaf_index = 599"]),
        (
            "last entries are missing: it has 512, and signed 600",
            [
                "DELETE FROM entry WHERE leaf_index >= 512",
                "DELETE FROM tile WHERE level = 0 AND number = 2",
            ],
        ),
        ("not all of the entries 512 to 599", ["DELETE FROM entry WHERE leaf_index = 550"]),
        (
            "entry 599 is not the one",
            ["UPDATE entry SET data = x'00' WHERE leaf_index = 599"],
        ),
        (
            "do not give the root signed at size 600",
            ["UPDATE tile SET hashes = zeroblob(64) WHERE level = 1"],
        ),
        (
            "do not give the root signed at size 600",
            ["UPDATE checkpoint SET root = zeroblob(32) WHERE size = 600"],
        ),
        (
            "checkpoint 600: .*does not hold",
            [
                "UPDATE checkpoint SET note = CAST(replace(CAST(note AS TEXT),"
                " substr(CAST(note AS TEXT), -9, 4), 'AAAA') AS BLOB) WHERE size = 600"
            ],
        ),
        ("has 600 entries of 856", ["UPDATE tile SET number = 3 WHERE level = 0 AND number = 2"]),
        ("hash tile 0 of level 1 is missing", ["DELETE FROM tile WHERE level = 1"]),
        (
            "hash tile 0 of level 1 has 1 hashes, not 2",
            ["UPDATE tile SET hashes = substr(hashes, 1, 32) WHERE level = 1"],
        ),
        ("tables or append-only triggers", ["DROP TABLE checkpoint"]),
        ("tables or append-only triggers", ["CREATE TABLE more (x)"]),
    ],
)
def test_a_changed_file_is_refused_at_opening(path, what, statements):
    if "DROP TABLE" in statements[0]:
        raw = apsw.Connection(str(path))
        raw.execute(statements[0])
        raw.close()
    else:
        change(path, *statements)
    with pytest.raises(StorageError, match=what) as refusal:
        opened(path)
    assert str(path) in refusal.value.message
    assert refusal.value.remedy


def test_a_dropped_trigger_is_refused_at_opening(path):
    raw = apsw.Connection(str(path))
    raw.execute("DROP TRIGGER entry_no_update")
    raw.close()
    for open_it in (opened, AuditLog.open_read_only):
        with pytest.raises(StorageError, match="triggers"):
            open_it(path)


def test_an_old_entry_that_was_changed_is_named_when_it_is_read(path, tmp_path):
    change(path, "UPDATE entry SET data = x'00' WHERE leaf_index = 7")
    with opened(path) as log:
        assert len(list(log.entries(8))) == 592
        with pytest.raises(StorageError, match="entry 7 is not the one that was logged"):
            list(log.entries())
        with pytest.raises(StorageError, match="entry 7"):
            log.export(tmp_path / "out")


def test_entries_that_changed_places_are_named(path):
    change(
        path,
        "UPDATE entry SET leaf_index = 9999 WHERE leaf_index = 7",
        "UPDATE entry SET leaf_index = 7 WHERE leaf_index = 8",
        "UPDATE entry SET leaf_index = 8 WHERE leaf_index = 9999",
    )
    with opened(path) as log, pytest.raises(StorageError, match="entry 7 is not"):
        list(log.entries())


def test_no_proof_is_made_from_a_changed_tile(path):
    change(path, "UPDATE tile SET hashes = zeroblob(8192) WHERE level = 0 AND number = 0")
    with opened(path) as log, pytest.raises(StorageError, match="hash tile 0 of level 0"):
        log.inclusion_proof(3, 600)


def test_an_entry_and_its_tile_changed_together_are_found_too(path):
    leaf = merkle.leaf_hash(b"forged").hex()
    change(
        path,
        "UPDATE entry SET data = CAST('forged' AS BLOB) WHERE leaf_index = 0",
        f"UPDATE tile SET hashes = CAST(x'{leaf}' || substr(hashes, 33) AS BLOB)"
        " WHERE level = 0 AND number = 0",
    )
    with opened(path) as log, pytest.raises(StorageError, match="hash tile 0 of level 0"):
        list(log.entries())


def test_an_old_checkpoint_that_was_changed_is_not_handed_out(path):
    change(path, "UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 301)")
    with pytest.raises(StorageError):
        opened(path)
    change(path, "DELETE FROM checkpoint WHERE size > 301")
    with opened(path) as log:
        with pytest.raises(StorageError, match="signed at size 300"):
            log.checkpoint_at(300)
        assert log.size == 600


def test_an_unsigned_tail_is_signed_and_reported(path):
    change(path, "DELETE FROM checkpoint WHERE size = 600")
    with opened(path) as log:
        assert log.recovered == range(301, 600)
        assert open_checkpoint(log.checkpoint(), KEY).checkpoint.root == root_of(600)
    with opened(path) as log:
        assert not log.recovered


def test_a_tail_without_tiles_is_completed_and_reported(path):
    raw = apsw.Connection(str(path))
    for index, entry in enumerate(entries_of(500, 600), 600):
        raw.execute("INSERT INTO entry VALUES (?, ?)", (index, entry))
    raw.close()
    with AuditLog.open_read_only(path) as reader:
        assert (reader.size, reader.root) == (1100, root_of(1100))
        assert reader.recovered == range(600, 1100)
        with pytest.raises(StorageError, match="no stored checkpoint"):
            reader.checkpoint()
    with opened(path) as log:
        assert (log.size, log.root) == (1100, root_of(1100))
        assert log.recovered == range(600, 1100)
        log.append(entries_of(1, 1100))
    with opened(path) as log:
        assert (log.size, log.root) == (1101, root_of(1101))
        assert [data for _, data in log.entries()] == entries_of(1101)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00", b"x"])
def test_a_file_that_is_no_log_is_refused(tmp_path, content):
    path = tmp_path / "audit.log"
    path.write_bytes(content)
    for open_it in (opened, lambda path: opened(path, create=True), AuditLog.open_read_only):
        with pytest.raises(StorageError, match=re.escape(str(path))):
            open_it(path)
    assert path.read_bytes() == content


def test_another_program_s_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    raw = apsw.Connection(str(path))
    raw.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not an audit log"):
        opened(path, create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_are_an_error_that_names_the_file_or_change_nothing(path, tmp_path, seed):
    """Wherever a bit flips: never a wrong entry, root or proof, never a foreign error."""
    whole, rng = path.read_bytes(), random.Random(seed)
    expected = list(enumerate(entries_of(600)))
    copy = tmp_path / "flipped.log"
    for _ in range(12):
        at = rng.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.randrange(8)
        copy.write_bytes(flipped)
        refusal = None
        try:
            with AuditLog.open_read_only(copy) as log:
                assert list(log.entries()) == expected[: log.size], f"byte {at}"
                assert log.root == root_of(600), f"byte {at}"
                assert open_checkpoint(log.checkpoint(), KEY).checkpoint.size == 600
        except StorageError as error:
            refusal = error.message
        assert refusal is None or str(copy) in refusal or "no stored checkpoint" in refusal


def test_after_a_power_cut_all_that_was_acknowledged_is_there(tmp_path):
    """What was synced when ``append`` returned is all that may be relied on."""
    left = tmp_path / "left"
    left.mkdir()
    with fault_vfs() as vfs:
        vfs.survivors = left
        log = opened(tmp_path / "audit.log", create=True)
        for _ in range(12):
            log.append(entries_of(50, log.size))
            cut = tmp_path / f"cut-{log.size}"
            shutil.copytree(left, cut)
        vfs.survivors = None
        log.close()
    for size in range(50, 601, 50):
        with opened(tmp_path / f"cut-{size}" / "audit.log") as log:
            assert (log.size, log.root) == (size, root_of(size))
            assert not log.recovered


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
def test_a_disk_that_fails_at_any_write_leaves_the_log_whole(path, tmp_path, error):
    """Fails each write and sync of an append in turn; then the disk works again."""
    copy = tmp_path / "copy.log"
    refusals = []
    with fault_vfs() as vfs:
        for number in range(1, 100):
            shutil.copyfile(path, copy)
            log = opened(copy)
            first = vfs.operations

            def fail(operation, at=first + number):
                if operation == at:
                    raise error("the disk's answer")

            vfs.fault = fail
            try:
                log.append(entries_of(200, 600))
            except StorageError as refusal:
                refusals.append(refusal)
            failed = vfs.operations >= first + number
            vfs.fault = lambda _: None
            assert log.size in (600, 800)
            log.append(entries_of(801 - log.size, log.size))
            assert (log.size, log.root) == (801, root_of(801))
            log.close()
            with opened(copy) as log:
                assert (log.size, log.root) == (801, root_of(801))
                assert [data for _, data in log.entries(500)] == entries_of(301, 500)
                assert not log.recovered
            if not failed:
                break
        assert not failed
    assert len(refusals) > 5
    assert all(str(copy) in each.message and each.remedy for each in refusals)


def test_a_crash_while_the_log_is_made_leaves_one_that_can_be_made(tmp_path):
    with fault_vfs() as vfs:
        for number in range(1, 100):
            path = tmp_path / f"{number}.log"
            first = vfs.operations

            def fail(operation, at=first + number):
                if operation >= at:
                    raise apsw.IOError("the disk's answer")

            vfs.fault = fail
            try:
                opened(path, create=True).close()
                done = True
            except StorageError:
                done = False
            vfs.fault = lambda _: None
            with opened(path, create=True) as log:
                assert log.size == 0
                log.append([b"x"])
            if done:
                break
        assert 5 < number < 99


def test_a_signer_that_fails_leaves_the_batch_out(path):
    class Unwilling(MemorySigner):
        willing = True

        def sign(self, message):
            if not self.willing:
                raise InputError("the key store is away")
            return super().sign(message)

    signer = Unwilling("log")
    with AuditLog.open(path, origin=ORIGIN, signer=signer) as log:
        signer.willing = False
        with pytest.raises(InputError, match="key store"):
            log.append(entries_of(5, 600))
        assert (log.size, log.root) == (600, root_of(600))
        signer.willing = True
        assert log.append(entries_of(5, 600)) == range(600, 605)
        assert log.root == root_of(605)


def test_an_interrupt_after_the_commit_does_not_confuse_the_next_append(path, monkeypatch):
    unhindered = LogStore.transaction

    @contextmanager
    def interrupted(store):
        with unhindered(store):
            yield
        raise KeyboardInterrupt

    with opened(path) as log:
        monkeypatch.setattr(LogStore, "transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(entries_of(5, 600))
        monkeypatch.undo()
        assert log.append(entries_of(5, 605)) == range(605, 610)
        assert log.root == root_of(610)
        assert [data for _, data in log.entries()] == entries_of(610)


def test_every_commit_waits_for_the_disk(path):
    store = LogStore.open(path, origin=ORIGIN, create=False)
    assert store._connection.pragma("journal_mode") == "wal"
    assert store._connection.pragma("synchronous") == 2
    store.close()
