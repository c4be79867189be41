"""The network of SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", 2018).

Pre-norm blocks of causal self-attention and a feed-forward layer, without dropout and without
anything that couples customers. Sequences are aligned at their beginning, so that with causal
attention nothing before a customer's last purchase sees the padding behind it: padding changes no
value and gets no gradient, exactly.

The forward pass keeps a `Tape`: of each layer with weights, what went in and what came out. The
gradient by the outputs then gives each customer's gradient by the weights in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from client.training.models.sequence_kernel import causal_attention

Parameters = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Taped:
    """One layer of the forward pass.

    Attributes:
        kind: ``linear``, ``affine`` (a norm's scale and shift) or ``position``.
        weights: The weight's name; of a product with k matrices side by side, their k names.
        bias: The bias's name, or None.
        inputs: Float tensor (n, length, d), what went in; unused for ``position``.
        output: Float tensor (n, length, k · d), part of the graph.
    """

    kind: str
    weights: tuple[str, ...]
    bias: str | None
    inputs: torch.Tensor
    output: torch.Tensor


@dataclass(eq=False)
class Tape:
    """The layers of one forward pass, in order."""

    layers: list[Taped] = field(default_factory=list)

    def linear(
        self, parameters: Parameters, inputs: torch.Tensor, *weights: str, bias: str | None = None
    ) -> torch.Tensor:
        """The inputs times W (+ b), W of shape (d, d); or times several of them, side by side."""
        rows = inputs.flatten(0, 1)
        matrices = [parameters[name] for name in weights]
        weight = matrices[0] if len(matrices) == 1 else torch.cat(matrices, dim=1)
        output = rows @ weight if bias is None else torch.addmm(parameters[bias], rows, weight)
        output = output.view(*inputs.shape[:2], weight.shape[1])
        self.layers.append(Taped("linear", weights, bias, inputs.detach(), output))
        return output

    def norm(self, parameters: Parameters, inputs: torch.Tensor, name: str) -> torch.Tensor:
        """LayerNorm (Ba, Kiros and Hinton, 2016) over the last axis, with scale and shift."""
        unit = functional.layer_norm(inputs, inputs.shape[-1:])
        output = torch.addcmul(parameters[f"{name}_shift"], unit, parameters[f"{name}_scale"])
        taped = Taped("affine", (f"{name}_scale",), f"{name}_shift", unit.detach(), output)
        self.layers.append(taped)
        return output


def forward(
    parameters: Parameters,
    embedded: torch.Tensor,
    lengths: torch.Tensor,
    *,
    blocks: int,
    heads: int,
) -> tuple[torch.Tensor, Tape]:
    """The states after each purchase, and the tape.

    Args:
        parameters: The model's.
        embedded: Float tensor (n, length, d), the items' factors; part of the graph.
        lengths: int64[n], of the sequences.
        blocks: How many blocks.
        heads: How many heads each has; d is a multiple.

    Returns:
        Float tensor (n, length, d), and the layers with weights.
    """
    tape = Tape()
    state = embedded + parameters["position_factors"][: embedded.shape[1]]
    tape.layers.append(Taped("position", ("position_factors",), None, embedded.detach(), state))
    for number in range(blocks):
        name = f"block_{number}"
        seen = tape.norm(parameters, state, f"{name}_attention_norm")
        # One product for all three: then one for each customer's gradient by them, too.
        three = [f"{name}_{part}" for part in ("query", "key", "value")]
        mixed = causal_attention(tape.linear(parameters, seen, *three), lengths, heads)
        state = state + tape.linear(parameters, mixed, f"{name}_output")
        seen = tape.norm(parameters, state, f"{name}_forward_norm")
        inner = functional.gelu(
            tape.linear(parameters, seen, f"{name}_inner", bias=f"{name}_inner_bias")
        )
        state = state + tape.linear(parameters, inner, f"{name}_outer", bias=f"{name}_outer_bias")
    return tape.norm(parameters, state, "final_norm"), tape
