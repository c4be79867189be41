"""The next model of ``factors`` from all of a run's noisy products, not the last one alone.

Each round releases A V + E: the customers' Gram matrix A times the directions V that the round
started from, and noise E. Rounds differ in V, hardly in A. So each tells something of A that the
others' noise has drowned in the last one, and has been paid for already: everything here is
post-processing of released values by public constants, and costs no ε.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.errors import FormatError
from common.model_state import ModelState
from common.plan import RunPlan
from server.aggregation import Model, checked_sum, power_step
from server.round_total import RoundTotal

FloatArray = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.generic]]

#: What is read of a coordinate of A is shrunk as if a tenth of a round had found 0 there. Chosen on
#: public data (docs/decisions/0055-products-read-together.md).
RIDGE = 0.1
# Of factors: popularity's comes before. With so many in all the first is read with the others.
_FIRST_ROUND = 2
_FEW_ROUNDS = 2
_DIRECTIONS, _PRODUCTS = "factor_rounds/directions", "factor_rounds/products"
_WEIGHTS = "factor_rounds/weights"


@dataclass(frozen=True, eq=False)
class Products:
    """What was asked about A, and what was heard, round by round.

    Attributes:
        directions: float64[k, m, d], the orthonormal V of each round.
        products: float64[k, m, d], A V + E per region; E's coordinates are independent.
        weights: float64[k], one over the standard deviation of a coordinate of E.
    """

    directions: FloatArray = field(repr=False)
    products: FloatArray = field(repr=False)
    weights: FloatArray = field(repr=False)

    @classmethod
    def of(cls, state: Arrays, plan: RunPlan) -> Products:
        """Reads what `to_arrays` wrote; nothing was heard before the first round of factors.

        Raises:
            FormatError: It is not this plan's.
        """
        shape = (plan.vocabulary_size, plan.rank)
        if not state:
            return cls(np.zeros((0, *shape)), np.zeros((0, *shape)), np.zeros(0))
        try:
            directions, products, weights = (
                state[name].astype(np.float64) for name in (_DIRECTIONS, _PRODUCTS, _WEIGHTS)
            )
        except KeyError as error:
            raise FormatError(f"The coordinator's state lacks {error.args[0]}.") from error
        rounds = (weights.size, *shape)
        finite = all(np.isfinite(each).all() for each in (directions, products, weights))
        fits = directions.shape == products.shape == rounds and weights.ndim == 1
        if not (fits and finite and (weights > 0).all()):
            raise FormatError("The coordinator's state is not of this plan's factors.")
        return cls(directions, products, weights)

    def to_arrays(self) -> Model:
        """The same as named arrays."""
        return {
            _DIRECTIONS: self.directions,
            _PRODUCTS: self.products,
            _WEIGHTS: self.weights,
        }

    def with_round(self, directions: FloatArray, product: FloatArray, weight: float) -> Products:
        """These and one more round's."""
        return Products(
            np.concatenate([self.directions, directions[None]]),
            np.concatenate([self.products, product[None]]),
            np.append(self.weights, weight),
        )

    def last_product(self) -> FloatArray:
        """float64[m, d]: A V of the last round's V, as all rounds together tell it, per region.

        A is the symmetric matrix that minimises Σₜ ‖A Vₜ − Bₜ‖² wₜ² + ρ‖A‖², the last round's
        weight w being 1 and ρ `RIDGE`. With W the weighted directions side by side and B the
        weighted products likewise, its normal equations are A M + M A = B Wᵀ + W Bᵀ, where
        M = W Wᵀ + ρI (a Lyapunov equation): in M's eigenvectors each coordinate of A stands alone,
        divided by the sum of two eigenvalues. What of A is off W's span plays no part in A V.
        """
        weights = (self.weights / self.weights[-1])[:, None, None]
        wide = np.concatenate([*(self.directions * weights)], axis=1)
        heard = np.concatenate([*(self.products * weights)], axis=1)
        basis, singular, right = np.linalg.svd(wide, full_matrices=False)
        asked = singular**2
        # B Wᵀ Q for the eigenvectors Q that W reaches; what of it lies in their span, and outside.
        told = heard @ (right.T * singular)
        inside = basis.T @ told
        both = (inside + inside.T) / (asked[:, None] + asked[None, :] + 2 * RIDGE)
        outside = (told - basis @ inside) / (asked + 2 * RIDGE)
        fitted: FloatArray = (basis @ both + outside) @ (basis.T @ self.directions[-1])
        return fitted


def _heard_before(server_round: int, plan: RunPlan) -> int:
    """How many rounds of factors are read beside this one."""
    earlier = server_round - _FIRST_ROUND
    return earlier if plan.training_rounds <= _FEW_ROUNDS else max(0, earlier - 1)


def factors_after(
    server_round: int, model: Arrays, total: RoundTotal, plan: RunPlan, state: Arrays
) -> tuple[Model, Model]:
    """The model after one more round of power iteration, and what is kept for the next.

    The first of them asks in directions that chance chose, where clipping hardly bites: A is
    another there. It is forgotten, unless there is but one more round to read beside it.

    Rounds of fewer regions are heard per region: A is taken to be as many times smaller as regions
    are fewer, because the numbers of their customers are not sent.

    Args:
        server_round: The round.
        model: The model that the round started from.
        total: What the regions' releases come to.
        plan: The run plan.
        state: What was kept of the rounds before; empty before the first round of factors.

    Raises:
        InputError: A value is not finite, the shape is not the plan's, or all are zero.
        FormatError: The model or the state is malformed, or the state is not of the rounds before.
    """
    (spec,) = plan.released_arrays(plan.mechanism_of(server_round).name)
    gradient = checked_sum(total.values(spec.name), spec.shape, spec.name)
    directions = ModelState.from_arrays(model).directions
    # Of this round, should a plan's noise follow a schedule.
    noise = plan.mechanism_of(server_round).noise_stddev * total.noise_gain
    stddev = noise / total.n_regions
    before, expected = Products.of(state, plan), _heard_before(server_round, plan)
    if len(before.weights) != expected:
        raise FormatError(
            f"The coordinator's state has {len(before.weights)} rounds of factors before round "
            f"{server_round}, not {expected}.",
            remedy="Go on with the release that the run was begun with, or begin a new run.",
        )
    heard = before.with_round(directions, -gradient / total.n_regions, 1.0 / stddev)
    factors = power_step(-heard.last_product(), noise_stddev=stddev)
    kept = heard.to_arrays() if _heard_before(server_round + 1, plan) else {}
    return {**model, "item_factors": factors}, kept
