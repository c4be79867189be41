"""Regional variants: what they come to at both ends, and that they need no further release."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.training.evaluation import EvaluationSet
from client.training.noise import SeededNoise
from client.training.releases import release
from common.errors import InputError
from common.model_state import ModelState
from common.plan_defaults import default_plan
from common.strategies import StrategyName
from server.parameter_step import model_after
from simulations import personal_training
from simulations.personal_training import MixedTotal, Variant, personal_models
from simulations.quality_methods import Population, train_private
from tests.support.local_plan import local_plan
from tests.support.preference_data import plan_of, random_dataset

REGIONS = ("region-1", "region-2", "region-3")
SHARED, ALONE = Variant("shared", 0.0, 0.0), Variant("alone", 1.0, 1.0)


def population_of(rounds: int) -> Population:
    datasets = {name: random_dataset(40, 60, seed=place) for place, name in enumerate(REGIONS)}
    numbers = range(1, rounds + 1)
    asked: dict[str, EvaluationSet] = {}
    return Population(
        REGIONS, {name: dict.fromkeys(numbers, each) for name, each in datasets.items()}, asked
    )


def equal(one: ModelState, other: ModelState) -> None:
    assert np.array_equal(one.vocabulary, other.vocabulary)
    assert np.array_equal(one.popularity, other.popularity)
    assert np.array_equal(one.item_factors, other.item_factors)


@pytest.mark.parametrize("strategy", ["factors", "gram"])
def test_the_shared_variant_is_the_shared_model(strategy: StrategyName) -> None:
    plan = plan_of(strategy=strategy)
    population = population_of(plan.total_rounds)
    models = personal_models(population, plan, "n", [SHARED])["shared"]
    shared = train_private(population, REGIONS, plan, "n")
    for region in REGIONS:
        equal(models[region], shared)


def test_alone_is_what_a_region_makes_of_its_own_releases() -> None:
    plan = plan_of()
    population = population_of(plan.total_rounds)
    models = personal_models(population, plan, "n", [ALONE])["alone"]
    shared = personal_models(population, plan, "n", [SHARED])["shared"]
    for region in REGIONS:
        # The vocabulary stays shared, or regions' factors would be of different items.
        assert np.array_equal(models[region].vocabulary, shared[region].vocabulary)
        assert not np.array_equal(models[region].item_factors, shared[region].item_factors)
        source = SeededNoise(f"n/{region}")
        released = release(
            population.train[region][1], {}, plan=plan, server_round=1, noise=source
        )["popularity"]
        assert models[region].popularity == pytest.approx(3.0 * released, rel=1e-6)


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=2), min_size=3, max_size=3),
    st.floats(0.01, 100.0),
)
def test_the_mixture_is_the_minimiser_of_mean_regularised_loss(
    values: list[list[float]], pull: float
) -> None:
    releases = [{"x": np.array(each, dtype=np.float32)} for each in values]
    mixed = MixedTotal(releases, 1, 1 / (1 + pull))
    found = mixed.values("x")
    own, total = 3.0 * releases[1]["x"].astype(float), sum(r["x"].astype(float) for r in releases)
    gradient = 2 * (found - own) + 2 * pull * (found - total)
    assert gradient == pytest.approx(0.0, abs=1e-9 * (1 + pull) * 100)
    ((place, piece),) = mixed.chunks("x")
    assert np.array_equal(piece, found)
    assert (place.start, place.stop, mixed.n_regions) == (0, 2, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_noise_of_a_mixture_is_what_it_says(share: float) -> None:
    generator = np.random.default_rng(3)
    releases = [{"x": generator.normal(size=200_000)} for _ in range(4)]
    mixed = MixedTotal(releases, 2, share)
    assert mixed.values("x").std() == pytest.approx(mixed.noise_gain, rel=0.02)


def test_noise_gains_at_both_ends() -> None:
    releases = [{"x": np.zeros(1)}] * 5
    assert MixedTotal(releases, 0, 0.0).noise_gain == pytest.approx(math.sqrt(5))
    assert MixedTotal(releases, 0, 1.0).noise_gain == pytest.approx(5.0)


def test_more_variants_are_no_more_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region's ε is that of what it released: it must not depend on what is made of that."""
    rounds: list[int] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        rounds.append(named["server_round"])
        return release(*arguments, **named)

    monkeypatch.setattr(personal_training, "release", counted)
    plan = plan_of()
    personal_models(
        population_of(plan.total_rounds),
        plan,
        "n",
        [SHARED, ALONE, *(Variant(str(a), a, a) for a in (0.1, 0.2, 0.3))],
    )
    assert sorted(rounds) == sorted([*range(1, plan.total_rounds + 1)] * 3)


def test_pulled_all_the_way_steps_come_to_the_shared_model() -> None:
    plan = local_plan("matrix-factorisation")
    population = population_of(plan.total_rounds)
    models = personal_models(population, plan, "n", [SHARED, ALONE])
    own = [models["shared"][region].parameters["item_factors"] for region in REGIONS]
    assert np.array_equal(own[0], own[1])
    assert np.array_equal(own[0], own[2])
    alone = [models["alone"][region].parameters["item_factors"] for region in REGIONS]
    assert not np.array_equal(alone[0], alone[1])
    # By hand: the mean of what the regions' rounds changed.
    source = {region: SeededNoise(f"n/{region}") for region in REGIONS}
    first = [
        release(population.train[r][1], {}, plan=plan, server_round=1, noise=source[r])
        for r in REGIONS
    ]
    model, _ = model_after(1, {}, MixedTotal(first, 0, 0.0), plan, {})
    for server_round in range(2, plan.total_rounds + 1):
        if server_round == 2:
            source = {region: SeededNoise(f"n/shared/{region}") for region in REGIONS}
        changes = [
            release(
                population.train[r][server_round],
                model,
                plan=plan,
                server_round=server_round,
                noise=source[r],
            )
            for r in REGIONS
        ]
        model, _ = model_after(server_round, model, MixedTotal(changes, 0, 0.0), plan, {})
    assert own[0] == pytest.approx(model["item_factors"], abs=1e-5)


def test_without_a_private_release_there_is_no_variant() -> None:
    shared = default_plan(
        run_id="r",
        federation="f",
        scenario="s",
        regions=REGIONS,
        quorum=3,
        catalogue="c" * 64,
        n_items=60,
        train_from="2016-11-24T15:06:40.000Z",
        train_until="2017-10-26T15:06:40.000Z",
        epsilon="8",
        planned_customers=600,
        mode="distributed",
        rule="secure-sum",
        honest_survivors_min=3,
    )
    with pytest.raises(InputError, match="private by themselves"):
        personal_models(population_of(2), shared, "n", [SHARED])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    for shares in ((share, 0.0), (0.0, share)):
        with pytest.raises(InputError, match="within 0 and 1"):
            Variant("wrong", *shares)
