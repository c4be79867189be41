"""The closed form against autograd through the minimisation, customer by customer, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import CustomerItemMatrix
from client.training.models.matrix_factorisation import MatrixFactorisation
from common.errors import InputError
from tests.support.clipped_oracle import Oracle, norm_of, random_rows, relative_error, released

SIZE, RANK = 14, 3
WEIGHT, REGULARISATION = 0.05, 0.2


def arrays(seed: int, scale: float = 0.5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"item_factors": generator.normal(0, scale, (SIZE, RANK)).astype(np.float32)}


def model(start: dict[str, np.ndarray], precision: str = "double") -> MatrixFactorisation:
    return MatrixFactorisation(
        start,
        unobserved_weight=WEIGHT,
        regularisation=REGULARISATION,
        precision=precision,  # type: ignore[arg-type]
    )


def minimised(
    parameters: dict[str, torch.Tensor], items: Sequence[int], values: Sequence[float]
) -> torch.Tensor:
    """The loss, minimised over the customer's vector inside of autograd."""
    factors = parameters["item_factors"]
    confidence = torch.tensor(values, dtype=torch.float64)
    own = factors[list(items)]
    system = own.T @ (confidence[:, None] * own) + WEIGHT * factors.T @ factors
    system = system + REGULARISATION * torch.eye(RANK, dtype=torch.float64)
    vector = torch.linalg.solve(system, own.T @ confidence)
    fit = (confidence * (1 - own @ vector).square()).sum()
    everywhere = WEIGHT * (factors @ vector).square().sum()
    return fit + everywhere + REGULARISATION * vector.square().sum()


ORACLE = Oracle(minimised)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n_customers=st.integers(0, 9),
    scale=st.sampled_from([0.03, 0.5, 3.0]),
    clipping_norm=st.sampled_from([0.01, 0.3, 50.0]),
)
def test_the_sum_is_that_of_autograd_clipped_customer_by_customer(
    seed: int, n_customers: int, scale: float, clipping_norm: float
) -> None:
    start, rows = arrays(seed, scale), random_rows(n_customers, SIZE, seed)
    expected = ORACLE.clipped_sum(start, rows, clipping_norm)
    found = released(model(start), rows, clipping_norm)
    assert relative_error(found, expected) <= 1e-5


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 30.0, 1e4]),
    clipping_norm=st.sampled_from([1e-6, 0.3, 10.0]),
    precision=st.sampled_from(["double", "single"]),
)
def test_one_customer_contributes_at_most_c_whatever_the_parameters(
    seed: int, scale: float, clipping_norm: float, precision: str
) -> None:
    rows = random_rows(1, SIZE, seed, least=1)
    found = released(model(arrays(seed, scale), precision), rows, clipping_norm)
    assert norm_of(found) <= clipping_norm


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_single_precision_comes_to_the_same(seed: int) -> None:
    start, rows = arrays(seed), random_rows(5, SIZE, seed)
    exact, approximate = (released(model(start, each), rows, 0.3) for each in PRECISIONS)
    assert relative_error(approximate, exact) <= 1e-4


PRECISIONS = ("double", "single")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_who_has_no_entries_contributes_nothing_and_nor_does_nobody(precision: str) -> None:
    for n_customers in (0, 3):
        rows = CustomerItemMatrix(
            np.zeros(n_customers + 1, dtype=np.int64),
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.float32),
            SIZE,
        )
        assert not released(model(arrays(1), precision), rows, 1.0)["item_factors"].any()


def test_a_step_that_was_not_finished_leaves_nothing_to_the_next() -> None:
    start, rows = arrays(1), random_rows(4, SIZE, 1, least=1)
    begun = model(start)
    begun.prepare()
    into = {name: torch.zeros_like(each) for name, each in begun.parameters.items()}
    begun.add_clipped_gradients(rows, 1.0, into)
    again, fresh = released(begun, rows, 1.0), released(model(start), rows, 1.0)
    assert np.array_equal(again["item_factors"], fresh["item_factors"])


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    start, rows = arrays(2), random_rows(9, SIZE, 2)
    whole = released(model(start), rows, 0.3)
    parts = model(start)
    parts.prepare()
    into = {name: torch.zeros_like(each) for name, each in parts.parameters.items()}
    monkeypatch.setattr("client.training.models.customer_solver._PADDED_ENTRIES", 4)
    for begin in range(0, 9, 2):
        parts.add_clipped_gradients(rows.rows(begin, min(begin + 2, 9)), 0.3, into)
    parts.finish(into)
    assert relative_error({"item_factors": into["item_factors"].numpy()}, whole) <= 1e-6


@pytest.mark.parametrize("spoiled", ["value", "parameter", "item", "zero", "twice", "norm"])
def test_what_cannot_be_clipped_is_refused(spoiled: str) -> None:
    start, rows, clipping_norm = arrays(1), random_rows(3, SIZE, 1, least=2), 1.0
    if spoiled == "value":
        rows.values[0] = np.nan
    elif spoiled == "parameter":
        start["item_factors"][2, 1] = np.inf
    elif spoiled == "item":
        rows.indices[rows.indptr[1] - 1] = SIZE
    elif spoiled == "zero":
        rows.values[0] = 0.0
    elif spoiled == "twice":
        rows.indices[1] = rows.indices[0]
    else:
        clipping_norm = -1.0
    with pytest.raises(InputError):
        released(model(start), rows, clipping_norm)


@pytest.mark.parametrize("constant", ["unobserved_weight", "regularisation"])
def test_a_constant_that_is_not_positive_is_refused(constant: str) -> None:
    constants = {"unobserved_weight": 1.0, "regularisation": 1.0, constant: 0.0}
    with pytest.raises(InputError, match="not above 0"):
        MatrixFactorisation(arrays(1), **constants)


def test_scores_are_those_of_the_solved_vector() -> None:
    start, rows = arrays(5), random_rows(3, SIZE, 5, least=1)
    factors = start["item_factors"].astype(np.float64)
    for row, found in enumerate(model(start).scores(rows)):
        entries = slice(int(rows.indptr[row]), int(rows.indptr[row + 1]))
        own, confidence = factors[rows.indices[entries]], rows.values[entries].astype(np.float64)
        system = own.T @ (confidence[:, None] * own) + WEIGHT * factors.T @ factors
        vector = np.linalg.solve(system + REGULARISATION * np.eye(RANK), own.T @ confidence)
        assert np.allclose(found, factors @ vector, atol=1e-5)
