"""What an engine tells its observer: each thing once, and nothing that others are not told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import round_release
from client.engine.service import PrivacyEngine, open_engine
from common.plan import RunPlan
from common.reason_codes import EngineBusyError
from server.aggregation import first_model
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, publish
from tests.support.secure_regions import train_header
from tests.support.small_federation import home_of, make_federation

Told = list[tuple[Any, ...]]


class Listener:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: Told = []

    def refused(self, reason: str) -> None:
        self.told.append(("refused", reason))

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        assert seconds > 0
        self.told.append(("round", run, server_round, num_bytes, bucket))

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        self.told.append(("charged", epsilon_spent, epsilon_cap))

    def log_size(self, size: int) -> None:
        self.told.append(("size", size))

    def witness_lag(self, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.told.append(("lag",))

    def of(self, kind: str) -> Told:
        return [each for each in self.told if each[0] == kind]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunPlan]:
    folder, plan, _ = make_federation(
        tmp_path_factory.mktemp("observed") / "run", regions=1, quorum=1
    )
    return folder, plan


@pytest.fixture
def observed(
    provisioned: tuple[RunFolder, RunPlan], tmp_path: Path
) -> Iterator[tuple[PrivacyEngine, Listener]]:
    shutil.copytree(provisioned[0].root, tmp_path / "run", symlinks=True)
    listener = Listener()
    with open_engine(home_of(RunFolder(tmp_path / "run")), observer=listener) as engine:
        yield engine, listener


def test_a_round_is_told_once_and_a_repetition_not_at_all(
    observed: tuple[PrivacyEngine, Listener], provisioned: tuple[RunFolder, RunPlan]
) -> None:
    engine, listener = observed
    plan = provisioned[1]
    assert listener.told == [("charged", 0.0, 8.0)]
    size = engine.log.size
    _, arrays = ask(engine, train_header(plan), {})
    assert [each[0] for each in listener.told[1:]] == ["size", "lag", "charged", "round"]
    assert listener.of("size") == [("size", size)]
    ((_, run, number, num_bytes, bucket),) = listener.of("round")
    assert (run, number, num_bytes) == (plan.run_id, 1, arrays["popularity"].nbytes)
    assert bucket in ("8-15", "16-31")
    spent = listener.of("charged")[-1]
    assert 0 < spent[1] < spent[2] == 8.0
    told = len(listener.told)
    ask(engine, train_header(plan), {})
    # That a checkpoint was published again, everybody sees.
    assert [each[0] for each in listener.told[told:]] == ["size"]
    model = first_model(arrays["popularity"].astype(np.float64), plan)
    ask(engine, train_header(plan, 2), model)
    assert listener.of("charged")[-1][1] > spent[1]
    assert len(listener.of("round")) == 2


def test_refusals_are_told_by_their_codes(
    observed: tuple[PrivacyEngine, Listener],
    provisioned: tuple[RunFolder, RunPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, listener = observed
    plan = provisioned[1]
    engine.call("train", {}, {})
    engine.call("train", train_header(plan), {})
    publish(engine, {"run": "another", "round": 1})

    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("household 1823")

    monkeypatch.setattr(round_release, "release", break_down)
    with pytest.raises(ZeroDivisionError):
        ask(engine, train_header(plan), {})

    def busy(*_: Any, **__: Any) -> None:
        raise EngineBusyError("too much")

    monkeypatch.setattr(type(engine._turns), "take", busy)
    with pytest.raises(EngineBusyError):
        engine.call("train", train_header(plan), {})
    assert [reason for _, reason in listener.of("refused")] == [
        "malformed-request",
        "not-witnessed",
        "not-permitted",
        "engine-failure",
        "engine-busy",
    ]
