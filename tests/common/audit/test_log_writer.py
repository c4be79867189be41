"""One writer at a time, killed writers, full disks and read-only places."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from common.audit import merkle
from common.audit.log import AuditLog
from common.audit.writer_lock import WriterLock
from common.errors import StorageError
from tests.support.log_appender import batch_at, entry_at
from tests.support.memory_signer import MemorySigner

ORIGIN = "retail-5.example/region-1"
SIGNER = MemorySigner("log")


def opened(path, **options):
    return AuditLog.open(path, origin=ORIGIN, signer=SIGNER, **options)


def appender(path, *prefix):
    command = [*prefix, sys.executable, "-m", "tests.support.log_appender", str(path), ORIGIN]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.log"


def test_a_second_writer_in_another_process_is_refused_with_the_first_one_s_pid(path):
    first = appender(path)
    try:
        assert first.stdout.readline()
        with pytest.raises(StorageError, match=rf"pid {first.pid}\)") as refusal:
            opened(path)
        assert str(path) in refusal.value.message
        with AuditLog.open_read_only(path) as reader:
            assert reader.size > 0
    finally:
        first.kill()
        first.communicate()
    with opened(path) as log:
        assert log.size > 0


def test_a_second_writer_in_the_same_process_is_refused(path):
    with opened(path, create=True) as log:
        with pytest.raises(StorageError, match=f"pid {os.getpid()}"):
            opened(path)
        log.append([b"x"])
    opened(path).close()


def test_a_failed_opening_holds_no_lock(path):
    opened(path, create=True).close()
    with pytest.raises(StorageError):
        AuditLog.open(path, origin="another.example/log", signer=SIGNER)
    opened(path).close()


def test_a_lock_of_a_process_that_is_gone_holds_nobody_up(path):
    WriterLock(path).release()
    path.with_name("audit.log.lock").write_text("4000000\n", encoding="ascii")
    opened(path, create=True).close()


def test_a_forked_child_cannot_use_its_parent_s_log(path):
    with opened(path, create=True) as log:
        child = os.fork()
        if child == 0:
            try:
                log.append([b"from the child"])
            except StorageError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert log.append([b"x"]) == range(1)


def kill_at_random(path, times, seed):
    """Kills a writer again and again; nothing that it acknowledged may be lost or changed."""
    rng = random.Random(seed)
    acknowledged = {0: merkle.EMPTY_ROOT.hex()}
    killed_at_work = 0
    for _ in range(times):
        process = appender(path)
        assert process.stdout.readline(), process.stderr.read().decode()
        time.sleep(rng.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        output, errors = process.communicate()
        assert not errors, errors.decode()
        killed_at_work += process.returncode == -signal.SIGKILL
        whole = output[: output.rfind(b"\n") + 1].decode()
        acknowledged.update((int(size), root) for size, root in map(str.split, whole.splitlines()))
        with opened(path) as log:
            assert log.size >= max(acknowledged)
            assert not log.recovered
            for size, root in acknowledged.items():
                assert log.root_at(size).hex() == root
    with opened(path) as log:
        assert [data for _, data in log.entries()] == [entry_at(at) for at in range(log.size)]
        sizes = sorted(acknowledged)[1:]
        for old, new in pairwise(sizes):
            proof = log.consistency_proof(old, new)
            merkle.verify_consistency(old, new, proof, log.root_at(old), log.root_at(new))
    assert killed_at_work == times


def test_a_killed_writer_loses_nothing_that_it_acknowledged(path):
    kill_at_random(path, times=20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_writer_killed_200_times_loses_nothing_that_it_acknowledged(path):
    kill_at_random(path, times=200, seed=2)


def can_mount():
    probe = ["unshare", "--mount", "true"]
    return shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_full_disk_is_said_and_what_was_acknowledged_stays(tmp_path):
    """On a real disk of 1 MB; the copy is taken within, as the disk goes with its process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=1m none "$1" || exit 99;'
        ' "$2" -m tests.support.log_appender "$1/audit.log" "$3"; code=$?;'
        ' cp "$1"/audit.log* "$4"; exit $code'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh"]
    command += [str(disk), sys.executable, ORIGIN, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "StorageError" in result.stderr
    assert f"The disk of the audit log {disk}/audit.log is full" in result.stderr
    acknowledged = [line.split() for line in result.stdout.splitlines()]
    assert len(acknowledged) > 10
    with opened(tmp_path / "audit.log") as log:
        assert log.size == int(acknowledged[-1][0])
        for size, root in acknowledged:
            assert log.root_at(int(size)).hex() == root
        log.append(batch_at(log.size))
        assert [data for _, data in log.entries()] == [entry_at(at) for at in range(log.size)]


@contextmanager
def as_nobody():
    """Root may write anywhere; here it is another user for a while. Others stay who they are."""
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


@pytest.fixture
def place():
    """A folder below no private one, so that another user can reach it."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def closed_log(place):
    path = place / "audit.log"
    with opened(path, create=True) as log:
        log.append([entry_at(index) for index in range(300)])
    path.with_name("audit.log.lock").unlink()
    path.chmod(0o444)
    return path


def test_a_read_only_place_is_said(closed_log):
    closed_log.parent.chmod(0o555)
    with as_nobody(), pytest.raises(StorageError, match="cannot be opened") as refusal:
        opened(closed_log)
    assert str(closed_log) in refusal.value.message
    assert "writable" in refusal.value.remedy


def test_a_file_that_cannot_be_written_is_said(closed_log):
    closed_log.parent.chmod(0o777)
    with as_nobody(), pytest.raises(StorageError, match="opened or written") as refusal:
        opened(closed_log)
    assert str(closed_log) in refusal.value.message
    assert "right to write" in refusal.value.remedy


def test_a_log_in_a_read_only_place_can_be_read(closed_log):
    closed_log.parent.chmod(0o555)
    with as_nobody(), AuditLog.open_read_only(closed_log) as log:
        assert [data for _, data in log.entries()] == [entry_at(at) for at in range(300)]
        assert log.checkpoint()
        with pytest.raises(StorageError, match="reading only"):
            log.append([b"x"])


def test_a_log_with_its_last_entries_still_in_the_side_file_is_not_read_without_it(place, path):
    """Where SQLite's side files cannot be made, an old state must not pass for the log."""
    with opened(path, create=True) as log:
        log.append([b"x"])
        for name in ("audit.log", "audit.log-wal"):
            shutil.copyfile(path.with_name(name), place / name)
            (place / name).chmod(0o444)
    place.chmod(0o555)
    with as_nobody(), pytest.raises(StorageError, match="cannot be opened"):
        AuditLog.open_read_only(place / "audit.log")
