"""Each customer's gradient by the network's weights, from the gradients by the layers' outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from client.training.models.sasrec_network import Tape, Taped


@dataclass(frozen=True, eq=False)
class CustomerGradients:
    """Gradients by weights that are small: at most d × d for each customer.

    Attributes:
        by_weight: By name, float tensor (n, …) of a weight's shape behind the first axis.
        squared_norms: float64[n], of each customer's gradient by all of these weights together.
    """

    by_weight: Mapping[str, torch.Tensor]
    squared_norms: torch.Tensor

    def add(self, factor: torch.Tensor, into: Mapping[str, torch.Tensor]) -> None:
        """Adds the sum over customers, each times her factor float32[n]."""
        for name, each in self.by_weight.items():
            target = into[name].view(-1)
            flat = each.flatten(1)
            # Positions behind the longest sequence have no gradient.
            target[: flat.shape[1]].add_(torch.mv(flat.T, factor.to(flat.dtype)))


def network_gradients(tape: Tape, by_output: Sequence[torch.Tensor]) -> CustomerGradients:
    """Each customer's gradient by every weight on a tape.

    With sums over her places t: a product's is Σ inputs_t ⊗ gradient_t, a norm's scale's
    Σ unit_t ⊙ gradient_t, a shift's or bias's Σ gradient_t, and a position's the gradient there.

    Args:
        tape: Of a forward pass.
        by_output: The gradients by the layers' outputs, in the tape's order.
    """
    found: dict[str, torch.Tensor] = {}
    # One at a time, while what was just computed is in the cache.
    squared = [
        _squared_norms(found, layer, gradient)
        for layer, gradient in zip(tape.layers, by_output, strict=True)
    ]
    return CustomerGradients(found, torch.stack(squared).sum(0))


def _squared_norms(
    found: dict[str, torch.Tensor], layer: Taped, gradient: torch.Tensor
) -> torch.Tensor:
    """Puts a layer's gradients to those found; float64[n], their squared norms."""
    if layer.kind == "position":
        found[layer.weight] = gradient
    elif layer.kind == "linear":
        found[layer.weight] = torch.bmm(layer.inputs.transpose(1, 2), gradient)
    else:
        found[layer.weight] = (layer.inputs * gradient).sum(1)
    squared = _squared(found[layer.weight])
    if layer.bias is None:
        return squared
    found[layer.bias] = gradient.sum(1)
    return squared + _squared(found[layer.bias])


def _squared(each: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(each.flatten(1), dim=1)
    return norms.double().square()
