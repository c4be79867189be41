from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.model_state import ModelState
from common.parameters import check_arrays
from server.aggregation import first_model, power_step, shrink, vocabulary_model
from tests.support.preference_data import plan_of

PLAN = plan_of(n_items=60)
GENERATOR = np.random.default_rng(0)
POPULARITY = GENERATOR.gamma(1.0, 30.0, 60)


def test_the_first_model_is_what_the_plan_says() -> None:
    model = first_model(POPULARITY, PLAN)
    check_arrays(model, PLAN.model_arrays(2), grid=None)
    state = ModelState.from_arrays(model)
    assert state.vocabulary.tolist() == np.argsort(-POPULARITY)[: PLAN.vocabulary_size].tolist()
    assert np.array_equal(state.popularity, POPULARITY.astype(np.float32))
    gram = state.directions.T @ state.directions
    assert gram == pytest.approx(np.eye(PLAN.rank), abs=1e-6)
    # The first factor is the weighted popularity, rare items weighing more than their share.
    known = np.maximum(POPULARITY[state.vocabulary], PLAN.mechanisms[0].noise_stddev * np.sqrt(3))
    weighted = known * state.item_weights
    assert state.directions[:, 0] == pytest.approx(weighted / np.linalg.norm(weighted), rel=1e-5)
    relative = (known / known.min()) ** float(PLAN.row_exponent)
    assert state.item_weights == pytest.approx(relative, rel=1e-6)


def test_ties_go_to_the_smaller_number_and_noise_below_zero_is_survived() -> None:
    popularity = np.full(60, -5.0)
    model = first_model(popularity, PLAN)
    assert model["vocabulary"].tolist() == list(range(PLAN.vocabulary_size))
    assert (model["item_weights"] == 1.0).all()


def test_the_public_seed_decides_the_start() -> None:
    models = [
        vocabulary_model(
            POPULARITY,
            vocabulary_size=20,
            rank=4,
            row_exponent=-0.25,
            least_popularity=1.0,
            init_seed=seed,
        )["item_factors"]
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(models[0], models[1])
    assert not np.array_equal(models[0][:, 1:], models[2][:, 1:])
    assert np.array_equal(models[0][:, 0], models[2][:, 0])


def test_the_result_depends_neither_on_rotation_nor_on_the_number_of_customers() -> None:
    gradient = GENERATOR.standard_normal((30, 4)) * [9.0, 5.0, 3.0, 1.0]
    rotation, _ = np.linalg.qr(GENERATOR.standard_normal((4, 4)))
    factors = power_step(gradient, noise_stddev=0.0)
    assert power_step(gradient @ rotation, noise_stddev=0.0) == pytest.approx(factors, abs=1e-6)
    assert power_step(gradient * 1000, noise_stddev=0.0) == pytest.approx(factors, abs=1e-6)
    largest = factors[np.argmax(np.abs(factors), axis=0), np.arange(4)]
    assert (largest > 0).all()


def test_shrinkage_is_that_of_gavish_and_donoho() -> None:
    # A strength x (in units of √m·σ) shows as y with y² = (x + 1/x)(x + β/x), equation 3; the
    # optimal estimate from y is then (x² − β/x²) / y.
    size, rank, stddev = 400, 6, 0.5
    beta, scale = rank / size, 20.0 * stddev
    x = np.array([8.0, 5.0, 3.0, 1.5])
    y = np.sqrt((x + 1 / x) * (x + beta / x))
    shrunk = shrink(np.append(y, [1.0, 0.0]) * scale, (size, rank), stddev) / scale
    assert shrunk[:4] == pytest.approx((x**2 - beta / x**2) / y, rel=1e-12)
    assert shrunk[4:].tolist() == [0.0, 0.0]


def test_shrinkage_brings_a_noisy_matrix_nearer_to_the_truth() -> None:
    size, rank, stddev = 400, 6, 0.5
    left, _ = np.linalg.qr(GENERATOR.standard_normal((size, rank)))
    right, _ = np.linalg.qr(GENERATOR.standard_normal((rank, rank)))
    true = (left * [80.0, 50.0, 30.0, 0.0, 0.0, 0.0]) @ right.T
    noisy = true + GENERATOR.standard_normal((size, rank)) * stddev
    u, singular, vt = np.linalg.svd(noisy, full_matrices=False)
    shrunk = (u * shrink(singular, (size, rank), stddev)) @ vt
    assert np.linalg.norm(shrunk - true) < 0.9 * np.linalg.norm(noisy - true)
    assert np.array_equal(shrink(singular, (size, rank), 0.0), singular)


def test_drowned_factors_keep_a_direction() -> None:
    pure_noise = GENERATOR.standard_normal((40, 3)) * 0.01
    factors = power_step(pure_noise, noise_stddev=1.0)
    assert np.linalg.norm(factors, axis=0) == pytest.approx([1.0, 1.0, 1.0], rel=1e-5)
    one_signal = pure_noise + np.outer(np.ones(40), [50.0, 0, 0])
    norms = np.linalg.norm(power_step(one_signal, noise_stddev=1.0), axis=0)
    assert norms == pytest.approx([1.0, 1e-3, 1e-3], rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    popularity = POPULARITY.copy()
    popularity[3] = value
    with pytest.raises(InputError, match="not finite"):
        first_model(popularity, PLAN)


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        first_model(POPULARITY[:-1], PLAN)
