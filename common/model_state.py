"""The shared model as named arrays: what the coordinator sends, publishes and stores.

Plain NumPy, for all who score with a model or check one; the trainer's form is `common/model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from common.errors import FormatError
from common.parameters import ArraySpec, check_arrays
from common.plan import RunPlan
from common.strategies import FACTORS

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model, checked: finite, positive weights, distinct items of the catalogue.

    Attributes:
        popularity: float32[n_items], the released noisy popularity of every catalogue item.
        vocabulary: int64[m], the item numbers that the factors are over.
        item_weights: float32[m], above 0; a customer's row is weighted by them.
        item_factors: float32[m, d], orthogonal columns. A column's norm says how much a factor
            counts when scoring; training uses its direction alone. The other strategies have the
            item factors of theirs here.
        strategy: How it is scored; see `common.strategies`. A model of ``gram`` is one of
            ``factors``.
        options: The strategy's own constants.
        parameters: All that the strategy trained, by name; empty for ``factors``.
    """

    popularity: npt.NDArray[np.float32] = field(repr=False)
    vocabulary: npt.NDArray[np.int64] = field(repr=False)
    item_weights: npt.NDArray[np.float32] = field(repr=False)
    item_factors: npt.NDArray[np.float32] = field(repr=False)
    strategy: str = FACTORS
    options: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_plan(cls, arrays: Mapping[str, npt.NDArray[np.generic]], plan: RunPlan) -> ModelState:
        """Checks the named arrays of a plan's model and makes a model of them.

        Raises:
            FormatError: As in `from_arrays`; or they are not the plan's arrays.
        """
        check_arrays(arrays, plan.model_arrays(plan.total_rounds + 1), grid=None)
        if plan.local_training is None:
            return cls.from_arrays(arrays)
        shared = ("item_factors", "item_weights", "popularity", "vocabulary")
        state = cls.from_arrays({name: arrays[name] for name in shared})
        return replace(
            state,
            strategy=plan.strategy,
            options=plan.local_training.options,
            parameters={
                spec.name: arrays[spec.name].astype(np.float32) for spec in plan.parameter_arrays()
            },
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ModelState:
        """Checks named arrays and makes a model of them.

        Raises:
            FormatError: Names, types or shapes are wrong, a value is not finite, a weight is not
                positive, an item is repeated or not in the catalogue, or a factor is wholly zero.
        """
        check_arrays(arrays, _specs(arrays), grid=None)
        vocabulary = arrays["vocabulary"].astype(np.int64)
        weights = arrays["item_weights"].astype(np.float32)
        factors = arrays["item_factors"].astype(np.float32)
        n_items = len(arrays["popularity"])
        if len(np.unique(vocabulary)) != len(vocabulary):
            raise FormatError("The model's vocabulary has an item twice.")
        if not (vocabulary.min() >= 0 and vocabulary.max() < n_items):
            raise FormatError("The model's vocabulary has an item outside the catalogue.")
        if not (weights > 0).all():
            raise FormatError("The model's item weights are not all positive.")
        if not factors.any(axis=0).all():
            raise FormatError("The model has a factor that is wholly zero.")
        return cls(arrays["popularity"].astype(np.float32), vocabulary, weights, factors)

    @property
    def n_items(self) -> int:
        """The number of items of the catalogue."""
        return len(self.popularity)

    @property
    def directions(self) -> FloatArray:
        """float64[m, d]: the factors with columns of norm 1, as training uses them."""
        factors = self.item_factors.astype(np.float64)
        unit: FloatArray = factors / np.linalg.norm(factors, axis=0)
        return unit

    def scores(self, rows: FloatArray) -> FloatArray:
        """Shared scores of the vocabulary's items.

        Args:
            rows: float64[n, m], customers' weighted unit rows.

        Returns:
            float64[n, m]: y F Fᵀ for each row y; higher is better.
        """
        factors = self.item_factors.astype(np.float64)
        result: FloatArray = (rows @ factors) @ factors.T
        return result


def _specs(arrays: Mapping[str, npt.NDArray[np.generic]]) -> list[ArraySpec]:
    """What the arrays must be, taking only the sizes from themselves."""
    factors, popularity = arrays.get("item_factors"), arrays.get("popularity")
    if factors is None or popularity is None or factors.ndim != 2 or popularity.ndim != 1:
        raise FormatError("A model has a matrix item_factors and a vector popularity.")
    size, rank = factors.shape
    if not (1 <= rank <= size <= len(popularity)):
        raise FormatError("The model's factors do not fit its vocabulary and catalogue.")
    return [
        ArraySpec("item_factors", "<f4", (size, rank)),
        ArraySpec("item_weights", "<f4", (size,)),
        ArraySpec("popularity", "<f4", (len(popularity),)),
        ArraySpec("vocabulary", "<i8", (size,)),
    ]
