"""Matrix factorisation with customer vectors that are solved for, and exact clipping.

A customer with the items I, bought with confidences cᵢ > 0, has the loss (iALS: Hu, Koren and
Volinsky, 2008, in the form of Rendle et al., "Revisiting the Performance of iALS", 2021)

    min over u of  Σ_{i∈I} cᵢ (1 − u·vᵢ)² + w₀ Σ_j (u·v_j)² + λ‖u‖²,

j running over all items. Her u solves (Σ cᵢ vᵢvᵢᵀ + w₀ VᵀV + λI) u = Σ cᵢ vᵢ: it is hers alone and
never leaves. By the envelope theorem the gradient of the minimised loss by V is that at the fixed
u: the rank-one r uᵀ with

    r = 2 w₀ V u − 2 Σ_{i∈I} cᵢ (1 − u·vᵢ) eᵢ.

Its norm is ‖r‖‖u‖ with ‖r‖²/4 = w₀² (uᵀ(VᵀV)u − Σ_I sᵢ²) + Σ_I (w₀ sᵢ − cᵢ (1 − sᵢ))², sᵢ = u·vᵢ:
no vector over all items is needed for it. This holds for any u, so that an approximate solver
costs accuracy of the gradient and never the bound. The dense part of the batch's sum is
2 w₀ V (Σ c u uᵀ), one product of items × d × d for a whole step: `finish` adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.clipping import clip_to
from client.training.models.customer_solver import Solved, solve_customers
from client.training.models.sparse_batch import SparseBatch
from common.errors import InputError

FloatArray = npt.NDArray[np.float32]
Precision = Literal["double", "single"]

# What float32 arithmetic may get wrong of a squared norm, relative to its terms' magnitudes.
_ROUNDING = 3e-6


class MatrixFactorisation:
    """Item factors whose clipped gradient sums need nothing of customers × items.

    Args:
        arrays: ``item_factors`` float32[m, d]; it is copied.
        unobserved_weight: w₀, above 0.
        regularisation: λ, above 0.
        precision: In which customers' vectors are solved for; single is faster, see
            `solve_customers`. The clipping is as exact with either.

    Attributes:
        parameters: ``item_factors``, as a tensor.

    Raises:
        InputError: A constant is not positive.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        *,
        unobserved_weight: float,
        regularisation: float,
        precision: Precision = "double",
    ) -> None:
        for name, value in (("unobserved_weight", unobserved_weight), ("λ", regularisation)):
            if not 0 < value < float("inf"):
                raise InputError(f"The {name} of a matrix factorisation is {value}, not above 0.")
        factors = np.array(arrays["item_factors"], dtype=np.float32, order="C")
        self.parameters = {"item_factors": torch.from_numpy(factors)}
        self._unobserved = unobserved_weight
        self._regularisation = regularisation
        self._dtype = torch.float64 if precision == "double" else torch.float32
        rank = factors.shape[1]
        self._gram = torch.zeros(rank, rank, dtype=torch.float64)
        self._outer = torch.zeros(rank, rank, dtype=torch.float64)

    @property
    def n_items(self) -> int:
        """m, the number of items of the vocabulary."""
        return len(self.parameters["item_factors"])

    def arrays(self) -> dict[str, FloatArray]:
        """The parameters as they are now, copied."""
        return {name: each.numpy().copy() for name, each in self.parameters.items()}

    def prepare(self) -> None:
        """Computes VᵀV, which all customers of a step share; forgets what was not finished."""
        factors = self.parameters["item_factors"]
        self._gram = (factors.T @ factors).double()
        self._outer.zero_()

    def scores(self, rows: CustomerItemMatrix) -> FloatArray:
        """float32[n, m]: V u of each customer; higher is better."""
        self.prepare()
        vectors = self._customers(SparseBatch.of(rows, self.n_items)).vectors
        result: FloatArray = (vectors.float() @ self.parameters["item_factors"].T).numpy()
        return result

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the sparse part of the batch's clipped gradients; `finish` adds the dense one.

        Args:
            batch: Customers' confidences, each above 0.
            clipping_norm: C, above 0.
            into: What is added to.

        Raises:
            InputError: As in `ClippedModel`.
        """
        sparse = SparseBatch.of(batch, self.n_items)
        if not sparse.n_rows:
            return
        solved = self._customers(sparse)
        factor = self._clip_factors(sparse, solved, clipping_norm)
        vectors = solved.vectors.double()
        clipped = vectors * factor.double()[:, None]
        self._outer.addmm_(clipped.T, vectors)
        sparse.add_outer(-2.0 * solved.missing.float(), clipped.float(), into["item_factors"])

    def finish(self, into: Mapping[str, torch.Tensor]) -> None:
        """Adds the dense part of all chunks since `prepare`: 2 w₀ V (Σ c u uᵀ)."""
        dense = (2.0 * self._unobserved * self._outer).float()
        into["item_factors"].addmm_(self.parameters["item_factors"], dense)
        self._outer.zero_()

    def _customers(self, sparse: SparseBatch) -> Solved:
        if len(sparse.values) and float(sparse.values.min()) <= 0:
            raise InputError("A customer's row has a confidence that is not above 0.")
        shared = self._unobserved * self._gram
        shared = shared + self._regularisation * torch.eye(len(shared), dtype=torch.float64)
        solved = solve_customers(sparse, self.parameters["item_factors"], shared, dtype=self._dtype)
        # As a row's values: the sum is finite only if all are.
        if not bool(torch.isfinite(solved.vectors.sum())):
            raise InputError("A customer's vector is not finite; nothing is released.")
        return solved

    def _clip_factors(
        self, sparse: SparseBatch, solved: Solved, clipping_norm: float
    ) -> torch.Tensor:
        """float32[n]: what each customer's gradient is multiplied by; 0 for an empty row."""
        weight, vectors, missing = self._unobserved, solved.vectors.double(), solved.missing
        scores = 1.0 - missing.double() / sparse.values.double()
        everywhere = weight**2 * ((vectors @ self._gram) * vectors).sum(1)
        there = weight**2 * sparse.sums(scores.square())
        own = sparse.sums((weight * scores - missing.double()).square())
        squared = (everywhere - there).clamp_min(0.0) + own
        squared = squared + _ROUNDING * (everywhere.abs() + there + own)
        norms = 2.0 * squared.sqrt() * torch.linalg.vector_norm(vectors, dim=1)
        return clip_to(norms, clipping_norm, present=sparse.sizes > 0)
