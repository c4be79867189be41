"""An engine whose surroundings fail: it fails closed, and works again when the cause is gone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.engine.service import PrivacyEngine, open_engine
from common import failpoints
from common.failpoints import Point
from common.plan import RunPlan
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask
from tests.support.secure_regions import train_header
from tests.support.small_federation import home_of, make_federation


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunPlan]:
    folder, plan, _ = make_federation(
        tmp_path_factory.mktemp("recovery") / "run", regions=1, quorum=1
    )
    return folder, plan


@pytest.fixture
def engine(provisioned: tuple[RunFolder, RunPlan], tmp_path: Path) -> Iterator[PrivacyEngine]:
    shutil.copytree(provisioned[0].root, tmp_path / "run", symlinks=True)
    with open_engine(home_of(RunFolder(tmp_path / "run"))) as opened:
        yield opened


def moved_away(*parts: str) -> Callable[[PrivacyEngine], Callable[[], object]]:
    def move(engine: PrivacyEngine) -> Callable[[], object]:
        path = engine.home.root.joinpath(*parts)
        aside = path.with_name("aside")
        path.rename(aside)
        return lambda: aside.rename(path)

    return move


def _full_disk(_: PrivacyEngine) -> Callable[[], object]:
    def fail(point: object) -> None:
        if point == Point.FILE_WRITTEN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failpoints.hook = fail
    return lambda: setattr(failpoints, "hook", None)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (moved_away("data", "transactions.csv"), "configuration"),
        (moved_away("catalogue.parquet"), "configuration"),
        (moved_away("permits"), "not-permitted"),
        (_full_disk, "storage-failure"),
    ],
    ids=["store", "catalogue", "permits", "disk"],
)
def test_what_failed_works_again_when_the_cause_is_gone(
    engine: PrivacyEngine,
    provisioned: tuple[RunFolder, RunPlan],
    break_it: Callable[[PrivacyEngine], Callable[[], object]],
    reason: str,
) -> None:
    plan = provisioned[1]
    request = train_header(plan)
    if reason == "not-permitted":
        mend = break_it(engine)
        reply, arrays = engine.call("train", request, {})
    else:
        mend = break_it(engine)
        try:
            reply, arrays = ask(engine, request, {})
        except BaseException:
            mend()
            raise
    assert (reply["status"], reply["reason"], arrays) == ("refused", reason, {})
    mend()
    # The same engine, not a new one, and what was charged pays for the round.
    assert ask(engine, request, {})[0]["status"] == "ok", engine.last_refusal
    assert len(engine.ledger.charges) == 1
