"""Losses of one customer each, as criteria that Opacus's ghost clipping can take apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Reduction = Literal["none", "sum"]


class CustomerLikelihood(nn.Module):
    """−Σ tᵢ log softmax(logits)ᵢ of each customer, t being her row scaled to the sum 1.

    Args:
        reduction: A sum over customers; Opacus's ghost clipping sets ``none`` for itself.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(n, m) and (n, m) → the sum, or (n,)."""
        targets = rows / rows.sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        losses = -(targets * torch.log_softmax(logits, 1)).sum(1)
        return losses if self.reduction == "none" else losses.sum()


class SumOfLosses(nn.Module):
    """The losses that a module gave, summed over customers.

    Args:
        reduction: As of `CustomerLikelihood`.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        """(n,) → the sum, or (n,)."""
        return losses if self.reduction == "none" else losses.sum()
