"""Refuses modules whose customers Opacus would clip wrongly, before a private step is taken.

Opacus takes a customer's gradient apart layer by layer, and believes three things that it does not
check: that a layer's weight is used nowhere but in that layer, that its own formula for a layer is
the layer's gradient, and that one customer's loss depends on nobody else. Where one of them is not
so, ghost clipping releases more than C of a customer, hooks release something else than a gradient,
and adding a customer moves the others' contributions, which no clipping bounds.

What can be read off a module is read off; the rest is tried on a probe: a few made-up customers,
whose gradients by Opacus must be those of autograd for each of them alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from common.errors import InputError

GradSampleMode = Literal["hooks", "ghost"]
#: The losses of a batch's customers, (n,), by a module that may be wrapped.
Losses = Callable[[nn.Module, torch.Tensor], torch.Tensor]
Gradients = dict[str, torch.Tensor]

_REMEDY = "Use a model of client.training.models, or a leaf module with samplers of its own."
_UNCOUPLE = "Take in-batch negatives and statistics over the batch out of the model."
_PERTURBATION, _PERTURBATION_SEED = 0.3, 1


def require_safe(
    module: nn.Module, losses: Losses, probe: torch.Tensor, *, mode: GradSampleMode = "hooks"
) -> None:
    """Checks that Opacus clips each customer's gradient, all of it, and nobody else's.

    Args:
        module: What is to be wrapped; it is copied and stays as it is.
        losses: Gives each customer's loss, by the module or by a wrapped copy of it.
        probe: Made-up customers (n, …), n at least 2, no two alike: never customers' data.
        mode: Which of Opacus's modes is used afterwards.

    Formal guarantees:
        On the probe, at parameters moved from the module's own so that none is zero, each
        customer's gradient (hooks) or norm (ghost) by each parameter is that of her loss alone to
        1e-3 of it in float32 and 1e-6 in float64. It is a test, not a proof: what couples customers
        or ties weights only on other inputs is not seen.

    Edge cases:
        Layers of dropout are off on the probe. A parameter that no loss depends on is let pass if
        Opacus, too, gives nothing for it.

    Raises:
        InputError: A module or parameter is unsafe; it is named.
    """
    if len(probe) < 2:
        raise InputError("Whether customers are coupled cannot be seen with fewer than two.")
    _require_known_safe(module)
    tried = _perturbed(module)
    alone = [_gradients(tried, losses, probe[i : i + 1])[0] for i in range(len(probe))]
    _require_uncoupled(tried, losses, probe, alone)
    _require_as_by_opacus(tried, losses, probe, alone, mode)


def _require_known_safe(module: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, each in module.named_modules():
        if isinstance(each, _BatchNorm):
            raise _unsafe(name, each, "normalises each customer by the others of the batch")
        if isinstance(each, nn.Embedding | nn.EmbeddingBag) and each.padding_idx is not None:
            raise _unsafe(name, each, "has a padding_idx, whose gradient Opacus counts")
        for own, parameter in each.named_parameters(recurse=False):
            path = f"{name}.{own}".lstrip(".")
            other = seen.setdefault(id(parameter), path)
            if other != path and parameter.requires_grad:
                raise _unsafe(name, each, f"has its {own} in common with {other}")


def _perturbed(module: nn.Module) -> nn.Module:
    """A copy to try, its parameters moved: what is zero would hide what depends on it."""
    tried = copy.deepcopy(module).train()
    for each in tried.modules():
        if isinstance(each, _DropoutNd):
            each.eval()
    generator = torch.Generator().manual_seed(_PERTURBATION_SEED)
    with torch.no_grad():
        for parameter in tried.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(drawn, alpha=_PERTURBATION)
    return tried


def _gradients(module: nn.Module, losses: Losses, batch: torch.Tensor) -> list[Gradients]:
    """Autograd's gradient of each customer's loss in this batch, by parameter."""
    parameters = dict(_trainable(module))
    found = losses(module, batch)
    if found.shape != (len(batch),):
        raise InputError(
            f"A batch of {len(batch)} customers has losses of the shape {tuple(found.shape)}.",
            remedy="Give one loss for each customer.",
        )
    result = []
    for loss in found:
        by_each = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True
        )
        result.append(
            {
                name: torch.zeros_like(parameter) if gradient is None else gradient
                for (name, parameter), gradient in zip(parameters.items(), by_each, strict=True)
            }
        )
    return result


def _require_uncoupled(
    module: nn.Module, losses: Losses, probe: torch.Tensor, alone: list[Gradients]
) -> None:
    """A customer's loss and gradient must be the same with the others and without them."""
    together = _gradients(module, losses, probe)
    for number, (gradient, own) in enumerate(zip(together, alone, strict=True)):
        for name, each in own.items():
            if not _close(gradient[name], each, _norm(own)):
                raise InputError(
                    f"The gradient of customer {number} of the probe by {name} depends on the other"
                    " customers of the batch: no clipping bounds what one of them changes.",
                    remedy=_UNCOUPLE,
                )
    if not probe.is_floating_point():
        return
    leaf = probe.detach().clone().requires_grad_()
    for number, loss in enumerate(losses(module, leaf)):
        (by_input,) = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)
        others = torch.arange(len(probe)) != number
        if by_input is not None and bool(by_input[others].any()):
            raise InputError(
                f"The loss of customer {number} of the probe depends on another customer's input.",
                remedy=_UNCOUPLE,
            )


def _require_as_by_opacus(
    module: nn.Module,
    losses: Losses,
    probe: torch.Tensor,
    alone: list[Gradients],
    mode: GradSampleMode,
) -> None:
    """Opacus's gradients, or their norms, must be those of each customer alone."""
    names = [name for name, _ in _trainable(module)]
    kind = GradSampleModule if mode == "hooks" else GradSampleModuleFastGradientClipping
    try:
        wrapped = kind(copy.deepcopy(module), loss_reduction="sum")
        torch.autograd.backward(losses(wrapped, probe).sum())
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise InputError(f"Opacus cannot take the module apart: {error}", remedy=_REMEDY) from error
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    for name, parameter in zip(names, parameters, strict=True):
        expected = torch.stack([gradient[name] for gradient in alone])
        if mode == "ghost":
            expected = torch.linalg.vector_norm(expected.flatten(1), dim=1)
        found = getattr(parameter, "grad_sample" if mode == "hooks" else "_norm_sample", None)
        if found is None:
            found = torch.zeros_like(expected)
        if isinstance(found, list) or found.shape != expected.shape:
            raise _wrong(name, mode)
        for one, other, gradient in zip(found, expected, alone, strict=True):
            if not _close(one, other, _norm(gradient)):
                raise _wrong(name, mode)


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, each) for name, each in module.named_parameters() if each.requires_grad)


def _close(found: torch.Tensor, expected: torch.Tensor, scale: float) -> bool:
    """Whether two gradients or norms are equal but for rounding; never if one is not finite.

    Args:
        found: By Opacus, or among others.
        expected: Of the customer alone.
        scale: The norm of her gradient by all parameters, for what is left where terms cancel.
    """
    tolerance = 1e-6 if expected.dtype == torch.float64 else 1e-3
    difference = float(torch.linalg.vector_norm((found - expected).double()))
    size = float(torch.linalg.vector_norm(expected.double()))
    return difference <= tolerance * (size + 1e-3 * scale)


def _norm(gradient: Gradients) -> float:
    flat = [each.double().flatten() for each in gradient.values()]
    return float(torch.linalg.vector_norm(torch.cat(flat))) if flat else 0.0


def _unsafe(name: str, module: nn.Module, what: str) -> InputError:
    return InputError(
        f"The module {name or 'itself'} ({type(module).__name__}) {what}.", remedy=_REMEDY
    )


def _wrong(name: str, mode: GradSampleMode) -> InputError:
    what = "gradient" if mode == "hooks" else "norm"
    return InputError(
        f"Opacus's {what} of a customer by {name} is not that of her loss: the parameter is used"
        " outside its layer, or the layer's gradient is inexact.",
        remedy=_REMEDY,
    )
