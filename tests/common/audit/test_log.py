from __future__ import annotations

import random
import stat
import threading

import apsw
import pytest

from common.audit import merkle
from common.audit.checkpoint import Checkpoint, NoteKey, open_checkpoint
from common.audit.log import AuditLog, LogMovedError
from common.audit.log_store import LogStore
from common.audit.tiles import decode_bundle
from common.errors import FormatError, InputError, StorageError
from tests.support.memory_signer import MemorySigner

ORIGIN = "retail-5.example/region-1"
SIGNER = MemorySigner("log")
KEY = NoteKey(ORIGIN, SIGNER.public_key)


def opened(path, **options):
    return AuditLog.open(path, origin=ORIGIN, signer=SIGNER, **options)


def entries_of(size, start=0):
    return [b"entry %d" % number for number in range(start, start + size)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.log"


@pytest.fixture
def log(path):
    with opened(path, create=True) as log:
        yield log


def checkpoint_of(note):
    return open_checkpoint(note, KEY).checkpoint


def test_a_new_log_is_empty_and_signed(log, path):
    assert (log.size, log.root, log.origin) == (0, merkle.EMPTY_ROOT, ORIGIN)
    assert checkpoint_of(log.checkpoint()) == Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)
    assert list(log.entries()) == []
    assert not log.recovered
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_is_made_only_when_asked_to(path):
    with pytest.raises(InputError, match=str(path)):
        opened(path)
    with pytest.raises(InputError, match=str(path)):
        AuditLog.open_read_only(path)
    assert not path.exists()


def test_opening_with_create_keeps_the_log_that_is_there(path):
    with opened(path, create=True) as log:
        log.append(entries_of(3))
    with opened(path, create=True) as log:
        assert log.size == 3


def test_append_returns_the_indices(log):
    assert log.append(entries_of(2)) == range(2)
    assert log.append(entries_of(3, 2)) == range(2, 5)
    assert log.append([]) == range(5, 5)
    assert list(log.entries()) == list(enumerate(entries_of(5)))


def test_a_batch_for_a_size_that_has_passed_is_left_out(log):
    log.append(entries_of(2), expected_size=0)
    with pytest.raises(LogMovedError, match="2 entries by now, not 1"):
        log.append([b"judged too early"], expected_size=1)
    assert [data for _, data in log.entries()] == entries_of(2)
    assert log.append([b"judged anew"], expected_size=2) == range(2, 3)


def test_every_batch_has_a_signed_checkpoint_in_the_file(log, path):
    for size in (1, 3, 4):
        log.append(entries_of(size - log.size, log.size))
    raw = apsw.Connection(str(path))
    stored = raw.execute("SELECT size, note FROM checkpoint ORDER BY size").fetchall()
    assert [size for size, _ in stored] == [0, 1, 3, 4]
    for size, note in stored:
        assert checkpoint_of(note) == Checkpoint(ORIGIN, size, log.root_at(size))
        assert log.checkpoint_at(size) == note


def test_roots_and_proofs_are_those_of_the_tree_over_all_entries(log):
    rng = random.Random(1)
    hashes = []
    for width in [1, 254, 1, 1, 255, 256, 257, 3, 513, 2]:
        batch = [rng.randbytes(rng.randrange(40)) for _ in range(width)]
        log.append(batch)
        hashes += map(merkle.leaf_hash, batch)
        assert log.root == merkle.root_hash(hashes)
    assert [log.leaf_hash(index) for index in range(log.size)] == hashes
    sizes = sorted({1, 2, 255, 256, 257, 512, 1024, log.size, *rng.sample(range(1, log.size), 20)})
    for size in sizes:
        assert log.root_at(size) == merkle.root_hash(hashes[:size])
        index = rng.randrange(size)
        assert log.inclusion_proof(index, size) == merkle.inclusion_proof(hashes, index, size)
        old = rng.randrange(1, size + 1)
        assert log.consistency_proof(old, size) == merkle.consistency_proof(hashes, old, size)


def test_a_reopened_log_goes_on_where_it_was(path):
    hashes, batches = [], [1, 255, 3, 600, 1]
    for width in batches:
        with opened(path, create=True) as log:
            assert (log.size, log.root) == (len(hashes), merkle.root_hash(hashes))
            assert not log.recovered
            before = log.checkpoint()
            batch = entries_of(width, log.size)
            log.append(batch)
        hashes += map(merkle.leaf_hash, batch)
        with opened(path) as log:
            assert log.root == merkle.root_hash(hashes)
            assert log.checkpoint_at(len(hashes) - width) == before


def test_entries_of_a_range(log):
    log.append(entries_of(600))
    expected = list(enumerate(entries_of(600)))
    for start, stop in [(0, 600), (0, 0), (600, 600), (255, 257), (256, 512), (10, 599)]:
        assert list(log.entries(start, stop)) == expected[start:stop]
    assert list(log.entries(start=590)) == expected[590:]


def test_entries_read_while_the_log_grows_end_where_it_ended(log):
    log.append(entries_of(300))
    reading = log.entries()
    next(reading)
    log.append(entries_of(300, 300))
    assert len(list(reading)) == 299


@pytest.mark.parametrize("size", [0, 65_535])
def test_the_shortest_and_the_longest_entry(log, size):
    log.append([b"x" * size])
    assert list(log.entries()) == [(0, b"x" * size)]


@pytest.mark.parametrize("entry", [b"x" * 65_536, "text", bytearray(b"x"), None])
def test_what_is_no_entry_leaves_the_whole_batch_out(log, entry):
    with pytest.raises(FormatError):
        log.append([b"good", entry])
    assert log.size == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda log: log.leaf_hash(3),
        lambda log: log.leaf_hash(-1),
        lambda log: log.root_at(4),
        lambda log: log.root_at(-1),
        lambda log: log.inclusion_proof(3, 3),
        lambda log: log.inclusion_proof(0, 4),
        lambda log: log.consistency_proof(0, 3),
        lambda log: log.consistency_proof(1, 4),
        lambda log: log.consistency_proof(3, 2),
        lambda log: log.checkpoint_at(4),
        lambda log: log.entries(0, 4),
        lambda log: log.entries(3, 2),
        lambda log: log.entries(-1),
    ],
)
def test_what_is_not_in_the_log_is_refused(log, ask):
    log.append(entries_of(3))
    with pytest.raises(InputError):
        ask(log)


def test_a_checkpoint_of_any_earlier_size_is_signed_once(log):
    log.append(entries_of(300))
    first = log.checkpoint_at(123)
    assert checkpoint_of(first) == Checkpoint(ORIGIN, 123, log.root_at(123))
    assert log.checkpoint_at(123) == first


def test_another_key_signs_its_own_checkpoint_of_the_same_size(path):
    with opened(path, create=True) as log:
        log.append(entries_of(5))
        old = log.checkpoint()
    rotated = MemorySigner("next log key")
    with AuditLog.open(path, origin=ORIGIN, signer=rotated) as log:
        new = open_checkpoint(log.checkpoint(), NoteKey(ORIGIN, rotated.public_key))
        assert new.checkpoint == checkpoint_of(old)
        assert not log.recovered
    with opened(path) as log:
        assert log.checkpoint() == old


def test_another_origin_is_refused(path):
    opened(path, create=True).close()
    with pytest.raises(StorageError, match=f"log of {ORIGIN}, not of retail-5.example/region-2"):
        AuditLog.open(path, origin="retail-5.example/region-2", signer=SIGNER)
    with pytest.raises(FormatError):
        AuditLog.open(path, origin="no name", signer=SIGNER)


def test_a_closed_log_says_so(log):
    log.append(entries_of(2))
    reading = log.entries()
    log.close()
    log.close()
    for ask in (log.checkpoint, lambda: log.append([b"x"]), lambda: next(reading)):
        with pytest.raises(StorageError, match="closed"):
            ask()


def test_export_writes_the_static_layout(log, tmp_path):
    log.append(entries_of(3))
    log.append(entries_of(510, 3))
    log.export(tmp_path / "out", sizes=[3, 100])
    files = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert sorted(files) == [
        "checkpoint",
        "checkpoints/100",
        "checkpoints/3",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/1",
    ]
    assert files["checkpoint"] == log.checkpoint()
    assert files["checkpoints/3"] == log.checkpoint_at(3)
    assert checkpoint_of(files["checkpoints/100"]).root == log.root_at(100)
    read = []
    for name, width in [("000", 256), ("001", 256), ("002.p/1", 1)]:
        read += decode_bundle(files[f"tile/entries/{name}"], width)
    assert read == entries_of(513)


def test_export_of_an_empty_log_is_its_checkpoint(log, tmp_path):
    log.export(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").rglob("*")] == ["checkpoint"]


def test_export_mixes_with_nothing(log, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    with pytest.raises(InputError, match="not empty"):
        log.export(tmp_path / "out")


def test_several_threads_append_and_read(log):
    ranges, errors = [], []

    def work(number):
        try:
            for turn in range(10):
                batch = [b"thread %d turn %d entry %d" % (number, turn, each) for each in range(7)]
                indices = log.append(batch)
                ranges.append(indices)
                size = log.size
                proof = log.inclusion_proof(indices[0], size)
                leaf = merkle.leaf_hash(batch[0])
                merkle.verify_inclusion(leaf, indices[0], size, proof, log.root_at(size))
                assert [data for _, data in log.entries(indices.start, indices.stop)] == batch
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(index for each in ranges for index in each) == list(range(280))
    assert log.root == merkle.root_hash([merkle.leaf_hash(data) for _, data in log.entries()])


def test_a_reader_sees_the_log_as_it_was_when_opened(log, path):
    log.append(entries_of(300))
    with AuditLog.open_read_only(path) as reader:
        log.append(entries_of(700, 300))
        assert reader.size == 300
        assert reader.root == log.root_at(300)
        assert reader.origin == ORIGIN
        assert checkpoint_of(reader.checkpoint()).size == 300
        assert len(list(reader.entries())) == 300
        assert reader.inclusion_proof(280, 300) == log.inclusion_proof(280, 300)
        with pytest.raises(StorageError, match="reading only"):
            reader.append([b"x"])
        with pytest.raises(StorageError, match="no stored checkpoint of size 7"):
            reader.checkpoint_at(7)
    with AuditLog.open_read_only(path) as reader:
        assert reader.size == 1000


def test_a_reader_takes_size_and_tiles_from_one_view(log, path, monkeypatch):
    """A batch that comes between two of the reader's queries must not tear what it reads."""
    log.append(entries_of(10))
    unhindered = LogStore.tiled_size

    def hindered(store):
        if not store.writable:
            log.append(entries_of(5, log.size))
        return unhindered(store)

    monkeypatch.setattr(LogStore, "tiled_size", hindered)
    with AuditLog.open_read_only(path) as reader:
        assert reader.size == 10
        assert reader.root == log.root_at(10)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entry",
        "UPDATE entry SET data = x'00' WHERE leaf_index = 1",
        "INSERT INTO entry VALUES (1, x'00')",
        "INSERT OR REPLACE INTO entry VALUES (1, x'00')",
        "INSERT INTO entry VALUES (7, x'00')",
        "INSERT INTO entry VALUES (NULL, x'00')",
        "DELETE FROM tile",
        "UPDATE tile SET hashes = substr(hashes, 1, 32)",
        "UPDATE tile SET hashes = hashes",
        "UPDATE tile SET hashes = zeroblob(length(hashes) + 32)",
        "UPDATE tile SET number = 1",
        "INSERT OR REPLACE INTO tile VALUES (0, 0, zeroblob(32))",
        "INSERT INTO tile VALUES (0, 9, zeroblob(31))",
        "DELETE FROM checkpoint",
        "UPDATE checkpoint SET note = x'00'",
        "INSERT OR REPLACE INTO checkpoint SELECT * FROM checkpoint",
        "INSERT INTO checkpoint VALUES (99, 'key', zeroblob(32), x'00')",
        "DELETE FROM meta",
        "UPDATE meta SET value = 'x'",
        "INSERT OR REPLACE INTO meta VALUES ('origin', 'x')",
    ],
)
def test_the_file_itself_refuses_what_is_not_appending(path, statement):
    with opened(path, create=True) as log:
        log.append(entries_of(5))
        root = log.root
    raw = apsw.Connection(str(path))
    with pytest.raises(apsw.ConstraintError):
        raw.execute(statement)
    raw.close()
    with opened(path) as log:
        assert (log.size, log.root) == (5, root)


def test_a_reader_follows_its_writer(log, path):
    log.append(entries_of(3))
    with AuditLog.open_read_only(path) as reader:
        assert not reader.follow()
        for size in (4, 300, 301):
            log.append(entries_of(size - log.size, log.size))
            assert reader.size < size
            assert reader.follow()
            assert (reader.size, reader.root) == (size, log.root)
            assert not reader.follow()
        assert [data for _, data in reader.entries(298)] == entries_of(3, 298)
        assert checkpoint_of(reader.checkpoint()).size == 301


def test_a_writer_has_nobody_to_follow(log):
    with pytest.raises(InputError, match="open for writing"):
        log.follow()


def test_a_reader_does_not_follow_another_history(log, path):
    """Whoever changes what was logged before gets no reader to take it up."""
    log.append(entries_of(5))
    with AuditLog.open_read_only(path) as reader:
        other = path.with_name("other.log")
        with opened(other, create=True) as forged:
            forged.append(entries_of(7, start=100))
        with apsw.Connection(str(other)) as source, apsw.Connection(str(path)) as target:
            with target.backup("main", source, "main") as backup:
                backup.step()
        before = (reader.size, reader.root)
        for _ in range(2):
            with pytest.raises(StorageError, match="not those it had"):
                reader.follow()
        assert (reader.size, reader.root) == before


def test_a_log_that_nobody_is_thought_to_change_is_not_followed(log, path):
    log.append(entries_of(2))
    with AuditLog.open_read_only(path) as reader:
        # As where the log's side files cannot be made: see `_connect_read_only`.
        reader._store.unchanging = True
        with pytest.raises(StorageError, match="cannot be seen"):
            reader.follow()
