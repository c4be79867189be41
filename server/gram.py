"""From the noisy sum of pairs bought together to item factors: the strategy ``gram``.

Everything here is post-processing of released values by public constants, so it costs no ε.

What was released is A + E without its diagonal: A = Σ yᵤ yᵤᵀ over customers, E symmetric with
independent Gaussian noise. The diagonal says only that who bought an item bought that item, and
would raise what one customer contributes from √½ to 1, so it is not released; it is completed by
what the leading eigenvectors say of it (Zhang, Cai and Wu, "Heteroskedastic PCA", 2022, algorithm
1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.item_pairs import n_pairs, symmetric
from common.model_state import ModelState
from common.plan import RunPlan
from common.strategies import GRAM
from server.aggregation import Model, checked_sum, factors_of, noise_stddev_of

FloatArray = npt.NDArray[np.float64]

# The diagonal has settled by then: further rounds of completion change scores by less than noise.
_COMPLETIONS = 5


def gram_model(
    model: Mapping[str, npt.NDArray[np.generic]],
    pair_sum: npt.NDArray[np.floating],
    plan: RunPlan,
    *,
    noise_gain: float | None = None,
) -> Model:
    """The model after the one round of ``gram``.

    Args:
        model: The model after the popularity round.
        pair_sum: float64[m(m − 1)/2], what the regions' releases come to.
        plan: The run plan.
        noise_gain: By how much its noise is larger than one region's (`server.round_total`); as of
            the sum of all regions of the plan by default.

    Returns:
        The model with new `item_factors`.

    Raises:
        InputError: A value is not finite, or the shape is not the plan's.
        FormatError: The model is malformed.
    """
    # The first factor after the popularity round is the weighted popularity.
    popular = ModelState.from_arrays(model).directions[:, 0]
    pairs = checked_sum(pair_sum, (n_pairs(plan.vocabulary_size),), "item_gram")
    factors = gram_factors(
        symmetric(pairs, plan.vocabulary_size),
        popular,
        rank=plan.rank,
        noise_stddev=noise_stddev_of(plan, GRAM, noise_gain),
    )
    return {**model, "item_factors": factors}


def gram_factors(
    gram: FloatArray, popular: FloatArray, *, rank: int, noise_stddev: float
) -> npt.NDArray[np.float32]:
    """Factors from a symmetric matrix whose diagonal is missing and whose other values are noisy.

    The directions are the leading eigenvectors of what is left without the noise, the strengths
    their eigenvalues; norms are as in `server.aggregation.power_step`.

    Args:
        gram: float64[m, m], symmetric; its diagonal is not looked at.
        popular: float64[m], a direction of norm 1 that is known beforehand; see `denoised`.
        rank: d.
        noise_stddev: Standard deviation of the noise on each pair; 0 for none.

    Returns:
        float32[m, d], orthogonal columns, signs fixed.
    """
    completed = gram.copy()
    diagonal = np.zeros(len(gram))
    for _ in range(_COMPLETIONS):
        completed[np.diag_indices_from(completed)] = diagonal
        kept = denoised(completed, popular, rank=rank, noise_stddev=noise_stddev)
        basis, strength = _leading(kept, rank)
        strength = np.maximum(strength, 0.0)
        diagonal = (basis**2) @ strength
    return factors_of(basis, strength)


def denoised(
    square: FloatArray, popular: FloatArray, *, rank: int, noise_stddev: float
) -> FloatArray:
    """The symmetric matrix without its noise, where one direction is known to be strong in it.

    Along that direction there is one number, which noise hardly moves; across it a vector, which
    is shrunk as a whole (James and Stein, 1961); off it a matrix, whose eigenvalues are shrunk one
    by one. So where noise drowns everything, what popularity tells is left and no noise.

    Args:
        square: float64[m, m], symmetric.
        popular: float64[m], of norm 1.
        rank: How many eigenvalues are kept off the direction.
        noise_stddev: Standard deviation of the noise on each pair; 0 for none.

    Returns:
        float64[m, m], symmetric; positive along the direction if there is noise.
    """
    size = len(square)
    onto = square @ popular
    along = max(float(popular @ onto), noise_stddev)
    across = onto - float(popular @ onto) * popular
    off = square - np.outer(onto, popular) - np.outer(popular, across)
    energy = float(across @ across)
    if energy > 0:
        across *= max(0.0, 1.0 - noise_stddev**2 * size / energy)
    basis, values = _leading(off, rank)
    strength = shrink_eigenvalues(values, size, noise_stddev)
    mixed = np.outer(across, popular)
    kept: FloatArray = along * np.outer(popular, popular) + mixed + mixed.T
    kept += (basis * strength) @ basis.T
    return kept


def _leading(square: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """float64[m, d] eigenvectors and float64[d] eigenvalues, the largest first."""
    values, vectors = np.linalg.eigh(square)
    order = np.argsort(-values, kind="stable")[:rank]
    return vectors[:, order], values[order]


def shrink_eigenvalues(values: FloatArray, size: int, noise_stddev: float) -> FloatArray:
    """Eigenvalues of a symmetric matrix without its noise, by optimal shrinkage in Frobenius norm.

    An eigenvalue λ above the noise's own spectrum, whose edge is at 2σ√m, becomes √(λ² − 4mσ²);
    what is within it becomes 0 (the spiked Wigner model: Benaych-Georges and Nadakuditi, "The
    eigenvalues and eigenvectors of finite, low rank perturbations of large random matrices", 2011,
    section 3.1; the shrinkage is the spike's size times the squared cosine of its eigenvector).

    Args:
        values: float64[d], of an m × m matrix with noise.
        size: m.
        noise_stddev: Of each coordinate above the diagonal; 0 leaves the positive values as they
            are.
    """
    edge = 2.0 * noise_stddev * math.sqrt(size)
    kept: FloatArray = np.sqrt(np.maximum(np.maximum(values, 0.0) ** 2 - edge**2, 0.0))
    return kept
