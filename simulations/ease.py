"""EASE, a strong linear model without privacy: what an evaluation is oriented by.

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019), on binary data: with
P = (XᵀX + λI)⁻¹ the items' weights are B = I − P diag(P)⁻¹, and a customer's scores are x B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from client.data.dataset import PreferenceDataset
from client.training.personalisation import bought
from common.errors import InputError
from common.ranking import IntArray, ItemSets, top_k

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]

# Chosen on earlier cuts than the evaluated one (500 to 8,000 were tried; docs/decisions/0002).
EASE_L2 = 1000.0
# So many customers are ranked at a time: bounds memory to this many × items.
_RANKED_CUSTOMERS = 2048


@dataclass(frozen=True, eq=False)
class Ease:
    """A fitted model, kept by customers if they are fewer than items, else by items.

    Attributes:
        items: int64[c], the items it is over.
        rows: Sparse float32[r, c], X, if it is kept by customers; else None.
        solved: float32[r, c], (XXᵀ + λI)⁻¹X; kept by items it is float32[c, c], P.
        diagonal: float64[c], of λP if it is kept by customers, else of P.
    """

    items: IntArray = field(repr=False)
    rows: scipy.sparse.csr_array | None = field(repr=False)
    solved: SingleArray = field(repr=False)
    diagonal: FloatArray = field(repr=False)

    @classmethod
    def fit(cls, train: PreferenceDataset, items: IntArray, *, l2: float = EASE_L2) -> Ease:
        """Learns from customers' purchases.

        With fewer customers than items the inverse is taken over customers (Woodbury): λP = I −
        Xᵀ(XXᵀ + λI)⁻¹X.

        Args:
            train: The customers to learn from.
            items: int64[c], the items it is over.
            l2: λ, above 0.

        Raises:
            InputError: λ is not above 0.
        """
        if not l2 > 0:
            raise InputError(f"EASE needs a λ above 0, not {l2}.")
        rows = binary_rows(train, items)
        # Single precision will do: with these λ the systems are well conditioned.
        if rows.shape[0] <= rows.shape[1]:
            gram = (rows @ rows.T).toarray()
            gram[np.diag_indices_from(gram)] += l2
            solved = scipy.linalg.solve(gram, rows.toarray(), assume_a="pos", overwrite_a=True)
            diagonal = 1.0 - np.asarray(rows.multiply(solved).sum(axis=0)).ravel()
            return cls(items, rows, solved, diagonal.astype(np.float64))
        gram = (rows.T @ rows).toarray()
        gram[np.diag_indices_from(gram)] += l2
        inverse = scipy.linalg.inv(gram, overwrite_a=True)
        return cls(items, None, inverse, np.diagonal(inverse).astype(np.float64))

    def scores(self, histories: scipy.sparse.csr_array) -> FloatArray:
        """Scores of its items for customers.

        Args:
            histories: Sparse float32[n, c], as `binary_rows` has them.

        Returns:
            float64[n, c].
        """
        own = histories.toarray()
        # xP; by customers λxP, whose λ the diagonal has too.
        if self.rows is None:
            product = histories @ self.solved
        else:
            # Nearly all customers have an item in common: as a sparse matrix it would be slow.
            product = own - (histories @ self.rows.T).toarray() @ self.solved
        scores: FloatArray = own.astype(np.float64) - product / self.diagonal
        return scores

    def rank(
        self, histories: PreferenceDataset, k: int, *, excluded: ItemSets | None = None
    ) -> IntArray:
        """The k best of its items for each customer; it ranks no others.

        Args:
            histories: The customers to rank for.
            k: How many places.
            excluded: Items that a customer must not be ranked; none by default.

        Returns:
            int64[n, k].
        """
        return self.rankings(histories, k, [excluded])[0]

    def rankings(
        self, histories: PreferenceDataset, k: int, exclusions: Sequence[ItemSets | None]
    ) -> list[IntArray]:
        """Rankings that differ in what is excluded, by scores that are made once.

        Args:
            histories: The customers to rank for.
            k: How many places.
            exclusions: For each ranking, items that a customer must not be ranked; None for none.

        Returns:
            For each int64[n, k].
        """
        rows = binary_rows(histories, self.items)
        ranked = [[np.zeros((0, k), dtype=np.int64)] for _ in exclusions]
        for start in range(0, histories.n_customers, _RANKED_CUSTOMERS):
            stop = min(start + _RANKED_CUSTOMERS, histories.n_customers)
            scores = self.scores(rows[start:stop])
            for parts, excluded in zip(ranked, exclusions, strict=True):
                allowed = None
                if excluded is not None:
                    allowed = ~excluded.rows(start, stop).table(self.items)
                parts.append(top_k(scores, self.items, k, allowed=allowed))
        return [np.concatenate(parts) for parts in ranked]


def binary_rows(dataset: PreferenceDataset, items: IntArray) -> scipy.sparse.csr_array:
    """Sparse float32[n_customers, c]: whether each customer bought each of some items."""
    column = np.full(dataset.n_items, -1, dtype=np.int64)
    column[items] = np.arange(len(items))
    own = bought(dataset)
    columns = column[own.items]
    known = columns >= 0
    return scipy.sparse.csr_array(
        (np.ones(int(known.sum()), dtype=np.float32), (own.owners[known], columns[known])),
        shape=(dataset.n_customers, len(items)),
    )
