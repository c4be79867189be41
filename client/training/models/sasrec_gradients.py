"""Each customer's gradient by the network's weights, from the gradients by the layers' outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from client.training.models.sasrec_network import Tape, Taped
from client.training.models.sequence_kernel import OuterSums, place_sums

#: Float tensors by the names of weights.
Kept = dict[tuple[str, ...], torch.Tensor]


@dataclass(frozen=True, eq=False)
class CustomerGradients:
    """Gradients by weights that are small: at most d × d for each customer.

    Attributes:
        by_weight: By name, or by the names of weights side by side, float tensor (n, …) of their
            shape behind the first axis, or sums of outer products.
        squared_norms: float64[n], of each customer's gradient by all of these weights together.
    """

    by_weight: Mapping[tuple[str, ...], torch.Tensor | OuterSums]
    squared_norms: torch.Tensor

    def add(self, factor: torch.Tensor, into: Mapping[str, torch.Tensor]) -> None:
        """Adds the sum over customers, each times her factor float32[n]."""
        for names, each in self.by_weight.items():
            if isinstance(each, OuterSums):
                summed = each.weighted(factor)
            else:
                summed = torch.mv(each.flatten(1).T, factor.to(each.dtype)).view(each.shape[1:])
            for name, part in zip(names, summed.chunk(len(names), dim=-1), strict=True):
                # Positions behind the longest sequence have no gradient.
                into[name][: len(part)].add_(part)


def network_gradients(
    tape: Tape, by_output: Sequence[torch.Tensor], lengths: torch.Tensor, kept: Kept
) -> CustomerGradients:
    """Each customer's gradient by every weight on a tape.

    With sums over her places t: a product's is Σ inputs_t ⊗ gradient_t, a norm's scale's
    Σ unit_t ⊙ gradient_t, a shift's or bias's Σ gradient_t, and a position's the gradient there.

    Args:
        tape: Of a forward pass.
        by_output: The gradients by the layers' outputs, in the tape's order.
        lengths: int64[n], of the sequences.
        kept: The memory of the sums of earlier customers, which may be used again.
    """
    found: dict[tuple[str, ...], torch.Tensor | OuterSums] = {}
    # One at a time, while what was just computed is in the cache.
    squared = [
        _squared_norms(found, layer, gradient, lengths, kept)
        for layer, gradient in zip(tape.layers, by_output, strict=True)
    ]
    return CustomerGradients(found, torch.stack(squared).sum(0))


def _squared_norms(
    found: dict[tuple[str, ...], torch.Tensor | OuterSums],
    layer: Taped,
    gradient: torch.Tensor,
    lengths: torch.Tensor,
    kept: Kept,
) -> torch.Tensor:
    """Puts a layer's gradients to those found; float64[n], their squared norms."""
    if layer.kind == "linear":
        sums = OuterSums(layer.inputs, gradient, lengths, kept.get(layer.weights))
        found[layer.weights], squared = sums, sums.squared_norms
        kept[layer.weights] = sums.sums.flatten()
    else:
        per_place = layer.kind == "position"
        each = gradient if per_place else place_sums(gradient, lengths, layer.inputs)
        found[layer.weights], squared = each, _squared(each)
    if layer.bias is None:
        return squared
    by_bias = place_sums(gradient, lengths)
    found[layer.bias,] = by_bias
    return squared + _squared(by_bias)


def _squared(each: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(each.flatten(1), dim=1)
    return norms.double().square()
