"""Rounds that a crash or a full disk left unfinished, once the run has gone on without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import numpy as np
import pytest

from client.engine.service import open_engine
from common import failpoints
from common.failpoints import Point
from common.plan import RunPlan
from server.aggregation import first_model
from simulations.faults.disk import fault_vfs
from simulations.faults.evidence import read_files
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, witnessed
from tests.support.small_federation import home_of, make_federation


class CrashError(BaseException):
    """The process ends here."""


@pytest.fixture
def region(tmp_path: Path) -> tuple[RunFolder, RunPlan]:
    folder, plan, _ = make_federation(tmp_path / "run", regions=1, quorum=1)
    return folder, plan


def header(plan: RunPlan, number: int) -> dict[str, Any]:
    return {
        "run": plan.run_id,
        "round": number,
        "attempt": 1,
        "mechanism": plan.mechanism_of(number).name,
        "plan": plan.digest,
        "cosignatures": [],
    }


def crash_at(point: Point) -> Any:
    def hook(reached: object) -> None:
        if reached == point:
            raise CrashError

    return patch.object(failpoints, "hook", hook)


def test_a_seal_is_given_up_once_the_region_has_logged_another_round(
    region: tuple[RunFolder, RunPlan],
) -> None:
    folder, plan = region
    with open_engine(home_of(folder)) as engine:
        _, arrays = ask(engine, header(plan, 1), {})
        model = first_model(arrays["popularity"].astype(np.float64), plan)
        with crash_at(Point.SEALED), pytest.raises(CrashError):
            engine.call("train", witnessed(engine, header(plan, 2)), model)
    with open_engine(home_of(folder)) as engine:
        # The coordinator has gone on without it.
        assert ask(engine, header(plan, 3), model)[0]["status"] == "ok"
        reply, left = engine.call("train", header(plan, 2), model)
        assert (reply["reason"], left) == ("seal-too-old", {})
        # For good, and told in the log once.
        assert engine.call("train", header(plan, 2), model)[0]["reason"] == "seal-too-old"
    files = read_files(home_of(folder).root)
    assert [each["round"] for each in files.records("round")] == [1, 3]
    assert [each["reason"] for each in files.records("incident")] == ["seal-too-old"]


def test_a_round_that_is_over_is_not_trained(region: tuple[RunFolder, RunPlan]) -> None:
    folder, plan = region
    with open_engine(home_of(folder)) as engine:
        _, arrays = ask(engine, header(plan, 1), {})
        model = first_model(arrays["popularity"].astype(np.float64), plan)
        assert ask(engine, header(plan, 3), model)[0]["status"] == "ok"
        reply, left = ask(engine, header(plan, 2), model)
        assert (reply["reason"], left) == ("not-permitted", {})
        charged = [charge.request.server_round for charge in engine.ledger.charges]
    assert charged == [1, 3]


def test_a_charge_that_the_logs_disk_refused_is_logged_with_the_next(
    region: tuple[RunFolder, RunPlan],
) -> None:
    folder, plan = region
    with fault_vfs() as disk, open_engine(home_of(folder)) as engine:
        _, arrays = ask(engine, header(plan, 1), {})
        model = first_model(arrays["popularity"].astype(np.float64), plan)
        request = witnessed(engine, header(plan, 2))

        def full(_: int) -> None:
            if disk.operation == "write log.sqlite-wal":
                raise apsw.FullError("the disk is full")

        disk.fault = full
        assert engine.call("train", request, model)[0]["reason"] == "storage-failure"
        disk.fault = lambda _: None
        # The coordinator has gone on without it.
        assert ask(engine, header(plan, 3), model)[0]["status"] == "ok"
    files = read_files(home_of(folder).root)
    assert [row["round"] for row in files.charges] == [1, 2, 3]
    assert [each["round"] for each in files.records("charge")] == [1, 2, 3]
