from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from common.privacy import UNIT_AND_RELATION
from common.strategies import FACTORS
from simulations.scale_chart import render_chart
from simulations.scale_figures import NO_PRIVACY, POPULARITY, Figures, Measured
from simulations.scale_study import Market, main, measure_private, plan_for
from simulations.synthetic_scale import streamed_regions

SVG = "{http://www.w3.org/2000/svg}"


def figure(
    customers: int,
    method: str,
    ndcg: float,
    *,
    seed: int = 0,
    mode: str = "local",
    epsilon: str = "8",
) -> Measured:
    return Measured(customers, method, mode, epsilon, seed, ndcg, 0.001, 1.0)


def test_regions_are_the_same_whole_or_in_parts_of_their_own_generators() -> None:
    sizes = {"n_items": 400, "n_regions": 2, "seed": 3}
    once, again = (list(streamed_regions(130, **sizes, part=50)) for _ in range(2))
    assert [region.train.n_customers for region in once] == [65, 65]
    for one, other in zip(once, again, strict=True):
        assert one.train.sids == one.test.sids == tuple(sorted(one.train.sids))
        assert np.array_equal(one.train.indices, other.train.indices)
        assert one.train.indptr[-1] == len(one.train.indices) == len(one.train.last_ms)
        assert int(one.train.counts.values.sum()) == len(one.train.ages_weeks)
    # The second part of a region repeats neither its first nor the other region's.
    parts = [once[0].train.rows(0, 50), once[0].train.rows(50, 65), once[1].train.rows(0, 50)]
    heads = [tuple(part.indices[:40].tolist()) for part in parts]
    assert len(set(heads)) == 3


def test_a_regions_customers_share_its_tastes() -> None:
    """Two halves of a region are more alike than halves of two regions."""
    one, other = streamed_regions(4000, n_items=400, n_regions=2, seed=3, part=1000)

    def shares(rows: range, region: object) -> np.ndarray:
        data = region.train.rows(rows.start, rows.stop)  # type: ignore[attr-defined]
        counts = np.bincount(data.indices, minlength=400)
        return counts / counts.sum()

    halves = [shares(range(1000), one), shares(range(1000, 2000), one)]
    apart = np.abs(halves[0] - shares(range(1000), other)).sum()
    assert np.abs(halves[0] - halves[1]).sum() < 0.7 * apart


def test_factors_beat_popularity_where_there_is_little_noise() -> None:
    market = Market.made_up(900, n_items=300, n_regions=3)
    assert [each.history.n_customers for each in market.evaluated] == [300, 300, 300]
    private = measure_private(market, FACTORS, epsilon="100", mode="local", seed=0)
    assert private.key == (900, FACTORS, "local", "100", 0)
    assert 0 < private.standard_error < 0.05
    shared = plan_for(market, FACTORS, epsilon="8", mode="distributed")
    assert shared.aggregation.honest_survivors_min == 3


def test_a_study_keeps_prints_and_draws_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, chart = tmp_path / "figures.json", tmp_path / "chart.svg"
    options = ["--figures", str(figures), "--chart", str(chart), "--items", "200", "--regions", "3"]
    options += ["--strategies", "factors", "--epsilon", "8", "--modes", "local"]
    assert main([*options, "--customers", "300"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith(UNIT_AND_RELATION)
    assert len(lines) == 3
    assert main([*options, "--customers", "300", "600"]) == 0
    again = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in again] == ["n="] * 3
    assert all("600" in line for line in again)
    stored = json.loads(figures.read_text())
    assert {each["method"] for each in stored} == {POPULARITY, NO_PRIVACY, FACTORS}
    assert len(ElementTree.fromstring(chart.read_text()).findall(f".//{SVG}circle")) == 6


def test_figures_come_back_from_their_file(tmp_path: Path) -> None:
    kept = Figures(tmp_path / "figures.json")
    kept.add(figure(1000, FACTORS, 0.05))
    again = Figures(tmp_path / "figures.json")
    assert again.all == kept.all
    assert again.has((1000, FACTORS, "local", "8", 0))
    assert not again.has((1000, FACTORS, "local", "8", 1))


def test_the_chart_has_a_plot_for_each_epsilon_and_means_over_seeds() -> None:
    svg = render_chart(
        [
            figure(1_000, FACTORS, 0.04),
            figure(1_000, FACTORS, 0.06, seed=1),
            figure(1_000_000, FACTORS, 0.10),
            figure(1_000, FACTORS, 0.02, epsilon="1"),
            figure(1_000, FACTORS, 0.07, mode="distributed"),
            figure(1_000, POPULARITY, 0.01, mode="", epsilon=""),
        ]
    )
    root = ElementTree.fromstring(svg)
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert "factors, 1,000 customers: 0.0500" in titles
    assert "factors, shared noise, 1,000 customers: 0.0700" in titles
    # Popularity has no ε: it is in both plots.
    assert titles.count("popularity, no privacy, 1,000 customers: 0.0100") == 2
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert texts.index("ε = 8") < texts.index("ε = 1")
    for circle in root.iter(f"{SVG}circle"):
        for name in ("cx", "cy"):
            place = float(str(circle.get(name)).rstrip("%"))
            assert math.isfinite(place)
            assert 0 <= place <= 100
