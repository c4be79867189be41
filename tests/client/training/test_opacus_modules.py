"""Opacus's own engine on our modules, against float64 autograd and against our closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule, PrivacyEngine
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch.utils.data import DataLoader, TensorDataset

from client.data.dataset import CustomerItemMatrix
from client.training.models.matrix_factorisation import MatrixFactorisation
from client.training.models.tied_autoencoder import TiedAutoencoder
from client.training.opacus_losses import CustomerLikelihood, SumOfLosses
from client.training.opacus_modules import (
    OpacusMatrixFactorisation,
    OpacusTiedAutoencoder,
    opacus_module,
)
from common.errors import InputError
from tests.support.clipped_oracle import Oracle, norm_of, random_rows, relative_error, released

SIZE, RANK = 12, 3
CONSTANTS = {"unobserved_weight": 0.1, "regularisation": 0.5}
MODELS = ["tied-autoencoder", "matrix-factorisation"]
MODES = ["hooks", "ghost"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]


def arrays_of(model: str, seed: int, scale: float = 0.5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    factors = {"item_factors": generator.normal(0, scale, (SIZE, RANK)).astype(np.float32)}
    if model == "matrix-factorisation":
        return factors
    return factors | {
        "hidden_bias": generator.normal(0, 0.5, RANK).astype(np.float32),
        "item_bias": generator.normal(0, 0.5, SIZE).astype(np.float32),
    }


def oracle_loss(parameters: dict[str, torch.Tensor], items: Sequence[int], values: Sequence[float]):  # type: ignore[no-untyped-def]
    """One customer's loss by the models' formulas, her vector found by a dense solve."""
    factors = parameters["item_factors"]
    row = torch.zeros(SIZE, dtype=torch.float64)
    row[list(items)] = torch.tensor(values, dtype=torch.float64)
    if "item_bias" in parameters:
        hidden = torch.tanh(factors.T @ row + parameters["hidden_bias"])
        logits = factors @ hidden + parameters["item_bias"]
        return -(row / row.sum() * torch.log_softmax(logits, 0)).sum()
    weight, penalty = CONSTANTS["unobserved_weight"], CONSTANTS["regularisation"]
    fixed = factors.detach()
    system = fixed.T @ (fixed * (row + weight)[:, None]) + penalty * torch.eye(RANK)
    vector = torch.linalg.solve(system, fixed.T @ row)
    scores = factors @ vector
    missed = row * (1 - scores) ** 2 + weight * scores**2
    return missed.sum() + penalty * vector.square().sum()


ORACLE = Oracle(oracle_loss)


def dense(rows: CustomerItemMatrix) -> torch.Tensor:
    matrix = np.zeros((rows.n_rows, SIZE), np.float32)
    matrix[np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr)), rows.indices] = rows.values
    return torch.from_numpy(matrix)


def criterion_of(model: str) -> torch.nn.Module:
    return CustomerLikelihood() if model == "tied-autoencoder" else SumOfLosses()


def backward(model: str, criterion, module, rows: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    output = module(rows)
    (criterion(output, rows) if model == "tied-autoencoder" else criterion(output)).backward()


def named(module: torch.nn.Module, values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name.split(".")[-1]: each.detach().numpy() for name, each in values.items()}


def summed_by_opacus(
    model: str, mode: str, arrays: dict[str, np.ndarray], rows: torch.Tensor, clipping_norm: float
) -> dict[str, np.ndarray]:
    """What a step of Opacus's engine without noise subtracts at a learning rate of 1."""
    module = opacus_module(model, arrays, CONSTANTS)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    made = PrivacyEngine(accountant="rdp").make_private(
        module=module,
        optimizer=optimizer,
        criterion=criterion_of(model),
        data_loader=DataLoader(TensorDataset(rows), batch_size=max(len(rows), 1)),
        noise_multiplier=0.0,
        max_grad_norm=clipping_norm,
        loss_reduction="sum",
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    wrapped, optimizer = made[0], made[1]
    backward(model, made[2] if mode == "ghost" else criterion_of(model), wrapped, rows)
    optimizer.pre_step()
    return named(module, {name: each.grad for name, each in module.named_parameters()})


CASES = dict(  # noqa: C408
    seed=st.integers(0, 10_000),
    n_customers=st.integers(1, 6),
    scale=st.sampled_from([0.01, 0.3, 2.0]),
    clipping_norm=st.sampled_from([0.01, 0.3, 5.0]),
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25)
@given(**CASES)
def test_a_step_of_the_engine_is_that_of_autograd_and_ours(
    model: str, mode: str, seed: int, n_customers: int, scale: float, clipping_norm: float
) -> None:
    arrays, rows = arrays_of(model, seed, scale), random_rows(n_customers, SIZE, seed, least=1)
    found = summed_by_opacus(model, mode, arrays, dense(rows), clipping_norm)
    expected = ORACLE.clipped_sum(arrays, rows, clipping_norm)
    # Opacus divides by the norm + 1e-6.
    allowed = 1e-5 + 1e-6 / clipping_norm
    assert relative_error(found, expected) <= allowed
    ours = (
        TiedAutoencoder(arrays)
        if model == "tied-autoencoder"
        else MatrixFactorisation(arrays, **CONSTANTS)
    )
    assert relative_error(found, released(ours, rows, clipping_norm)) <= allowed


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25)
@given(**CASES)
def test_gradients_and_norms_are_each_customers(
    model: str, seed: int, n_customers: int, scale: float, clipping_norm: float
) -> None:
    arrays, rows = arrays_of(model, seed, scale), random_rows(n_customers, SIZE, seed)
    expected = ORACLE.gradients(arrays, rows)
    hooked = GradSampleModule(opacus_module(model, arrays, CONSTANTS), loss_reduction="sum")
    backward(model, criterion_of(model), hooked, dense(rows))
    ghost = GradSampleModuleFastGradientClipping(
        opacus_module(model, arrays, CONSTANTS), loss_reduction="sum", max_grad_norm=clipping_norm
    )
    backward(model, criterion_of(model), ghost, dense(rows))
    norms = ghost.get_norm_sample().tolist()
    samples = named(hooked, {name: p.grad_sample for name, p in hooked.named_parameters()})
    for number, gradient in enumerate(expected):
        own = {name: each[number] for name, each in samples.items()}
        exact = norm_of(gradient)
        # A small gradient is the difference of terms near 1, in single precision.
        allowed = 1e-5 * max(exact, 0.1)
        assert norm_of({name: own[name] - each for name, each in gradient.items()}) <= allowed
        assert norms[number] == pytest.approx(exact, abs=allowed)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 30.0]),
    clipping_norm=st.sampled_from([1e-3, 0.3, 10.0]),
)
def test_in_ghost_clipping_one_customer_contributes_at_most_c(
    model: str, seed: int, scale: float, clipping_norm: float
) -> None:
    rows = dense(random_rows(1, SIZE, seed, least=1))
    found = summed_by_opacus(model, "ghost", arrays_of(model, seed, scale), rows, clipping_norm)
    assert norm_of(found) <= clipping_norm


@pytest.mark.parametrize("model", MODELS)
def test_rounding_takes_no_contribution_above_c(model: str) -> None:
    """Norms far above C: with norms that were not rounded up some exceed it by 3e-7."""
    for seed in range(50):
        rows = 100 * dense(random_rows(1, SIZE, seed, least=1))
        rows = rows / rows.norm() if model == "tied-autoencoder" else rows
        for scale in (1.0, 30.0):
            found = summed_by_opacus(model, "ghost", arrays_of(model, seed, scale), rows, 0.3)
            assert norm_of(found) <= 0.3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
def test_an_empty_sample_gives_zeros(model: str, mode: str) -> None:
    module = opacus_module(model, arrays_of(model, 1), CONSTANTS)
    kind = GradSampleModule if mode == "hooks" else GradSampleModuleFastGradientClipping
    wrapped = kind(module, loss_reduction="sum")
    backward(model, criterion_of(model), wrapped, torch.zeros(0, SIZE))
    if mode == "ghost":
        assert wrapped.get_clipping_coef().shape == (0,)
    assert not any(p.grad.any() for p in module.parameters())


def test_a_module_used_twice_is_refused_by_ghost_clipping() -> None:
    ghost = GradSampleModuleFastGradientClipping(
        OpacusTiedAutoencoder(arrays_of(MODELS[0], 1)), loss_reduction="sum"
    )
    rows = dense(random_rows(2, SIZE, 1, least=1))
    ghost(rows)
    with pytest.raises(NotImplementedError, match="tying"):
        ghost(rows)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_not_finite_is_refused(model: str, mode: str) -> None:
    rows = dense(random_rows(2, SIZE, 1, least=1))
    for spoil_rows in (True, False):
        arrays, given_rows = arrays_of(model, 1), rows.clone()
        if spoil_rows:
            given_rows[0, 0] = float("nan")
        else:
            arrays["item_factors"][0, 0] = np.inf
        with pytest.raises(InputError):
            summed_by_opacus(model, mode, arrays, given_rows, 1.0)


def test_a_negative_confidence_and_constants_that_are_not_positive_are_refused() -> None:
    module = OpacusMatrixFactorisation(arrays_of(MODELS[1], 1), **CONSTANTS)
    with pytest.raises(InputError, match="confidence"):
        module(torch.full((1, SIZE), -1.0))
    for name in CONSTANTS:
        with pytest.raises(InputError, match="not above 0"):
            OpacusMatrixFactorisation(arrays_of(MODELS[1], 1), **{**CONSTANTS, name: 0.0})


def test_factors_are_an_ordinary_layer_and_sasrec_is_refused() -> None:
    module = opacus_module("factors", {"directions": np.eye(SIZE)[:, :RANK]})
    assert module(torch.ones(2, SIZE, dtype=torch.float64)).shape == (2, RANK)
    with pytest.raises(InputError, match=r"sasrec cannot be trained by Opacus.*client\.training"):
        opacus_module("sasrec", {})
