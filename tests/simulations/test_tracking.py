"""Simulated runs in TensorBoard: rounds as they go on, quality once it is measured."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.canonical_json import JsonValue
from server import tracking as server_tracking
from simulations.outcome import write_json
from simulations.run import RunRequest, run_scenario
from simulations.run_folder import RunFolder, RunState
from simulations.scenarios import find_scenario
from simulations.tracking import quality_figures, track_run, tracked_rounds
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation


def row(**changes: JsonValue) -> JsonValue:
    return {
        "setting": "with_refusals",
        "method": "fedpref_tilt",
        "protocol": "new",
        "universe": "catalogue",
        "metric": "ndcg@10",
        "mean": 0.125,
        **changes,
    }


METRICS: dict[str, JsonValue] = {
    "rows": [
        row(),
        row(metric="coverage@10", mean=0.5),
        row(method="popularity"),
        row(universe="universe_5000"),
        row(setting="no_refusals", mean=None),
    ]
}
NAME = "ndcg_at_10/fedpref_tilt/new/with_refusals"


class Board:
    """Stands in for tensorboardX's writer: keeps what it is told."""

    def __init__(self, logdir: str) -> None:
        self.logdir = logdir
        self.scalars: dict[tuple[str, int], float] = {}
        self.results: dict[str, float] = {}

    def add_scalar(self, name: str, value: float, step: int, walltime: float | None = None) -> None:
        self.scalars[name, step] = value

    def add_hparams(self, settings: Any, results: dict[str, float], **_: object) -> None:
        self.results = results

    def add_text(self, name: str, text: str) -> None:
        assert name == "plan"

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    opened: list[Board] = []

    def open_writer(folder: Path) -> Board:
        opened.append(Board(str(folder)))
        return opened[-1]

    monkeypatch.setattr(server_tracking, "_open_writer", open_writer)
    return opened


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FakeFederation]:
    with open_federation(tmp_path, fake_plan()) as opened:
        yield opened


def test_own_figures_are_taken_and_baselines_are_not() -> None:
    assert quality_figures(METRICS) == {
        NAME: 0.125,
        "coverage_at_10/fedpref_tilt/new/with_refusals": 0.5,
    }
    assert quality_figures({}) == {}


def test_a_run_is_tracked_with_its_quality(
    federation: FakeFederation, tmp_path: Path, boards: list[Board]
) -> None:
    federation.run()
    folder = RunFolder(tmp_path)
    assert track_run(folder, tmp_path / "board") == tmp_path / "board" / "run-1"
    assert not [name for name in boards[0].results if "ndcg" in name]
    write_json(folder, "metrics.json", METRICS)
    track_run(folder, tmp_path / "board")
    assert boards[1].scalars[f"quality/{NAME}", 3] == 0.125
    assert boards[1].results[f"result/{NAME}"] == 0.125
    assert boards[1].results["result/epsilon_spent"] > 0
    assert ("privacy/epsilon_spent", 3) in boards[1].scalars


def test_rounds_are_followed_only_where_that_was_asked_for(
    federation: FakeFederation, tmp_path: Path, boards: list[Board]
) -> None:
    with tracked_rounds(federation.home, None):
        pass
    assert boards == []
    with tracked_rounds(federation.home, tmp_path / "board"):
        federation.run()
    (board,) = boards
    assert [step for name, step in board.scalars if name == "cost/round_seconds"] == [1, 2, 3]


def test_a_finished_run_is_tracked_by_the_same_command(
    federation: FakeFederation, tmp_path: Path, boards: list[Board]
) -> None:
    federation.run()
    request = RunRequest(
        scenario="synthetic-3",
        out=tmp_path,
        epsilon=8.0,
        delta=1e-6,
        epsilon_cap=None,
        seed=1,
        engine="inprocess",
        refusal_share=None,
        withdrawal_share=None,
        withdrawal_in_round="finish",
        quality_seeds=1,
        replace=False,
        tensorboard=tmp_path / "board",
    )
    settings = request.settings(find_scenario("synthetic-3"))
    RunFolder(tmp_path).write_state(RunState(run_id="run-1", settings=settings, stage="finished"))
    said = io.StringIO()
    run_scenario(request, Console(file=said))
    assert "finished" in said.getvalue()
    assert boards[0].results["result/rounds_done"] == 3
