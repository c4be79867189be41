"""The preference model as a torch module: what Opacus differentiates, customer by customer."""

from __future__ import annotations

import torch
from torch import nn


class PreferenceModel(nn.Module):
    """d factors over m items: an ordinary linear layer without bias.

    The loss of one customer with the unit row y is −½‖Vᵀy‖²: how much of the customer's taste the
    factors V (m × d, columns of norm 1) do not miss. Its gradient by V is −y(Vᵀy)ᵀ; the sum over
    customers is −A V with the Gram matrix A = Σ yyᵀ, one step of block power iteration (Golub and
    Van Loan, "Matrix Computations", section 8.2).

    All arithmetic is in float64: the sum over customers then carries no rounding that could exceed
    the clipping's margin.

    Args:
        directions: Float tensor (m, d), columns of norm 1.
    """

    def __init__(self, directions: torch.Tensor) -> None:
        super().__init__()
        size, rank = directions.shape
        self.factors = nn.Linear(size, rank, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.factors.weight.copy_(directions.T)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Vᵀy of each row y: (n, m) → (n, d)."""
        projected: torch.Tensor = self.factors(rows)
        return projected

    @staticmethod
    def loss(projected: torch.Tensor) -> torch.Tensor:
        """The sum over customers of −½‖Vᵀy‖²; a sum, so that no data set's size enters."""
        return -0.5 * projected.square().sum()
