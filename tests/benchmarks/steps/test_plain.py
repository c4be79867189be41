"""Baselines compute what ours does without clipping: or the ratios to them would mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from benchmarks.steps import made_up
from benchmarks.steps import plain as plain_module
from benchmarks.steps.plain import PlainStep
from benchmarks.steps.plain_autoencoder import AutogradAutoencoder, HandAutoencoder
from benchmarks.steps.plain_factorisation import (
    REGULARISATION,
    UNOBSERVED_WEIGHT,
    AutogradFactorisation,
    HandFactorisation,
)
from benchmarks.steps.plain_sasrec import AutogradSasRec, HandSasRec, SasRecSizes
from client.data.dataset import CustomerItemMatrix
from client.training.models.matrix_factorisation import MatrixFactorisation
from client.training.models.sasrec import SasRec
from client.training.models.tied_autoencoder import TiedAutoencoder
from common.strategies import SASREC, initial_parameters
from tests.support.clipped_oracle import norm_of, relative_error, released

ITEMS, RANK, CUSTOMERS, CHUNK, LENGTH = 60, 8, 11, 4, 12
NEVER_CLIPPED = 1e9
Arrays = Mapping[str, np.ndarray]
Case = tuple[Arrays, CustomerItemMatrix, dict[str, np.ndarray], list[PlainStep]]


def autoencoder() -> Case:
    arrays = made_up.autoencoder_arrays(ITEMS, rank=RANK)
    rows = made_up.unit_rows(CUSTOMERS, ITEMS)
    by_autograd = [
        AutogradAutoencoder(arrays, chunk=CHUNK, likelihood=likelihood)
        for likelihood in ("log-softmax", "cross-entropy")
    ]
    return (
        arrays,
        rows,
        released(TiedAutoencoder(arrays), rows, NEVER_CLIPPED),
        [HandAutoencoder(arrays, chunk=CHUNK), *by_autograd],
    )


def factorisation() -> Case:
    arrays = made_up.factor_arrays(ITEMS, rank=RANK)
    rows = made_up.by_size(made_up.confidences(CUSTOMERS, ITEMS))
    model = MatrixFactorisation(
        arrays, unobserved_weight=UNOBSERVED_WEIGHT, regularisation=REGULARISATION
    )
    plain: list[PlainStep] = [
        kind(arrays, chunk=CHUNK, precision=precision)
        for kind in (HandFactorisation, AutogradFactorisation)
        for precision in ("double", "single")
    ]
    return arrays, rows, released(model, rows, NEVER_CLIPPED), plain


def sasrec() -> Case:
    sizes = SasRecSizes(blocks=2, heads=2, negatives=ITEMS)
    options = {"blocks": "2", "heads": "2", "max_length": str(LENGTH), "negatives": str(ITEMS)}
    arrays = initial_parameters(SASREC, RANK, options, popularity=np.ones(ITEMS), seed=1)
    rows = made_up.sequences(CUSTOMERS, ITEMS, longest=LENGTH + 1)
    model = SasRec(arrays, blocks=2, heads=2, negatives=ITEMS, seed=1)
    plain: list[PlainStep] = [
        kind(arrays, sizes, chunk=CHUNK) for kind in (HandSasRec, AutogradSasRec)
    ]
    return arrays, rows, released(model, rows, NEVER_CLIPPED), plain


CASES = [autoencoder, factorisation, sasrec]


@pytest.mark.parametrize("case", CASES)
def test_every_baseline_gives_the_sum_that_ours_gives_unclipped(case: Callable[[], Case]) -> None:
    _, rows, expected, plain = case()
    assert norm_of(expected) > 0
    for each in plain:
        # Twice: what is overwritten must not be added to.
        each.gradients(rows)
        found = {name: value.detach().numpy() for name, value in each.gradients(rows).items()}
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_one_of_sgd(case: Callable[[], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_module, "RATE", 1.0)
    arrays, rows, expected, plain = case()
    for each in plain:
        each.steps(rows)()
        moved = {
            name: CUSTOMERS * (arrays[name] - value.detach().numpy())
            for name, value in each.parameters.items()
        }
        assert relative_error(moved, expected) <= 1e-4


def test_without_customers_the_autoencoders_gradient_is_zero() -> None:
    _, rows, _, plain = autoencoder()
    for each in plain:
        each.gradients(rows)
        assert not any(value.any() for value in each.gradients(rows.rows(0, 0)).values())
