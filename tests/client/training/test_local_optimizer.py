"""Our in-place steps against PyTorch's optimisers, an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training.local_optimizer import LocalOptimizer
from common.errors import InputError

NORMALISER, RATE = 50.0, 0.03


def start() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "item_bias": torch.randn(7, generator=generator),
        "item_factors": torch.randn(7, 3, generator=generator),
    }


def sums(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(each.shape, generator=generator) for name, each in start().items()}


def stepped(name: str, steps: int, decay: float = 0.0) -> dict[str, torch.Tensor]:
    parameters = start()
    optimizer = LocalOptimizer(parameters, name, normaliser=NORMALISER, weight_decay=decay)
    for step in range(steps):
        optimizer.step(sums(step), RATE * (1 + step))
    return parameters


def theirs(name: str, steps: int, decay: float) -> dict[str, torch.Tensor]:
    parameters = start()
    chosen = {
        "sgd": lambda: torch.optim.SGD(parameters.values(), lr=RATE),
        "momentum": lambda: torch.optim.SGD(parameters.values(), lr=RATE, momentum=0.9),
        "adam": lambda: torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=decay),
    }
    optimizer = chosen[name]()
    for step in range(steps):
        rate = RATE * (1 + step)
        optimizer.param_groups[0]["lr"] = rate
        for key, total in sums(step).items():
            parameters[key].grad = total / NORMALISER
            if name != "adam":
                # Decoupled, which PyTorch's SGD does not offer.
                parameters[key].mul_(1 - rate * decay)
        optimizer.step()
    return parameters


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_steps_are_those_of_pytorch(name: str, decay: float) -> None:
    ours, reference = stepped(name, 6, decay), theirs(name, 6, decay)
    for key, parameter in ours.items():
        assert np.allclose(parameter, reference[key], rtol=1e-5, atol=1e-6)
        assert not np.allclose(parameter, start()[key], atol=1e-4)


def test_optimisers_differ() -> None:
    ends = [stepped(name, 3)["item_bias"] for name in ("sgd", "momentum", "adam")]
    assert not any(torch.allclose(ends[i], ends[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(InputError, match="'lion' is unknown"):
        LocalOptimizer(start(), "lion", normaliser=1.0)
