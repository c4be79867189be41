"""A power cut at every point of a round: what a region relied on is there, and it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest

from client.data.transactions import CheckedTransactions
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from client.engine.seal import SealStore
from client.engine.service import open_engine
from common import durable_file, failpoints
from common.failpoints import Point
from common.parameters import save_arrays
from common.plan import RunPlan
from simulations.faults.judge import Left, RegionJudge, read_files
from simulations.faults.kills import OF_A_DISCARD, OF_SECURE_SUMS
from simulations.run_folder import RunFolder
from tests.support.cosigning import Header, ask
from tests.support.power_cut import follow
from tests.support.small_federation import home_of, make_federation

LEFT = "left"


@pytest.fixture(scope="module")
def provisioned(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunFolder, RunPlan]]:
    folder, plan, _ = make_federation(tmp_path_factory.mktemp("cut") / "run", regions=1, quorum=1)
    checked = _read(folder)
    with patch.object(RegionData, "checked_transactions", lambda _: checked):
        yield folder, plan


def _read(folder: RunFolder) -> CheckedTransactions:
    home = home_of(folder)
    return RegionData(home, read_policy(home.policy)).checked_transactions()


def header(plan: RunPlan) -> Header:
    return {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "plan": plan.digest,
        "cosignatures": [],
    }


def cut_at_each_point(
    folder: RunFolder, plan: RunPlan, work: Path, *, ledger_synced: bool = True
) -> tuple[list[tuple[str, RunFolder]], bytes]:
    """One round, what a cut at each of its points would leave, and the payload that left."""
    live = RunFolder(work / "live")
    shutil.copytree(folder.root, live.root, symlinks=True)
    cuts: list[tuple[str, RunFolder]] = []
    with follow(live.root, work / "kept", home_of(live).root) as power:

        def cut(point: str) -> None:
            cuts.append((str(point), RunFolder(work / f"cut-{len(cuts)}")))
            power.cut(cuts[-1][1].root)

        with open_engine(home_of(live)) as engine, patch.object(failpoints, "hook", cut):
            if not ledger_synced:
                engine.ledger._connection.pragma("synchronous", "off")
            reply, arrays = ask(engine, header(plan), {})
            assert reply["status"] == "ok", engine.last_refusal
            cut(LEFT)
    return cuts, save_arrays(arrays)


def faults_after(cut: RunFolder, plan: RunPlan, passed: set[str], payload: bytes) -> list[str]:
    """What is not as it must be after a cut, and after the round is asked for once more."""
    home = home_of(cut)
    judge = RegionJudge(home.root, cap=8.0, delta=1e-6)
    files = read_files(home.root)
    faults = []
    if Point.LEDGER_COMMITTED in passed and len(files.charges) != 1:
        faults.append("the charge is lost")
    if Point.CHARGED in passed and len(files.records("charge")) != 1:
        faults.append("the charge's entry is lost")
    if Point.LOGGED in passed and len(files.records("release")) != 1:
        faults.append("the release's entry is lost")
    if Point.SEALED in passed and SealStore(home.seals).read(plan.run_id, 1) is None:
        faults.append("the seal is lost")
    if faults:
        return faults
    with open_engine(home) as engine:
        reply, arrays = ask(engine, header(plan), {})
        if reply["status"] != "ok":
            return [f"refused: {engine.last_refusal}"]
        judge.sees_leaving(Left(plan.run_id, 1, 1, save_arrays(arrays), reply))
    if Point.SEALED in passed and save_arrays(arrays) != payload:
        faults.append("another payload")
    judge.ends(rounds=1)
    return faults + judge.faults


@pytest.mark.parametrize(
    "at",
    [
        {Point.LEDGER_COMMITTED, Point.CHARGED, Point.SEALED, Point.LOGGED, LEFT},
        pytest.param({*Point, LEFT}, marks=pytest.mark.slow),
    ],
    ids=["where something is relied on", "anywhere"],
)
def test_a_power_cut_loses_nothing_that_was_relied_on(
    provisioned: tuple[RunFolder, RunPlan], tmp_path: Path, at: set[str]
) -> None:
    folder, plan = provisioned
    cuts, payload = cut_at_each_point(folder, plan, tmp_path)
    passed: set[str] = set()
    for point, cut in cuts:
        passed.add(point)
        if point in at:
            assert faults_after(cut, plan, passed, payload) == [], point
    assert passed == {*Point, LEFT} - {*OF_A_DISCARD, *OF_SECURE_SUMS}


@contextmanager
def names_not_synced() -> Iterator[None]:
    with patch.object(durable_file, "sync_folder", lambda _: None):
        yield


@pytest.mark.parametrize(
    ("missing", "found"), [("ledger", "the charge is lost"), ("names", "the seal is lost")]
)
def test_it_notices_a_sync_that_is_missing(
    provisioned: tuple[RunFolder, RunPlan], tmp_path: Path, missing: str, found: str
) -> None:
    folder, plan = provisioned
    with names_not_synced() if missing == "names" else nullcontext():
        cuts, payload = cut_at_each_point(folder, plan, tmp_path, ledger_synced=missing != "ledger")
    passed = {point for point, _ in cuts}
    assert found in faults_after(cuts[-1][1], plan, passed, payload)
