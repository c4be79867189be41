"""Each figure is computed from steps that were taken; nothing here is timed for its value."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from benchmarks import training
from benchmarks.steps import against_opacus, against_plain, capacity, made_up, memory, ours, scaling
from benchmarks.steps.scaling import Point
from client.training.models.tied_autoencoder import TiedAutoencoder
from client.training.opacus_modules import OpacusTiedAutoencoder
from tests.support.clipped_oracle import relative_error, released

ITEMS, RANK = 60, 8
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]


def test_our_step_changes_all_parameters_and_everybody_takes_part() -> None:
    model = TiedAutoencoder(made_up.autoencoder_arrays(ITEMS, rank=RANK))
    before = model.arrays()
    seen: list[int] = []
    added = model.add_clipped_gradients

    def counted(batch, clipping_norm, into) -> None:  # type: ignore[no-untyped-def]
        seen.append(batch.n_rows)
        added(batch, clipping_norm, into)

    model.add_clipped_gradients = counted  # type: ignore[method-assign]
    ours.steps(model, made_up.unit_rows(300, ITEMS), n_steps=2)()
    assert sum(seen) == 600
    after = model.arrays()
    assert all((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("mode", ["ghost", "hooks"])
def test_opacus_takes_the_same_clipped_step_whole_or_in_parts(mode: against_opacus.Mode) -> None:
    arrays, rows = made_up.autoencoder_arrays(ITEMS, rank=RANK), made_up.unit_rows(10, ITEMS)
    expected = released(TiedAutoencoder(arrays), rows, ours.CLIPPING_NORM)
    for physical in (10, 4):
        module = OpacusTiedAutoencoder(arrays)
        dense = against_opacus.dense(rows)
        against_opacus.opacus_steps(module, mode, dense, physical, noise_multiplier=0.0, rate=1.0)()
        found = {name: arrays[name] - each.detach().numpy() for name, each in _named(module)}
        assert relative_error(found, expected) <= 1e-4


def test_opacus_own_layers_are_clipped_and_noised() -> None:
    layers = against_opacus.two_layers(ITEMS, RANK)
    before = [each.detach().clone() for each in layers.parameters()]
    rows = against_opacus.dense(made_up.unit_rows(5, ITEMS))
    against_opacus.opacus_steps(layers, "ghost", rows, 5)()
    pairs = zip(before, layers.parameters(), strict=True)
    assert all((one != other).any() for one, other in pairs)


def _named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(module.named_parameters())


def test_both_samplers_bring_samples_of_the_same_size() -> None:
    rows = made_up.unit_rows(4000, ITEMS)
    mine, theirs = (
        against_opacus.our_samples(rows, 0.1),
        against_opacus.opacus_samples(rows, 0.1),
    )
    for draw in (mine, theirs):
        mean = np.mean([draw() for _ in range(20)])
        # Six standard deviations of the mean of twenty.
        assert abs(mean - 400) < 6 * math.sqrt(4000 * 0.1 * 0.9 / 20)


@pytest.mark.parametrize(
    "contest",
    [
        against_plain.autoencoder(ITEMS, 20),
        against_plain.factorisation(ITEMS, 20)["single"],
        against_plain.sasrec(ITEMS, 20, n_steps=2),
    ],
    ids=["autoencoder", "factorisation", "sasrec"],
)
def test_a_contest_names_its_baselines_and_gives_ratios(contest: against_plain.Contest) -> None:
    outcome = against_plain.hold(contest, turns=1)
    assert outcome.hand in contest.hand
    assert outcome.auto in contest.auto
    mine, hand, auto = outcome.seconds
    assert outcome.customers_per_s == pytest.approx(20 / mine)
    assert outcome.to_hand == pytest.approx(mine / hand)
    assert outcome.to_auto == pytest.approx(mine / auto)
    assert outcome.hand_to_auto == pytest.approx(hand / auto)
    assert outcome.hand in outcome.named()


def test_memory_and_time_of_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    memory.main(ITEMS, 50, 1.0)
    torch.set_num_threads(threads)
    seconds, most_mb, before_mb = map(float, capsys.readouterr().out.split())
    assert seconds > 0
    # The kernel counts resident pages by processor, and adds up to within a few megabytes.
    assert most_mb > before_mb - 10 > 50


def test_the_exponent_is_that_of_a_power_law() -> None:
    for power in (0.5, 1.0, 2.0):
        points = [Point(size, 3e-6 * size**power, 1.0) for size in (10, 100, 5000)]
        assert scaling.exponent(points) == pytest.approx(power)


def test_the_chart_is_svg_with_a_dot_for_each_point() -> None:
    by_items = [Point(size, size * 8e-6, 100.0) for size in scaling.ITEMS]
    by_customers = [Point(size, size * 2e-6, 20.0) for size in scaling.CUSTOMERS]
    drawn = ElementTree.fromstring(scaling.chart(by_items, by_customers))
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == len(by_items) + 2 * len(by_customers)
    for circle in circles:
        assert 0 <= float(str(circle.get("cx")).rstrip("%")) <= 100


def test_the_area_measures_every_bar_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    for part in (against_plain, against_opacus, capacity, scaling):

        def measured(part=part) -> dict[str, object]:  # type: ignore[no-untyped-def]
            threads.append(torch.get_num_threads())
            return {bar.name: 1.0 for bar in part.BARS}

        monkeypatch.setattr(part, "measure", measured)
    before = torch.get_num_threads()
    names = [bar.name for bar in training.BARS]
    assert set(training.measure()) == set(names)
    assert len(names) == len(set(names))
    assert threads == [1] * 4
    assert torch.get_num_threads() == before
