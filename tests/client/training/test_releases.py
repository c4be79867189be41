"""Rounds of each strategy, from the customers' purchases to the model that ranks for them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.training.noise import SeededNoise, SystemNoise
from client.training.releases import local_settings, release
from client.training.strategies import examples, model_scores, trainable
from common.errors import FormatError, InputError
from common.model_state import ModelState
from common.parameters import check_arrays
from common.plan import RunPlan
from common.release_bounds import release_grid
from common.strategies import MATRIX_FACTORISATION, SASREC, TIED_AUTOENCODER, change_of
from server.parameter_step import model_after
from server.round_total import WholeTotal
from tests.support.local_plan import local_plan
from tests.support.preference_data import dataset_of, plan_of, random_customers, random_dataset
from tests.support.privacy_gates import noise_has_stddev

STRATEGIES = [TIED_AUTOENCODER, MATRIX_FACTORISATION, SASREC]
N_ITEMS = 60
# Of which none is clipped much and little is noise: what is learnt shows after two rounds.
CALM = {
    TIED_AUTOENCODER: {"learning_rate": "10", "expected_batch_size": "60"},
    MATRIX_FACTORISATION: {"learning_rate": "1", "expected_batch_size": "60"},
    SASREC: {"learning_rate": "3", "expected_batch_size": "60"},
}
Arrays = dict[str, Any]


def quiet_plan(strategy: str) -> RunPlan:
    """A plan with a budget so large that its noise is next to none."""
    record: dict[str, Any] = local_plan(strategy, training=CALM[strategy]).to_record()
    # Everybody in every step: what that spends is known in closed form, however much it is.
    changes: tuple[dict[str, Any], ...] = (
        {"noise_multiplier": "0.2"},
        {"noise_multiplier": "0.3", "steps": 30, "sampling_probability": "1"},
    )
    record["mechanisms"] = [
        {**mechanism, **change}
        for mechanism, change in zip(record["mechanisms"], changes, strict=True)
    ]
    return RunPlan.from_record({**record, "epsilon": "100000"})


@lru_cache(maxsize=1)
def regions() -> list[PreferenceDataset]:
    return [
        dataset_of(random_customers(80, N_ITEMS, seed=number, prefix=f"r{number}-"), N_ITEMS)
        for number in range(3)
    ]


def model_before(server_round: int, plan: RunPlan) -> Arrays:
    model: Arrays = {}
    state: Arrays = {}
    for number in range(1, server_round):
        releases = [
            release(
                region,
                model,
                plan=plan,
                server_round=number,
                noise=SeededNoise(f"{place}/{number}"),
            )
            for place, region in enumerate(regions())
        ]
        model, state = model_after(number, model, WholeTotal.of(releases), plan, state)
    return model


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_round_releases_what_the_plan_states_with_noise_everywhere(strategy: str) -> None:
    plan = local_plan(strategy)
    for server_round in range(1, plan.total_rounds + 1):
        model = model_before(server_round, plan)
        check_arrays(model, plan.model_arrays(server_round), grid=None)
        released = release(
            regions()[0], model, plan=plan, server_round=server_round, noise=SystemNoise()
        )
        mechanism = plan.mechanism_of(server_round)
        specs = plan.released_arrays(mechanism.name)
        check_arrays(released, specs, grid=release_grid(plan, mechanism))
        for name, array in released.items():
            # No coordinate tells by a zero that nobody bought what it stands for.
            assert (array != 0).mean() > 0.99, name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_ranks_what_customers_bought_above_what_popularity_says(strategy: str) -> None:
    plan = quiet_plan(strategy)
    first = ModelState.of_plan(model_before(2, plan), plan)
    final = ModelState.of_plan(model_before(plan.total_rounds + 1, plan), plan)
    before, after = (_own_taste(state) for state in (first, final))
    assert after > max(before, 0.4) + 0.05


def _own_taste(state: ModelState) -> float:
    """How much of a customer's ten best items is of her own taste, of which there are three."""
    newcomers = random_customers(90, N_ITEMS, seed=99)
    dataset = dataset_of(newcomers, N_ITEMS)
    scores = model_scores(dataset, state)
    assert scores.shape == (90, len(state.vocabulary))
    assert (scores > 0).all()
    best = state.vocabulary[np.argsort(-scores, axis=1)[:, :6]]
    return float((best % 3 == (np.arange(90) % 3)[:, None]).mean())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_seeds_give_equal_bits_and_other_seeds_others(strategy: str) -> None:
    plan = local_plan(strategy)
    model = model_before(2, plan)
    first, same, other = (
        release(regions()[0], model, plan=plan, server_round=2, noise=SeededNoise(seed))
        for seed in ("a", "a", "b")
    )
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_customers_a_round_releases_the_noise_of_its_steps(strategy: str) -> None:
    plan = local_plan(strategy)
    model = model_before(2, plan)
    empty = dataset_of({}, N_ITEMS)
    released = [
        release(empty, model, plan=plan, server_round=2, noise=SystemNoise())[
            change_of("item_factors")
        ]
        for _ in range(40)
    ]
    settings = local_settings(plan, plan.mechanism_of(2), 2)
    stddev = (
        settings.learning_rate
        * settings.noise_multiplier
        * settings.clipping_norm
        * settings.steps**0.5
        / settings.expected_batch_size
    )
    assert noise_has_stddev(np.stack(released), stddev)
    assert not noise_has_stddev(np.stack(released), 0.9 * stddev)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_settings_follow_the_plan_round_by_round(strategy: str) -> None:
    plan = local_plan(strategy)
    second, third = (local_settings(plan, plan.mechanism_of(n), n) for n in (2, 3))
    assert (second.steps, second.sampling_probability) == (5, 0.5)
    assert (second.noise_multiplier, second.clipping_norm) == (1.0, 0.5)
    assert third.learning_rate == second.learning_rate / 2
    assert second.event.count == 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_catalogue_is_refused(strategy: str) -> None:
    plan = local_plan(strategy)
    with pytest.raises(InputError, match="over 60 items, the data set over 61"):
        release(
            random_dataset(3, N_ITEMS + 1),
            model_before(2, plan),
            plan=plan,
            server_round=2,
            noise=SystemNoise(),
        )


def test_a_model_of_another_strategy_is_refused() -> None:
    autoencoder, factorisation = local_plan(TIED_AUTOENCODER), local_plan(MATRIX_FACTORISATION)
    with pytest.raises(FormatError):
        release(
            regions()[0],
            model_before(2, factorisation),
            plan=autoencoder,
            server_round=2,
            noise=SystemNoise(),
        )


def test_factors_do_not_train_in_the_regions() -> None:
    plan = plan_of(n_items=N_ITEMS)
    with pytest.raises(InputError, match="no local training"):
        local_settings(plan, plan.mechanism_of(2), 2)
    state = ModelState(
        np.ones(N_ITEMS, np.float32), np.arange(4), np.ones(4, np.float32), np.eye(4, 2, dtype="f4")
    )
    with pytest.raises(InputError, match="does not train in the regions"):
        trainable(state, first_step=0, seed=0)


def test_the_negatives_of_a_later_round_go_on_where_the_last_ended() -> None:
    plan = local_plan(SASREC)
    state = ModelState.of_plan(model_before(2, plan), plan)
    drawn = []
    for first_step in (0, 4):
        model = trainable(state, first_step=first_step, seed=plan.init_seed)
        for _ in range(5):
            model.prepare()
            drawn.append(model._negatives.tolist())  # type: ignore[attr-defined]
    assert drawn[4] == drawn[5]
    assert drawn[0] != drawn[4]


def test_examples_of_a_sequence_are_one_longer_than_what_the_network_reads() -> None:
    plan = local_plan(SASREC)
    state = ModelState.of_plan(model_before(2, plan), plan)
    rows = examples(regions()[0], state)
    assert np.diff(rows.indptr).max() == int(state.options["max_length"]) + 1
