"""The federation benchmark at sizes that take seconds: that it measures, never what it measures."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks import comparison_run, federation
from benchmarks.contenders import CONTENDERS
from benchmarks.federations import NoTraining, run, set_up
from benchmarks.local_work import TiedAutoencoder, Work, train
from benchmarks.scaling_chart import Point, render_chart
from server.config import ServerHome


def test_a_federation_without_training_runs_all_its_rounds(tmp_path: Path) -> None:
    made = set_up(tmp_path / "run", n_regions=3, customers_each=12)
    times = run(made, NoTraining(made.plan))
    assert times.rounds == len(times.closed_s) == made.plan.total_rounds
    assert 0 < times.closed_s[0] < times.closed_s[-1] == times.wall_s
    assert times.cpu_s > 0
    # Nothing else than training was left out: the run is a whole one.
    assert ServerHome(made.folder.server).model.is_file()


def test_without_training_a_region_releases_what_the_plan_states(tmp_path: Path) -> None:
    plan = set_up(tmp_path / "run", n_regions=2, customers_each=12).plan
    stand_in = NoTraining(plan)
    for server_round in range(1, plan.total_rounds + 1):
        mechanism = plan.mechanism_of(server_round)
        released = stand_in(plan=plan, server_round=server_round)
        for spec in plan.released_arrays(mechanism.name):
            steps = np.ldexp(released[spec.name].astype(np.float64), -mechanism.grid_exponent)
            assert released[spec.name].shape == spec.shape
            assert np.array_equal(steps, np.rint(steps))


def test_the_compared_run_trains_what_the_bare_loop_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.local_work.EPOCHS", 1)
    work, taken = comparison_run.compared_run(
        tmp_path / "run", n_regions=2, customers_each=12, items=400, rank=4, rounds=2
    )
    assert taken["rounds_s"] > 0
    assert len(work.regions) == 2
    work.save(tmp_path / "work.npz")
    again = Work.load(tmp_path / "work.npz")
    assert all(np.array_equal(a, b) for a, b in zip(work.regions, again.regions, strict=True))
    assert again.start.keys() == {"hidden_bias", "item_bias", "item_factors"}
    bare = CONTENDERS["bare"](again, 2)
    assert bare["rounds_s"] > 0
    # One round of it, by hand, is what the run's second model is: the mean of the same changes.
    ends = []
    for rows in again.regions:
        module = TiedAutoencoder(again.start)
        train(module, torch.from_numpy(rows))
        ends.append(module.arrays()["item_factors"])
    assert not np.array_equal(np.mean(ends, axis=0), again.start["item_factors"])


def test_a_coordinators_memory_is_measured_over_replies_in_files(tmp_path: Path) -> None:
    ((bar, figure),) = federation.measure_memory(
        tmp_path, n_regions=3, items=20_000, rank=16
    ).items()
    assert bar is federation.MEMORY
    assert math.isfinite(figure.value)
    assert figure.value > 0


def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    measured = federation.measure_growth(tmp_path, scales=(2, 3), chart=chart)
    assert math.isfinite(measured[federation.GROWTH].value)
    root = ElementTree.fromstring(chart.read_text())
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 2 * 2


@pytest.mark.parametrize(("power", "expected"), [(1.0, 1.0), (2.0, 2.0), (0.0, 0.0)])
def test_the_exponent_of_growth(power: float, expected: float) -> None:
    points = [Point(n, 0.1 * n**power, 1.0) for n in (4, 16, 64, 256)]
    assert federation.growth_exponent(points) == pytest.approx(expected)


def test_the_chart_has_every_point_and_a_straight_line() -> None:
    svg = render_chart([Point(4, 0.1, 0.2), Point(256, 6.0, 9.0)])
    assert svg.count("<circle") == 2 * 2
    assert "linear in regions" in svg
    assert ">256</text>" in svg


def test_every_bar_of_the_issue_has_a_row() -> None:
    names = " ".join(bar.name for bar in federation.BARS)
    for what in ("16 regions", "bare loop", "pfl", "Flower", "secure sum", "memory", "256"):
        assert what in names
    assert len({bar.name for bar in federation.BARS}) == len(federation.BARS)
