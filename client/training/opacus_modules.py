"""Models of the family as modules that Opacus trains, with our exact norms of their gradients.

For users of `opacus.PrivacyEngine`. Each model has its parameters in one leaf module, with a grad
sampler for Opacus's hooks and a norm sampler for its ghost clipping: Opacus then sees every use of
a tied table, which it does not where a network uses a layer's weight a second time. Rows are dense,
customers × items, as Opacus's loaders make them; hooks need customers × items × d besides, ghost
clipping does not. `client.training.models` needs neither and is what regions run.

    module, criterion = OpacusTiedAutoencoder(arrays), CustomerLikelihood()
    module, optimizer, criterion, loader = PrivacyEngine().make_private(
        module=module, criterion=criterion, loss_reduction="sum", grad_sample_mode="ghost", ...
    )
    criterion(module(rows), rows).backward()

In ghost clipping norms are rounded up, so that what a customer contributes is at most C. In hooks
mode Opacus takes the norms itself, in float32, and may exceed C by some 1e-7 of it. Its noise and
its normaliser are Opacus's own: see decision 19 for why no region releases them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import register_grad_sampler, register_norm_sampler
from torch import nn

from client.training.models.customer_solver import solve_customers
from client.training.models.sparse_batch import SparseBatch
from common import strategies
from common.errors import InputError
from common.model import PreferenceModel

Arrays = Mapping[str, npt.NDArray[np.generic]]
PerParameter = dict[nn.Parameter, torch.Tensor]

# What float32 arithmetic may get wrong of a sum of squares, relative to its terms' magnitudes.
_ROUNDING = 4e-6


class OpacusTiedAutoencoder(nn.Module):
    """The model of `client.training.models.tied_autoencoder`, as one leaf: rows in, logits out.

    Args:
        arrays: ``item_factors`` [m, d], ``hidden_bias`` [d] and ``item_bias`` [m].
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.item_factors = _parameter(arrays["item_factors"])
        self.hidden_bias = _parameter(arrays["hidden_bias"])
        self.item_bias = _parameter(arrays["item_bias"])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The logits of each customer's row: (n, m) → (n, m)."""
        return torch.addmm(self.item_bias, self.hidden(rows), self.item_factors.T)

    def hidden(self, rows: torch.Tensor) -> torch.Tensor:
        """What each customer's row is encoded as: (n, m) → (n, d)."""
        return torch.tanh(torch.addmm(self.hidden_bias, rows, self.item_factors))


class OpacusMatrixFactorisation(nn.Module):
    """The model of `client.training.models.matrix_factorisation`: confidences in, losses out.

    Customers' vectors are solved for without being differentiated, which changes no gradient
    (envelope theorem); the leaf that Opacus sees gets them as an input.

    Args:
        arrays: ``item_factors`` [m, d].
        unobserved_weight: w₀, above 0.
        regularisation: λ, above 0.

    Raises:
        InputError: A constant is not positive.
    """

    def __init__(self, arrays: Arrays, *, unobserved_weight: float, regularisation: float) -> None:
        super().__init__()
        for name, value in (("unobserved_weight", unobserved_weight), ("λ", regularisation)):
            if not 0 < value < float("inf"):
                raise InputError(f"The {name} of a matrix factorisation is {value}, not above 0.")
        self.loss = FactorLoss(arrays, unobserved_weight, regularisation)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Each customer's loss: confidences (n, m), 0 for what was not bought → (n,)."""
        losses: torch.Tensor = self.loss(rows, self.vectors(rows.detach()))
        return losses

    def vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Each customer's own vector: (n, m) → (n, d).

        Raises:
            InputError: A confidence is negative, or a system cannot be solved.
        """
        if not bool((rows >= 0).all()):
            raise InputError("A customer's row has a confidence that is not above 0.")
        owners, items = rows.nonzero(as_tuple=True)
        sizes = torch.bincount(owners, minlength=len(rows))
        sparse = SparseBatch(
            sizes.cumsum(0) - sizes, owners, items, rows[owners, items].float(), len(rows)
        )
        factors = self.loss.item_factors.detach()
        shared = self.loss.unobserved_weight * (factors.T @ factors).double()
        shared.diagonal().add_(self.loss.regularisation)
        solved = solve_customers(sparse, factors, shared, dtype=torch.float64)
        return solved.vectors.to(factors.dtype)


class FactorLoss(nn.Module):
    """The leaf of `OpacusMatrixFactorisation`: each customer's loss at her vector."""

    def __init__(self, arrays: Arrays, unobserved_weight: float, regularisation: float) -> None:
        super().__init__()
        self.item_factors = _parameter(arrays["item_factors"])
        self.unobserved_weight, self.regularisation = unobserved_weight, regularisation

    def forward(self, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """(n, m) and (n, d) → (n,); 0 for a customer without entries, whose vector is 0."""
        scores = vectors @ self.item_factors.T
        missed = rows * (1.0 - scores).square() + self.unobserved_weight * scores.square()
        return missed.sum(1) + self.regularisation * vectors.square().sum(1)

    def residual(self, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Each customer's r, (n, m): the gradient of her loss by the factors is r uᵀ."""
        scores = vectors @ self.item_factors.detach().T
        return 2.0 * (self.unobserved_weight * scores - rows * (1.0 - scores))


def opacus_module(
    strategy: str, arrays: Arrays, options: Mapping[str, float] | None = None
) -> nn.Module:
    """A strategy's model for Opacus.

    Args:
        strategy: One of `common.strategies`.
        arrays: Its parameters by name; ``directions`` float64[m, d] for ``factors``, whose linear
            layer Opacus's own samplers know.
        options: ``unobserved_weight`` and ``regularisation`` of ``matrix-factorisation``.

    Raises:
        InputError: Opacus's interfaces cannot carry the strategy. SASRec's items are both what goes
            in and what is scored, at every place of a sequence, with its network between: a sampler
            gets a leaf's inputs and the gradient by its output alone, and would have to run the
            network's two passes again; split into leaves, the table is tied in a way that ghost
            clipping does not see.
    """
    if strategy == strategies.FACTORS:
        return PreferenceModel(torch.from_numpy(np.ascontiguousarray(arrays["directions"])))
    if strategy == strategies.TIED_AUTOENCODER:
        return OpacusTiedAutoencoder(arrays)
    if strategy == strategies.MATRIX_FACTORISATION:
        return OpacusMatrixFactorisation(arrays, **(options or {}))
    raise InputError(
        f"The strategy {strategy} cannot be trained by Opacus with an exact bound.",
        remedy="Use client.training.models, which clips it exactly.",
    )


def _parameter(array: npt.NDArray[np.generic]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array, dtype=np.float32, order="C")))


def _finite(values: torch.Tensor) -> torch.Tensor:
    # Opacus would clip by a factor of NaN, and make every parameter NaN.
    if not bool(torch.isfinite(values).all()):
        raise InputError("A customer's gradient is not finite; nothing is released.")
    return values


def _slope(
    module: OpacusTiedAutoencoder, rows: torch.Tensor, by_logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The h and a of `client.training.models.tied_autoencoder`: (n, d) each."""
    hidden = module.hidden(rows)
    return hidden, _finite((by_logits @ module.item_factors) * (1.0 - hidden.square()))


def _autoencoder_gradients(module: Any, inputs: Any, by_logits: torch.Tensor) -> PerParameter:
    (rows,) = inputs
    hidden, slope = _slope(module, rows, by_logits)
    encoding = rows[:, :, None] * slope[:, None, :]
    return {
        module.item_factors: encoding.addcmul_(by_logits[:, :, None], hidden[:, None, :]),
        module.hidden_bias: slope,
        module.item_bias: by_logits,
    }


def _autoencoder_norms(module: Any, inputs: Any, by_logits: torch.Tensor) -> PerParameter:
    (rows,) = inputs
    hidden, slope = _slope(module, rows, by_logits)
    x_x, g_g = _squares(rows), _squares(by_logits)
    a_a, h_h = _squares(slope), _squares(hidden)
    apart = x_x * a_a + g_g * h_h
    crossed = 2.0 * (rows * by_logits).double().sum(1) * (slope * hidden).double().sum(1)
    table = (apart + crossed).clamp_min(0.0) + _ROUNDING * (apart + crossed.abs())
    squared = {
        module.item_factors: table,
        module.hidden_bias: a_a * (1.0 + _ROUNDING),
        module.item_bias: g_g * (1.0 + _ROUNDING),
    }
    return {name: _finite(each.sqrt().to(rows.dtype)) for name, each in squared.items()}


def _factor_gradients(module: Any, inputs: Any, by_loss: torch.Tensor) -> PerParameter:
    rows, vectors = inputs
    residual = _finite(module.residual(rows, vectors) * by_loss[:, None])
    return {module.item_factors: residual[:, :, None] * vectors[:, None, :]}


def _factor_norms(module: Any, inputs: Any, by_loss: torch.Tensor) -> PerParameter:
    rows, vectors = inputs
    squared = _squares(module.residual(rows, vectors)) * _squares(vectors)
    norms = (squared * (1.0 + _ROUNDING)).sqrt() * by_loss.double().abs()
    return {module.item_factors: _finite(norms.to(rows.dtype))}


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """float64[n]: each row's squared norm."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


# Opacus calls these within a backward pass, where nothing is recorded for another one.
register_grad_sampler(OpacusTiedAutoencoder)(_autoencoder_gradients)
register_norm_sampler(OpacusTiedAutoencoder)(_autoencoder_norms)
register_grad_sampler(FactorLoss)(_factor_gradients)
register_norm_sampler(FactorLoss)(_factor_norms)
