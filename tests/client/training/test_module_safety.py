"""Each hazard: what stock Opacus makes of it, measured, and that the check refuses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn
from torch.nn import functional

from client.training.module_safety import Losses, require_safe
from client.training.opacus_losses import CustomerLikelihood
from client.training.opacus_modules import opacus_module
from common.errors import InputError

SIZE, RANK, NORM = 10, 4, 0.5
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def rows_of(n_customers: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(n_customers, SIZE, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)


def items_of(n_customers: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, SIZE, (n_customers, 3), generator=generator)


def likelihood(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return CustomerLikelihood("none")(module(rows), rows)


def squares(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return module(batch).square().flatten(1).sum(1)


def in_batch(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Every customer against all others of the batch, as two-tower models are often trained."""
    found = module(batch)
    scores = found @ found.roll(1, 1).T
    return functional.cross_entropy(scores, torch.arange(len(batch)), reduction="none")


class FunctionallyTied(nn.Module):
    """The encoder's weight decodes, too, and no layer sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(SIZE, RANK)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(torch.tanh(self.encoder(rows)), self.encoder.weight.T)


class Decoder(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight


class TiedLayers(nn.Module):
    """Two layers have one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(SIZE, RANK, bias=False)
        self.decoder = Decoder(self.encoder.weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.tanh(self.encoder(rows)))


class Padded(nn.Module):
    def __init__(self, padding: int | None = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(SIZE, RANK, padding_idx=padding)
        if padding is not None:
            with torch.no_grad():
                self.table.weight[padding] = 0.5

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.table(items).sum(1)


class Normalised(nn.Module):
    """Statistics over the batch without a layer that could be named."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, RANK)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found = self.layer(rows)
        return torch.tanh((found - found.mean(0)) / (found.var(0, unbiased=False) + 1e-3).sqrt())


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind()


def layer() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, RANK))


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(SIZE, RANK),
        nn.BatchNorm1d(RANK, affine=False, track_running_stats=False),
        nn.Tanh(),
    )


def by_opacus(
    module: nn.Module, losses: Losses, batch: torch.Tensor, mode: str, norm: float = NORM
) -> torch.Tensor:
    """What stock Opacus releases without noise, all parameters in one vector."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    settings = {"noise_multiplier": 0.0, "max_grad_norm": norm, "expected_batch_size": 1}
    if mode == "hooks":
        wrapped = GradSampleModule(module, loss_reduction="sum")
        optimizer = DPOptimizer(torch.optim.SGD(parameters, 1.0), loss_reduction="sum", **settings)
        losses(wrapped, batch).sum().backward()
    else:
        wrapped = GradSampleModuleFastGradientClipping(
            module, loss_reduction="sum", max_grad_norm=norm
        )
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(parameters, 1.0), loss_reduction="sum", **settings
        )
        loss = losses(wrapped, batch)
        DPTensorFastGradientClipping(wrapped, optimizer, loss, "sum").backward()
    optimizer.pre_step()
    found = torch.cat([p.grad.flatten() for p in parameters])
    wrapped.to_standard_module()
    return found


def by_autograd(module: nn.Module, losses: Losses, batch: torch.Tensor) -> torch.Tensor:
    gradients = torch.autograd.grad(losses(module, batch).sum(), list(module.parameters()))
    return torch.cat([each.flatten() for each in gradients])


def moved_by_one(module: nn.Module, losses: Losses, batch: torch.Tensor, mode: str) -> float:
    """How far the release moves, in units of C, when the last customer is added."""
    both = by_opacus(module, losses, batch, mode)
    return float((both - by_opacus(module, losses, batch[:-1], mode)).norm()) / NORM


def test_ghost_clipping_releases_more_than_c_of_functionally_tied_weights() -> None:
    module = made(FunctionallyTied)
    with torch.no_grad():
        module.encoder.weight *= 4
    assert float(by_opacus(module, squares, rows_of(1), "ghost", 0.01).norm()) / 0.01 > 1.7
    # Hooks clip what they see, which is not the gradient.
    exact = by_autograd(module, squares, rows_of(1))
    seen = by_opacus(module, squares, rows_of(1), "hooks", 1e9)
    assert float((seen - exact).norm() / exact.norm()) > 0.3
    for mode in ("hooks", "ghost"):
        with pytest.raises(InputError, match=r"by encoder\.weight is not that of her loss"):
            require_safe(module, squares, rows_of(3), mode=mode)


def test_a_tie_is_seen_where_the_other_use_is_zero_by_initialisation() -> None:
    module = made(FunctionallyTied)
    nn.init.zeros_(module.encoder.weight)
    nn.init.zeros_(module.encoder.bias)
    for mode in ("hooks", "ghost"):
        with pytest.raises(InputError, match=r"encoder\.weight"):
            require_safe(module, squares, rows_of(3), mode=mode)


def test_ghost_clipping_releases_more_than_c_of_two_layers_with_one_parameter() -> None:
    module = made(TiedLayers)
    with torch.no_grad():
        module.encoder.weight *= 4
    assert float(by_opacus(module, squares, rows_of(1), "ghost", 0.01).norm()) / 0.01 > 2.1
    with pytest.raises(InputError, match=r"decoder \(Decoder\) has its weight in common with enc"):
        require_safe(module, squares, rows_of(3), mode="ghost")


def test_padding_has_no_gradient_but_opacus_gives_one() -> None:
    items = torch.tensor([[3, 0, 0], [4, 5, 0]])
    module = made(Padded)
    exact = by_autograd(module, squares, items)
    seen = by_opacus(module, squares, items, "hooks", 1e9)
    assert not exact[:RANK].any()
    assert float((seen - exact).norm() / exact.norm()) > 0.5
    # In ghost clipping the norm counts the padding, so that the rest is clipped too far.
    assert float(by_opacus(made(Padded), squares, items[:1], "ghost").norm()) < 0.8 * NORM
    with pytest.raises(InputError, match=r"table \(Embedding\) has a padding_idx"):
        require_safe(module, squares, items)
    require_safe(made(lambda: Padded(None)), squares, items)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize(
    ("kind", "losses"),
    [(normed, squares), (Normalised, squares), (layer, in_batch)],
    ids=["batch-norm", "functional-batch-norm", "in-batch-negatives"],
)
def test_a_customer_who_is_coupled_with_others_moves_the_release_by_more_than_c(
    kind: Callable[[], nn.Module], losses: Losses, mode: str
) -> None:
    moved = [moved_by_one(made(kind), losses, 10 * rows_of(6, seed), mode) for seed in range(10)]
    assert max(moved) > 1.5
    # Where nobody is coupled it never does.
    assert moved_by_one(made(layer), squares, 3 * rows_of(6), mode) <= 1 + 1e-5
    with pytest.raises(InputError, match=r"by the others of the batch|depends on .*other"):
        require_safe(made(kind), losses, 3 * rows_of(4), mode=mode)


def test_batch_norm_is_named() -> None:
    with pytest.raises(InputError, match=r"The module 1 \(BatchNorm1d\) normalises each customer"):
        require_safe(made(normed), squares, rows_of(4))


def test_coupling_is_seen_though_what_goes_in_are_numbers_of_items() -> None:
    with pytest.raises(InputError, match=r"depends on the other customers"):
        require_safe(made(lambda: Padded(None)), in_batch, items_of(4))


def test_coupling_is_seen_though_the_gradients_are_those_of_each_alone() -> None:
    """A constant that another customer's input adds moves nothing yet: it is a warning."""

    def shifted(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return squares(module, rows) + rows.sum()

    with pytest.raises(InputError, match="depends on another customer's input"):
        require_safe(made(layer), shifted, rows_of(3))


class Inexact(nn.Linear):
    """A layer whose registered sampler forgets its bias."""


def test_an_inexact_sampler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.grad_sample import GradSampleHooks

    def sampler(module, inputs, by_output):  # type: ignore[no-untyped-def]
        return {module.weight: by_output[:, :, None] * inputs[0][:, None, :]}

    monkeypatch.setitem(GradSampleHooks.GRAD_SAMPLERS, Inexact, sampler)
    with pytest.raises(InputError):
        require_safe(Inexact(SIZE, RANK), squares, rows_of(3))


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_what_is_safe_is_let_pass_and_left_as_it_is(mode: str) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "item_factors": np.zeros((SIZE, RANK), np.float32),
        "hidden_bias": generator.normal(0, 1, RANK),
        "item_bias": generator.normal(0, 1, SIZE),
        "directions": generator.normal(0, 1, (SIZE, RANK)),
    }
    constants = {"unobserved_weight": 0.1, "regularisation": 0.5}
    for strategy, losses in (("tied-autoencoder", likelihood), ("matrix-factorisation", direct)):
        module = opacus_module(strategy, arrays, constants)
        require_safe(module, losses, rows_of(3), mode=mode)
        assert not any(p.grad is not None or hasattr(p, "grad_sample") for p in module.parameters())
        assert not dict(module.named_parameters())[
            "item_factors" if strategy == "tied-autoencoder" else "loss.item_factors"
        ].any()
    factors = opacus_module("factors", arrays)
    require_safe(factors, squares, rows_of(3).double(), mode=mode)
    dropping = nn.Sequential(nn.Linear(SIZE, RANK), nn.Dropout(0.5), nn.LayerNorm(RANK))
    require_safe(dropping, squares, rows_of(3), mode=mode)


def direct(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return module(rows)


def test_a_probe_of_one_and_a_loss_that_is_summed_are_refused() -> None:
    with pytest.raises(InputError, match="fewer than two"):
        require_safe(made(layer), squares, rows_of(1))
    with pytest.raises(InputError, match="one loss for each"):
        require_safe(made(layer), lambda module, rows: module(rows).sum(), rows_of(3))
