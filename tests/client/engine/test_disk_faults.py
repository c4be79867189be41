"""A disk that is full or fails at any write of a round: nothing leaves uncharged, all goes on.

The disk fails once, at one place, in an engine that stays open; then it works again and the
coordinator asks again. What SQLite writes fails in its file system, what we write ourselves at our
own failpoints.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import apsw
import pytest

from client.data.transactions import CheckedTransactions
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from client.engine.service import PrivacyEngine, open_engine
from common import failpoints
from common.errors import StorageError
from common.failpoints import Point
from common.parameters import save_arrays
from common.plan import RunPlan
from simulations.faults.disk import FaultVFS, fault_vfs
from simulations.faults.judge import Left, RegionJudge
from simulations.run_folder import RunFolder
from tests.support.cosigning import Header, ask, witnessed
from tests.support.small_federation import home_of, make_federation

#: The places of our own writes, where the system may answer as it does to a write or a sync.
FILES = (Point.FOLDER_MADE, Point.FILE_OPENED, Point.FILE_WRITTEN, Point.FILE_RENAMED)
#: At least so many writes, truncations, syncs and deletions of SQLite's are in a round.
SQLITE_WRITES = 36
REFUSED = {"status": "refused", "region": "region-1", "reason": "storage-failure"}


@dataclass
class Disk:
    """What fails, at which of its places, and where that was."""

    vfs: FaultVFS
    failed_at: str = ""

    @contextmanager
    def failing(self, at: int | Point, error: Callable[[], Exception]) -> Iterator[None]:
        """Fails at SQLite's n-th write in the body, or at each passing of a point."""
        self.failed_at = ""

        def fail(place: object) -> None:
            if place == at:
                self.failed_at = self.failed_at or (
                    str(at) if isinstance(at, Point) else self.vfs.operation
                )
                raise error()

        before = self.vfs.operations
        with self._answering(lambda number: fail(number - before), fail):
            yield

    @contextmanager
    def full(self, first: int) -> Iterator[None]:
        """Has no room for SQLite's n-th write in the body, and for nothing after it."""
        before, full = self.vfs.operations, False

        def write(number: int) -> None:
            nonlocal full
            full = full or number - before >= first
            if full:
                raise apsw.FullError("the disk is full")

        def pass_by(point: Point) -> None:
            if full and point in FILES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with self._answering(write, pass_by):
            yield

    @contextmanager
    def _answering(
        self, write: Callable[[int], None], pass_by: Callable[[Point], None]
    ) -> Iterator[None]:
        self.vfs.fault = write
        try:
            with patch.object(failpoints, "hook", pass_by):
                yield
        finally:
            self.vfs.fault = lambda _: None


@dataclass(frozen=True)
class Region:
    """A provisioned region, and its purchases, read once."""

    folder: RunFolder
    plan: RunPlan
    checked: CheckedTransactions

    @property
    def header(self) -> Header:
        """The first round's request."""
        return {
            "run": self.plan.run_id,
            "round": 1,
            "attempt": 1,
            "mechanism": "popularity",
            "plan": self.plan.digest,
            "cosignatures": [],
        }


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Region:
    folder, plan, _ = make_federation(tmp_path_factory.mktemp("disk") / "run", regions=1, quorum=1)
    home = home_of(folder)
    checked = RegionData(home, read_policy(home.policy)).checked_transactions()
    return Region(folder, plan, checked)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with fault_vfs() as vfs:
        yield Disk(vfs)


@contextmanager
def opened(region: Region, work: Path) -> Iterator[tuple[PrivacyEngine, RegionJudge]]:
    """An engine on a copy of the region's home, judged when it has closed."""
    copy = RunFolder(work / "run")
    shutil.copytree(region.folder.root, copy.root, symlinks=True)
    judge = RegionJudge(home_of(copy).root, cap=8.0, delta=1e-6)
    try:
        with patch.object(RegionData, "checked_transactions", lambda _: region.checked):
            with open_engine(home_of(copy)) as engine:
                yield engine, judge
            judge.ends(rounds=1)
            assert judge.faults == []
    finally:
        shutil.rmtree(copy.root)


def leave(judge: RegionJudge, engine: PrivacyEngine, region: Region) -> None:
    """The round is asked for, its answer leaves."""
    reply, arrays = ask(engine, region.header, {})
    assert reply["status"] == "ok", engine.last_refusal
    judge.sees_leaving(Left(region.plan.run_id, 1, 1, save_arrays(arrays), reply))


def refuses_once(
    region: Region, work: Path, disk: Disk, at: int | Point, error: Callable[[], Exception]
) -> bool:
    """One fault in the train request, and what comes after; whether there was one."""
    with opened(region, work) as (engine, judge):
        request = witnessed(engine, region.header)
        with disk.failing(at, error):
            reply, arrays = engine.call("train", request, {})
        if not disk.failed_at:
            leave(judge, engine, region)
            return False
        # Not looked at now: a failed sync leaves frames that a crash would bring back, and that the
        # next commit writes over.
        assert (reply, arrays) == (REFUSED, {}), disk.failed_at
        assert isinstance(engine.last_refusal, StorageError), disk.failed_at
        assert engine.last_refusal.remedy
        leave(judge, engine, region)
        return True


@pytest.mark.parametrize("number", range(1, SQLITE_WRITES, 4))
def test_a_write_of_sqlite_in_a_round_may_fail(
    provisioned: Region, disk: Disk, tmp_path: Path, number: int
) -> None:
    error = (apsw.FullError, apsw.IOError)[number // 4 % 2]
    assert refuses_once(provisioned, tmp_path, disk, number, lambda: error("the disk's answer"))


@pytest.mark.slow
@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
def test_each_write_of_sqlite_in_a_round_may_fail(
    provisioned: Region, disk: Disk, tmp_path: Path, error: type[apsw.Error]
) -> None:
    failed: list[str] = []
    while refuses_once(
        provisioned, tmp_path, disk, len(failed) + 1, lambda: error("the disk's answer")
    ):
        failed.append(disk.failed_at)
    assert len(failed) >= SQLITE_WRITES
    assert {name.split("-")[0] for name in failed} >= {
        f"{what} {which}.sqlite"
        for what in ("write", "sync")
        for which in ("witness", "ledger", "log")
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("point", FILES)
def test_each_write_of_a_seal_may_fail(
    provisioned: Region, disk: Disk, tmp_path: Path, point: Point, number: int
) -> None:
    def error() -> OSError:
        return OSError(number, os.strerror(number))

    assert refuses_once(provisioned, tmp_path, disk, point, error)


@pytest.mark.parametrize("first", range(1, SQLITE_WRITES, 6))
def test_a_disk_that_stays_full_leaves_a_home_that_opens_again(
    provisioned: Region, disk: Disk, tmp_path: Path, first: int
) -> None:
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(provisioned.folder.root, copy.root, symlinks=True)
    home = home_of(copy)
    judge = RegionJudge(home.root, cap=8.0, delta=1e-6)
    with patch.object(RegionData, "checked_transactions", lambda _: provisioned.checked):
        with ExitStack() as stack:
            engine = stack.enter_context(open_engine(home))
            request = witnessed(engine, provisioned.header)
            stack.enter_context(disk.full(first))
            for _ in range(3):
                assert engine.call("train", request, {}) == (REFUSED, {})
        assert judge.left == []
        with open_engine(home) as engine:
            leave(judge, engine, provisioned)
    judge.ends(rounds=1)
    assert judge.faults == []


def test_a_refusal_stands_though_the_log_has_no_room_for_it(
    provisioned: Region, disk: Disk, tmp_path: Path
) -> None:
    with opened(provisioned, tmp_path) as (engine, judge):
        nowhere = {**provisioned.header, "run": "run-9"}
        refused = {**REFUSED, "reason": "not-permitted"}
        before = engine.log.size
        with disk.full(1):
            assert engine.call("train", nowhere, {}) == (refused, {})
        assert engine.log.size == before
        for _ in range(2):
            assert engine.call("train", nowhere, {}) == (refused, {})
            assert engine.log.size == before + 1
        leave(judge, engine, provisioned)
