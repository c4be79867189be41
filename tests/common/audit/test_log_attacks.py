"""L1 to L6, the attacks on a running log: those that are shown here, and where the others are.

Shown here are a second writer of another user (L2) and the torn read (L5).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from common.audit import merkle
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.log import AuditLog
from common.audit.log_store import LogStore
from common.errors import StorageError
from tests.support.log_appender import batch_at, entry_at
from tests.support.memory_signer import MemorySigner

REPOSITORY = Path(__file__).parents[3]
ORIGIN = "retail-5.example/region-1"
SIGNER = MemorySigner("log")
KEY = NoteKey(ORIGIN, SIGNER.public_key)
NOBODY = "65534"

ATTACKS = {
    "L1 crash in mid-append": {
        "test_log_writer": [
            "test_a_killed_writer_loses_nothing_that_it_acknowledged",
            "test_a_writer_killed_200_times_loses_nothing_that_it_acknowledged",
        ],
        "test_log_recovery": [
            "test_after_a_power_cut_all_that_was_acknowledged_is_there",
            "test_a_crash_while_the_log_is_made_leaves_one_that_can_be_made",
            "test_every_commit_waits_for_the_disk",
        ],
    },
    "L2 second writer": {
        "test_log_writer": [
            "test_a_second_writer_in_another_process_is_refused_with_the_first_one_s_pid",
            "test_a_second_writer_in_the_same_process_is_refused",
            "test_a_forked_child_cannot_use_its_parent_s_log",
        ],
        "test_log_attacks": ["test_l2_a_second_writer_of_another_user_is_refused"],
    },
    "L3 disk full": {
        "test_log_writer": ["test_a_full_disk_is_said_and_what_was_acknowledged_stays"],
        "test_log_recovery": ["test_a_disk_that_fails_at_any_write_leaves_the_log_whole"],
    },
    "L4 read-only store": {
        "test_log_writer": [
            "test_a_read_only_place_is_said",
            "test_a_file_that_cannot_be_written_is_said",
            "test_a_log_in_a_read_only_place_can_be_read",
            "test_a_log_with_its_last_entries_still_in_the_side_file_is_not_read_without_it",
        ],
    },
    "L5 torn multi-query read": {
        "test_log_attacks": [
            "test_l5_an_append_between_a_reader_s_queries_is_not_seen",
            "test_l5_a_reader_without_one_view_is_torn",
            "test_l5_readers_beside_a_writer_see_whole_batches",
        ],
    },
    "L6 witness race": {
        "witness.test_witness_race": [
            "test_threads_with_one_store",
            "test_threads_with_a_store_each",
            "test_processes",
            "test_the_race_is_seen_where_the_transaction_does_not_shut_others_out",
        ],
    },
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_on_a_running_log_is_shown(attack: str) -> None:
    for module, names in ATTACKS[attack].items():
        tests = import_module(f"tests.common.audit.{module}")
        missing = [name for name in names if not callable(getattr(tests, name, None))]
        assert not missing, f"{attack}: {module} lost {missing}"


def opened(path: Path, **options: bool) -> AuditLog:
    return AuditLog.open(path, origin=ORIGIN, signer=SIGNER, **options)


def root_of(size: int) -> bytes:
    return merkle.root_hash([merkle.leaf_hash(entry_at(index)) for index in range(size)])


# -- L2 --------------------------------------------------------------------------------------------


def can_be_another() -> bool:
    """Whether we may become another user, who can run this Python."""
    if shutil.which("setpriv") is None:
        return False
    return as_nobody("-c", "import tests.support.log_appender").returncode == 0


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    user = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    return subprocess.run(
        [*user, sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A folder that another user may write to as well."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not can_be_another(), reason="needs the right to become another user")
def test_l2_a_second_writer_of_another_user_is_refused(shared_place: Path) -> None:
    path = shared_place / "audit.log"
    with opened(path, create=True) as log:
        log.append(batch_at(0))
        second = as_nobody("-m", "tests.support.log_appender", str(path), ORIGIN)
        assert second.returncode != 0
        assert f"The lock file {path}.lock cannot be opened" in second.stderr
        # Whoever may open the lock is told who holds it.
        for file in shared_place.iterdir():
            file.chmod(0o666)
        second = as_nobody("-m", "tests.support.log_appender", str(path), ORIGIN)
        assert second.returncode != 0
        assert "WriterBusyError: Another process (pid " in second.stderr
        assert f"writes to the log {path}. Stop it" in second.stderr
        log.append(batch_at(log.size))
        assert [data for _, data in log.entries()] == [entry_at(at) for at in range(log.size)]


# -- L5 --------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@contextmanager
def appending_between_queries(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditLog]:
    """A log whose writer appends whenever a reader has read one part of it, before the next."""
    with opened(path, create=True) as writer:
        writer.append([entry_at(index) for index in range(300)])

        def interleaved(name: str) -> None:
            unhindered = getattr(LogStore, name)

            def read(store: LogStore, *arguments: int) -> object:
                answer = unhindered(store, *arguments)
                if not store.writable:
                    writer.append(batch_at(writer.size))
                return answer

            monkeypatch.setattr(LogStore, name, read)

        for name in ("entry_count", "tiled_size", "tile", "newest_checkpoint_size"):
            interleaved(name)
        yield writer


def test_l5_an_append_between_a_reader_s_queries_is_not_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appending_between_queries(path, monkeypatch) as writer:
        with AuditLog.open_read_only(path) as reader:
            assert reader.size == 300
            assert writer.size > 300
            assert not reader.recovered
            assert reader.root == root_of(300)
            assert open_checkpoint(reader.checkpoint(), KEY).checkpoint.size == 300
            assert [data for _, data in reader.entries()] == [entry_at(at) for at in range(300)]
            proof = reader.inclusion_proof(7, 300)
        leaf = merkle.leaf_hash(entry_at(7))
        merkle.verify_inclusion(leaf, 7, 300, proof, root_of(300))


def test_l5_a_reader_without_one_view_is_torn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the transaction is for: without it the same reader takes an honest log for damaged."""

    @contextmanager
    def no_view(store: LogStore) -> Iterator[None]:
        yield

    unhindered = LogStore.transaction

    def transaction(store: LogStore) -> object:
        return unhindered(store) if store.writable else no_view(store)

    with appending_between_queries(path, monkeypatch):
        monkeypatch.setattr(LogStore, "transaction", transaction)
        with pytest.raises(StorageError, match="it has 300 entries of 3"):
            AuditLog.open_read_only(path)


def test_l5_readers_beside_a_writer_see_whole_batches(path: Path) -> None:
    opened(path, create=True).close()
    command = [sys.executable, "-m", "tests.support.log_appender", str(path), ORIGIN]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert writer.stdout is not None
    seen: dict[int, bytes] = {}
    acknowledged = [writer.stdout.readline()]
    # A writer whose pipe is full would wait for us, and we for it.
    listening = threading.Thread(target=lambda: acknowledged.extend(writer.stdout or ()))
    listening.start()
    try:
        while len(seen) < 40:
            with AuditLog.open_read_only(path) as reader:
                assert not reader.recovered
                signed = open_checkpoint(reader.checkpoint(), KEY).checkpoint
                assert (signed.size, signed.root) == (reader.size, reader.root)
                last = [data for _, data in reader.entries(max(0, reader.size - 300))]
                first = reader.size - len(last)
                assert last == [entry_at(first + at) for at in range(len(last))]
                seen[reader.size] = reader.root
    finally:
        writer.kill()
        listening.join()
        writer.wait()
    told = {int(size): root.decode() for size, root in (line.split() for line in acknowledged[:-1])}
    with opened(path) as log:
        for size, root in seen.items():
            assert log.root_at(size) == root
            assert told.get(size, root.hex()) == root.hex()
        assert len(seen.keys() & told.keys()) > 20
