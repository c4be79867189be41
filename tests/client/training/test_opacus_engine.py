"""Opacus's engine behind our check: what is safe is trained as before, what is not is not begun."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from client.training.opacus_engine import CheckedPrivacyEngine
from client.training.opacus_losses import CustomerLikelihood
from client.training.opacus_modules import opacus_module
from common.errors import InputError
from tests.client.training.test_module_safety import (
    RANK,
    SIZE,
    FunctionallyTied,
    Normalised,
    Padded,
    TiedLayers,
    items_of,
    likelihood,
    made,
    normed,
    rows_of,
    squares,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]
ARRAYS = {
    "item_factors": torch.randn(SIZE, RANK, generator=torch.Generator().manual_seed(5)).numpy(),
    "hidden_bias": torch.zeros(RANK).numpy(),
    "item_bias": torch.zeros(SIZE).numpy(),
}


def arguments(module: nn.Module, batch: torch.Tensor, **changes: Any) -> dict[str, Any]:
    return {
        "module": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=1.0),
        "criterion": CustomerLikelihood(),
        "data_loader": DataLoader(TensorDataset(batch), batch_size=len(batch)),
        "noise_multiplier": 0.0,
        "max_grad_norm": 0.5,
        "loss_reduction": "sum",
        "poisson_sampling": False,
        **changes,
    }


def stepped(engine: PrivacyEngine, mode: str) -> torch.Tensor:
    """The parameters after one step without noise."""
    module, rows = opacus_module("tied-autoencoder", ARRAYS), rows_of(4)
    private = engine.make_private(**arguments(module, rows, grad_sample_mode=mode))
    criterion = private[2] if mode == "ghost" else CustomerLikelihood()
    criterion(private[0](rows), rows).backward()
    private[1].step()
    return torch.cat([each.detach().flatten() for each in module.parameters()])


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_safe_module_is_trained_as_by_opacus_alone(mode: str) -> None:
    checked = CheckedPrivacyEngine(losses=likelihood, probe=rows_of(3, 9))
    torch.testing.assert_close(stepped(checked, mode), stepped(PrivacyEngine(), mode))


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize(
    ("kind", "probe"),
    [
        (FunctionallyTied, rows_of(3)),
        (TiedLayers, rows_of(3)),
        (Padded, items_of(3)),
        (normed, rows_of(3)),
        (Normalised, rows_of(3)),
    ],
    ids=["functionally tied", "tied layers", "padding", "batch norm", "functional batch norm"],
)
def test_an_unsafe_module_is_refused_and_left_as_it_was(
    kind: Any, probe: torch.Tensor, mode: str
) -> None:
    module = made(kind)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    engine = CheckedPrivacyEngine(losses=squares, probe=probe)
    with pytest.raises(InputError):
        engine.make_private(**arguments(module, probe, grad_sample_mode=mode))
    assert not hasattr(module, "autograd_grad_sample_hooks")
    for name, each in module.state_dict().items():
        assert torch.equal(each, before[name])
    # Opacus alone makes it private without a word, but for the layers that it knows to be unsafe.
    if kind is not normed:
        PrivacyEngine().make_private(**arguments(made(kind), probe, grad_sample_mode=mode))


def scale_of(n_customers: int) -> float:
    """What Opacus divides a step by, with as many customers and batches of 100."""
    module = opacus_module("tied-autoencoder", ARRAYS)
    loader = DataLoader(TensorDataset(rows_of(n_customers)), batch_size=100)
    made_private = PrivacyEngine().make_private(
        **arguments(module, rows_of(2), data_loader=loader, loss_reduction="mean")
    )
    return float(made_private[1].expected_batch_size)


def test_a_normaliser_that_counts_customers_is_refused() -> None:
    """Opacus issue 819: one customer more, and the noise of every coordinate is another."""
    assert scale_of(100) != scale_of(101)
    module = opacus_module("tied-autoencoder", ARRAYS)
    engine = CheckedPrivacyEngine(losses=likelihood, probe=rows_of(3))
    with pytest.raises(InputError, match="number of customers"):
        engine.make_private(**arguments(module, rows_of(3), loss_reduction="mean"))
    by_default = arguments(module, rows_of(3))
    del by_default["loss_reduction"]
    with pytest.raises(InputError, match="number of customers"):
        engine.make_private(**by_default)


def test_what_is_not_checked_and_an_accountant_that_under_reports_are_refused() -> None:
    engine = CheckedPrivacyEngine(losses=likelihood, probe=rows_of(3))
    module = opacus_module("tied-autoencoder", ARRAYS)
    with pytest.raises(InputError, match="'functorch' of Opacus is not checked"):
        engine.make_private(**arguments(module, rows_of(3), grad_sample_mode="functorch"))
    with pytest.raises(InputError, match="gdp"):
        CheckedPrivacyEngine(losses=likelihood, probe=rows_of(3), accountant="gdp")
