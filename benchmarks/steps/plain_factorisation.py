"""The matrix factorisation's steps without privacy: in closed form, and by stock PyTorch.

Both solve for the customers' vectors as ours does, in the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.steps.plain import AutogradStep, Entries, PlainStep, Tensors
from client.data.dataset import CustomerItemMatrix
from client.training.models.customer_solver import Solved, solve_customers
from client.training.models.matrix_factorisation import Precision

UNOBSERVED_WEIGHT, REGULARISATION = 0.05, 0.1


class HandFactorisation(PlainStep):
    """The closed form of `client.training.models.matrix_factorisation` without norms and noise.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`.
        precision: As of `MatrixFactorisation`.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.float32]],
        *,
        chunk: int,
        precision: Precision = "double",
    ) -> None:
        super().__init__(arrays, chunk=chunk)
        self._dtype = torch.float64 if precision == "double" else torch.float32
        self._found = torch.zeros_like(self.parameters["item_factors"])

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        factors = self.parameters["item_factors"]
        gram = (factors.T @ factors).double()
        outer = torch.zeros_like(gram)
        self._found.zero_()
        for chunk in self._chunks(rows):
            entries = Entries(chunk)
            solved = solve(entries, factors, gram, self._dtype)
            vectors = solved.vectors.float()
            outer.addmm_(solved.vectors.double().T, solved.vectors.double())
            missing = vectors.index_select(0, entries.owners).mul_(
                solved.missing.float().mul_(-2.0)[:, None]
            )
            self._found.index_add_(0, entries.items, missing)
        self._found.addmm_(factors, (2.0 * UNOBSERVED_WEIGHT * outer).float())
        return {"item_factors": self._found}


class AutogradFactorisation(AutogradStep):
    """The same loss at the customers' solved vectors, by autograd.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`; each costs a product of items × d × d.
        precision: As of `MatrixFactorisation`.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.float32]],
        *,
        chunk: int,
        precision: Precision = "double",
    ) -> None:
        super().__init__(arrays, chunk=chunk)
        self._dtype = torch.float64 if precision == "double" else torch.float32

    def loss(self, rows: CustomerItemMatrix) -> torch.Tensor:
        """See `AutogradStep`; without the part that does not depend on the factors."""
        factors, entries = self.parameters["item_factors"], Entries(rows)
        gram = factors.T @ factors
        with torch.no_grad():
            solved = solve(entries, factors.detach(), gram.double(), self._dtype)
            vectors = solved.vectors.float()
            outer = vectors.T @ vectors
        taken = torch.nn.functional.embedding(entries.items, factors)
        scores = (taken * vectors[entries.owners]).sum(1)
        bought = (entries.values * (1.0 - scores).square()).sum()
        return bought + UNOBSERVED_WEIGHT * (gram * outer).sum()


def solve(
    entries: Entries, factors: torch.Tensor, gram: torch.Tensor, dtype: torch.dtype
) -> Solved:
    """The customers' vectors, as ours are solved for."""
    shared = UNOBSERVED_WEIGHT * gram
    shared.diagonal().add_(REGULARISATION)
    return solve_customers(entries.sparse(), factors, shared, dtype=dtype)
