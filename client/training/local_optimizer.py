"""What a noisy gradient does to the parameters: SGD, momentum or Adam, all in place.

A region's optimiser sees noisy gradients only, so that whatever it remembers is post-processing. It
remembers nothing from one round to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from common.errors import InputError

OptimizerName = Literal["sgd", "momentum", "adam"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "momentum", "adam")

MOMENTUM = 0.9
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8

Tensors = Mapping[str, torch.Tensor]


class LocalOptimizer:
    """Changes parameters by noisy sums of gradients.

    ``sgd`` and ``momentum`` are those of Sutskever et al. (2013) without dampening; ``adam`` is
    Kingma and Ba (2015) with its bias correction. Weight decay is decoupled from the gradient
    (Loshchilov and Hutter, 2019), so that it means the same for each of them.

    Args:
        parameters: The tensors to change, by name.
        name: One of `OPTIMIZERS`.
        normaliser: Public: what a sum is divided by.
        weight_decay: Share of the parameters that a step takes off, times the learning rate.

    Raises:
        InputError: The optimiser is unknown.
    """

    def __init__(
        self, parameters: Tensors, name: str, *, normaliser: float, weight_decay: float = 0.0
    ) -> None:
        if name not in OPTIMIZERS:
            raise InputError(
                f"The local optimiser {name[:32]!r} is unknown.",
                remedy=f"Use one of {', '.join(OPTIMIZERS)}.",
            )
        self._parameters = parameters
        self._step = {"sgd": self._sgd, "momentum": self._momentum, "adam": self._adam}[name]
        self._scale = 1.0 / normaliser
        self._weight_decay = weight_decay
        self._steps = 0
        remembered = {"sgd": 0, "momentum": 1, "adam": 2}[name]
        self._memory = {
            key: tuple(torch.zeros_like(parameter) for _ in range(remembered))
            for key, parameter in parameters.items()
        }

    def step(self, sums: Tensors, learning_rate: float) -> None:
        """Takes one step.

        Args:
            sums: Noisy sums of gradients, by name; not divided by anything yet. Overwritten.
            learning_rate: Of this step, at least 0.
        """
        self._steps += 1
        for name, parameter in self._parameters.items():
            if self._weight_decay:
                parameter.mul_(1.0 - learning_rate * self._weight_decay)
            self._step(parameter, sums[name], self._memory[name], learning_rate)

    def _sgd(
        self,
        parameter: torch.Tensor,
        total: torch.Tensor,
        _memory: tuple[torch.Tensor, ...],
        rate: float,
    ) -> None:
        parameter.add_(total, alpha=-rate * self._scale)

    def _momentum(
        self,
        parameter: torch.Tensor,
        total: torch.Tensor,
        memory: tuple[torch.Tensor, ...],
        rate: float,
    ) -> None:
        (velocity,) = memory
        velocity.mul_(MOMENTUM).add_(total)
        parameter.add_(velocity, alpha=-rate * self._scale)

    def _adam(
        self,
        parameter: torch.Tensor,
        total: torch.Tensor,
        memory: tuple[torch.Tensor, ...],
        rate: float,
    ) -> None:
        mean, square = memory
        beta, beta_square = ADAM_BETAS
        gradient = total.mul_(self._scale)
        mean.lerp_(gradient, 1.0 - beta)
        square.mul_(beta_square).addcmul_(gradient, gradient, value=1.0 - beta_square)
        # The gradient has done its work: its memory holds the denominator.
        torch.sqrt(square, out=gradient)
        gradient.mul_(1.0 / math.sqrt(1.0 - beta_square**self._steps)).add_(ADAM_EPSILON)
        parameter.addcdiv_(mean, gradient, value=-rate / (1.0 - beta**self._steps))
