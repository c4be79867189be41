from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, InputError
from common.model_state import ModelState
from common.parameters import array_file_parts, load_arrays
from server.aggregation import Model, first_model, power_step
from server.power_rounds import RIDGE, Products, factors_after
from tests.support.given_total import GivenTotal
from tests.support.preference_data import plan_of

FloatArray = npt.NDArray[np.float64]

PLAN = plan_of(n_items=60)
SIZE, RANK = PLAN.vocabulary_size, PLAN.rank
GENERATOR = np.random.default_rng(0)
POPULARITY = GENERATOR.gamma(1.0, 30.0, 60)


def symmetric(size: int, generator: np.random.Generator, *, falling: float = 0.6) -> FloatArray:
    basis, _ = np.linalg.qr(generator.standard_normal((size, size)))
    return np.asarray((basis * (5000.0 * falling ** np.arange(size))) @ basis.T)


def orthonormal(size: int, rank: int, generator: np.random.Generator) -> FloatArray:
    basis, _ = np.linalg.qr(generator.standard_normal((size, rank)))
    return np.asarray(basis)


def solved_densely(heard: Products) -> FloatArray:
    """The same minimum, over every number of A above the diagonal, by plain least squares."""
    _, size, _ = heard.directions.shape
    places = [(i, j) for i in range(size) for j in range(i, size)]
    weights = heard.weights / heard.weights[-1]
    rows, answers = [], []
    for i, j in places:
        unit = np.zeros((size, size))
        unit[i, j] = unit[j, i] = 1.0
        asked = [(unit @ v * w).ravel() for v, w in zip(heard.directions, weights, strict=True)]
        rows.append(np.concatenate([*asked, math.sqrt(RIDGE) * unit.ravel()]))
    answers = [(b * w).ravel() for b, w in zip(heard.products, weights, strict=True)]
    target = np.concatenate([*answers, np.zeros(size * size)])
    found, *_ = np.linalg.lstsq(np.stack(rows, axis=1), target, rcond=None)
    whole = np.zeros((size, size))
    for (i, j), value in zip(places, found, strict=True):
        whole[i, j] = whole[j, i] = value
    return np.asarray(whole @ heard.directions[-1])


@given(
    st.integers(2, 7).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_the_product_is_that_of_the_best_symmetric_matrix(
    shape: tuple[int, int], rounds: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    heard = Products(np.zeros((0, *shape)), np.zeros((0, *shape)), np.zeros(0))
    for _ in range(rounds):
        heard = heard.with_round(
            orthonormal(*shape, generator),
            generator.standard_normal(shape) * 3,
            float(generator.uniform(0.3, 3.0)),
        )
    assert heard.last_product() == pytest.approx(solved_densely(heard), abs=1e-8)


def rounds_of(
    gram: FloatArray,
    rounds: int,
    *,
    regions: list[int] | None = None,
    noise: np.random.Generator | None = None,
    of: int | None = None,
) -> tuple[Model, Model]:
    """Power iteration with a known A, whose noise is the plan's if there is any."""
    plan = plan_of(n_items=60, rounds=1 + (of or rounds))
    model, state = first_model(POPULARITY, plan), Model()
    for number in range(rounds):
        count = regions[number] if regions else len(PLAN.regions)
        gradient = -gram @ ModelState.from_arrays(model).directions * count / len(PLAN.regions)
        if noise is not None:
            stddev = plan.mechanism_named("factors").noise_stddev * math.sqrt(count)
            gradient = gradient + noise.standard_normal(gradient.shape) * stddev
        total = GivenTotal(count, gradient)
        model, state = factors_after(2 + number, model, total, plan, state)
    return model, state


def test_rounds_find_the_leading_directions_of_the_customers_gram() -> None:
    basis, _ = np.linalg.qr(GENERATOR.standard_normal((SIZE, SIZE)))
    strengths = 5000.0 * 0.6 ** np.arange(SIZE)
    model, _ = rounds_of((basis * strengths) @ basis.T, 20)
    state = ModelState.from_arrays(model)
    overlap = np.abs(basis[:, :RANK].T @ state.directions)
    assert overlap == pytest.approx(np.eye(RANK), abs=2e-3)
    # A factor's norm is the fourth root of its relative strength, noise taken off.
    norms = np.linalg.norm(state.item_factors.astype(np.float64), axis=0)
    assert norms[:3] ** 4 == pytest.approx(strengths[:3] / strengths[0], rel=0.02)


def test_earlier_rounds_bring_the_factors_nearer_to_the_truth() -> None:
    """Fails if the last product alone is read, whatever else is done to it."""
    noise = np.random.default_rng(1)
    all_rounds, last_alone = [], []
    for seed in range(30):
        gram = symmetric(SIZE, np.random.default_rng(seed), falling=0.5) / 5
        values, vectors = np.linalg.eigh(gram)
        true = vectors[:, np.argsort(-values)[:RANK]]
        model, state = rounds_of(gram, 4, noise=noise)
        heard = Products.of(state, PLAN)
        alone = power_step(-heard.products[-1], noise_stddev=0.0)
        for found, errors in ((model["item_factors"], all_rounds), (alone, last_alone)):
            directions = found / np.linalg.norm(found, axis=0)
            errors.append(RANK - np.linalg.norm(true.T @ directions) ** 2)
    assert np.mean(all_rounds) < 0.9 * np.mean(last_alone)


def test_rounds_of_fewer_regions_are_heard_per_region() -> None:
    gram = symmetric(SIZE, np.random.default_rng(2))
    whole, _ = rounds_of(gram, 4)
    fewer, _ = rounds_of(gram, 4, regions=[3, 2, 3, 2])
    directions = [ModelState.from_arrays(each).directions for each in (whole, fewer)]
    assert directions[1] == pytest.approx(directions[0], abs=0.02)


def test_rounds_with_more_noise_weigh_less() -> None:
    generator = np.random.default_rng(3)
    directions = orthonormal(8, 3, generator)
    true, wrong = generator.standard_normal((8, 3)), generator.standard_normal((8, 3)) * 100
    heard = Products(np.zeros((0, 8, 3)), np.zeros((0, 8, 3)), np.zeros(0))
    heard = heard.with_round(directions, wrong, 1e-6).with_round(directions, true, 1.0)
    only = Products(heard.directions[1:], heard.products[1:], heard.weights[1:])
    assert heard.last_product() == pytest.approx(only.last_product(), abs=1e-6)


def test_what_chance_asked_is_forgotten_unless_there_is_but_one_round_more() -> None:
    """The first round's directions are the public seed's."""
    few = plan_of(n_items=60, epsilon="1")
    assert (PLAN.training_rounds, few.training_rounds) == (4, 2)
    for plan, kept in ((PLAN, [0, 1, 2, 3]), (few, [1, 2])):
        model, state, found = first_model(POPULARITY, plan), Model(), []
        for server_round in range(2, plan.total_rounds + 1):
            total = GivenTotal(3, np.ones((plan.vocabulary_size, plan.rank)))
            model, state = factors_after(server_round, model, total, plan, state)
            found.append(len(Products.of(state, plan).weights))
        assert found == kept


def test_more_regions_mean_more_noise_to_take_off() -> None:
    model = first_model(POPULARITY, PLAN)
    gradient = GENERATOR.standard_normal((SIZE, RANK)) * 3.0 + 1.5
    few, many = (
        np.linalg.norm(
            factors_after(2, model, GivenTotal(3, gradient, math.sqrt(n)), PLAN, {})[0][
                "item_factors"
            ],
            axis=0,
        )
        for n in (1, 3)
    )
    assert (many[1:] <= few[1:]).all()
    assert many.sum() < few.sum()


def test_what_is_kept_is_the_same_from_a_file(tmp_path: Path) -> None:
    """So a resumed run publishes the model of one that was not interrupted, to the last bit."""
    gram = symmetric(SIZE, np.random.default_rng(4))
    model, state = rounds_of(gram, 2, noise=np.random.default_rng(5), of=4)
    (tmp_path / "state").write_bytes(b"".join(array_file_parts(state)))
    stored = load_arrays((tmp_path / "state").read_bytes(), max_bytes=1 << 20)
    total = GivenTotal(3, -gram @ ModelState.from_arrays(model).directions)
    going_on, resumed = (factors_after(4, model, total, PLAN, each)[0] for each in (state, stored))
    assert np.array_equal(going_on["item_factors"], resumed["item_factors"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    model = first_model(POPULARITY, PLAN)
    gradient = np.ones((SIZE, RANK))
    gradient[0, 0] = value
    with pytest.raises(InputError, match="not finite"):
        factors_after(2, model, GivenTotal(3, gradient), PLAN, {})


def test_other_shapes_models_and_states_are_refused() -> None:
    model = first_model(POPULARITY, PLAN)
    ones = GivenTotal(3, np.ones((SIZE, RANK)))
    with pytest.raises(InputError, match="shape"):
        factors_after(2, model, GivenTotal(3, np.ones((RANK, SIZE))), PLAN, {})
    with pytest.raises(InputError, match="zero"):
        factors_after(2, model, GivenTotal(3, np.zeros((SIZE, RANK))), PLAN, {})
    with pytest.raises(FormatError):
        factors_after(2, {}, ones, PLAN, {})
    _, state = factors_after(3, model, ones, PLAN, {})
    for name, values in state.items():
        with pytest.raises(FormatError, match="lacks"):
            factors_after(4, model, ones, PLAN, {k: v for k, v in state.items() if k != name})
        with pytest.raises(FormatError, match="not of this plan"):
            factors_after(4, model, ones, PLAN, {**state, name: values[..., :0]})
        with pytest.raises(FormatError, match="not of this plan"):
            factors_after(4, model, ones, PLAN, {**state, name: values * np.nan})
        with pytest.raises(FormatError, match="not of this plan"):
            factors_after(4, model, ones, PLAN, {**state, name: values.ravel()[0]})


def test_a_state_of_other_rounds_is_refused() -> None:
    """As a checkpoint of a release that kept none would be."""
    model = first_model(POPULARITY, PLAN)
    ones = GivenTotal(3, np.ones((SIZE, RANK)))
    _, state = factors_after(3, model, ones, PLAN, {})
    for server_round, kept in ((4, {}), (5, state), (3, state)):
        with pytest.raises(FormatError, match="rounds of factors before round"):
            factors_after(server_round, model, ones, PLAN, kept)
