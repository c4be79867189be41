from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import FormatError, InputError
from common.item_pairs import n_pairs, upper_triangle
from common.model_state import ModelState
from common.parameters import check_arrays
from server.aggregation import first_model
from server.gram import denoised, gram_factors, gram_model, shrink_eigenvalues
from tests.support.preference_data import plan_of

PLAN = plan_of(n_items=60, strategy="gram")
SIZE, RANK = PLAN.vocabulary_size, PLAN.rank
GENERATOR = np.random.default_rng(0)
POPULARITY = GENERATOR.gamma(1.0, 30.0, 60)


def low_rank(size: int, strengths: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.standard_normal((size, len(strengths))))
    return (basis * strengths) @ basis.T, basis


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def wigner(size: int, stddev: float, seed: int = 0) -> np.ndarray:
    noise = np.triu(np.random.default_rng(seed).standard_normal((size, size)) * stddev, 1)
    return noise + noise.T


def test_factors_are_the_leading_eigenvectors_though_the_diagonal_is_missing() -> None:
    gram, basis = low_rank(60, [900.0, 500.0, 200.0])
    given = gram.copy()
    given[np.diag_indices(60)] = GENERATOR.standard_normal(60) * 1e6
    popular = unit(GENERATOR.random(60))
    factors = gram_factors(given, popular, rank=3, noise_stddev=0.0).astype(np.float64)
    norms = np.linalg.norm(factors, axis=0)
    overlap = np.abs(basis.T @ (factors / norms))
    assert overlap == pytest.approx(np.eye(3), abs=0.02)
    # A factor's norm is the fourth root of its relative strength.
    assert norms**4 == pytest.approx([1.0, 500 / 900, 200 / 900], rel=0.02)


def test_shrinkage_takes_off_what_noise_adds_to_an_eigenvalue() -> None:
    size, stddev = 400, 0.5
    scale = stddev * math.sqrt(size)
    # A spike x (in units of √m·σ) shows as x + 1/x; the best estimate is then x − 1/x.
    x = np.array([8.0, 3.0, 1.5])
    shown = np.append(x + 1 / x, [1.9, 0.0, -5.0]) * scale
    shrunk = shrink_eigenvalues(shown, size, stddev) / scale
    assert shrunk[:3] == pytest.approx(x - 1 / x, rel=1e-12)
    assert shrunk[3:].tolist() == [0.0, 0.0, 0.0]
    assert shrink_eigenvalues(np.array([3.0, -1.0]), size, 0.0).tolist() == [3.0, 0.0]


def test_shrinkage_brings_a_noisy_matrix_nearer_to_the_truth() -> None:
    size, stddev = 300, 0.5
    gram, _ = low_rank(size, [60.0, 40.0, 25.0])
    noisy = gram + wigner(size, stddev)
    values, vectors = np.linalg.eigh(noisy)
    top = np.argsort(-values)[:6]
    kept = {
        name: (vectors[:, top] * strengths) @ vectors[:, top].T
        for name, strengths in (
            ("raw", values[top]),
            ("shrunk", shrink_eigenvalues(values[top], size, stddev)),
        )
    }
    raw, shrunk = (np.linalg.norm(each - gram) for each in kept.values())
    assert shrunk < 0.8 * raw


def test_where_noise_drowns_everything_popularity_is_left() -> None:
    popular = unit(GENERATOR.random(50) + 0.1)
    factors = gram_factors(wigner(50, 1.0), popular, rank=4, noise_stddev=1.5)
    assert np.linalg.norm(factors, axis=0) == pytest.approx([1.0, 1e-3, 1e-3, 1e-3], rel=1e-5)
    assert factors[:, 0] == pytest.approx(popular, abs=1e-6)


def test_what_popularity_does_not_tell_stands_out_of_the_noise() -> None:
    size, stddev = 200, 1.0
    popular = unit(GENERATOR.random(size) + 0.1)
    apart = GENERATOR.standard_normal(size)
    apart = unit(apart - (apart @ popular) * popular)
    gram = 400.0 * np.outer(popular, popular) + 150.0 * np.outer(apart, apart)
    noisy = gram + wigner(size, stddev)
    factors = gram_factors(noisy, popular, rank=2, noise_stddev=stddev).astype(np.float64)
    directions = factors / np.linalg.norm(factors, axis=0)
    assert abs(directions[:, 0] @ popular) > 0.99
    assert abs(directions[:, 1] @ apart) > 0.97


def test_without_noise_nothing_is_taken_off() -> None:
    gram, _ = low_rank(40, [90.0, 50.0, 20.0])
    kept = denoised(gram, unit(GENERATOR.random(40)), rank=40, noise_stddev=0.0)
    # Off the direction a positive matrix is positive still, so that no eigenvalue is cut off.
    assert kept == pytest.approx(gram, abs=1e-9)


def test_the_model_is_the_plans_and_keeps_what_popularity_decided() -> None:
    before = first_model(POPULARITY, PLAN)
    gram, _ = low_rank(SIZE, [9e4, 5e4])
    model = gram_model(before, upper_triangle(gram), PLAN)
    check_arrays(model, PLAN.model_arrays(3), grid=None)
    ModelState.of_plan(model, PLAN)
    for name in ("popularity", "vocabulary", "item_weights"):
        assert np.array_equal(model[name], before[name])
    more_noise = gram_model(before, upper_triangle(gram), PLAN, noise_gain=50.0)
    norms = [np.linalg.norm(each["item_factors"], axis=0) for each in (model, more_noise)]
    assert norms[1][1] < norms[0][1]


def test_what_cannot_be_a_sum_of_pairs_is_refused() -> None:
    before = first_model(POPULARITY, PLAN)
    pairs = np.ones(n_pairs(SIZE))
    with pytest.raises(InputError, match="shape"):
        gram_model(before, pairs[:-1], PLAN)
    with pytest.raises(InputError, match="not finite"):
        gram_model(before, np.full(len(pairs), np.nan), PLAN)
    with pytest.raises(FormatError):
        gram_model({}, pairs, PLAN)
    # Nothing was learnt, but the model is still one: noise of 0 and values of 0 are no fault.
    ModelState.from_arrays(gram_model(before, 0 * pairs, PLAN))
