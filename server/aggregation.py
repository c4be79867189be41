"""From what the regions' releases come to, to the next model. Everything here is post-processing.

Nothing but released values and public constants enters, so nothing here costs ε.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from common.plan import RunPlan

FloatArray = npt.NDArray[np.float64]
Model = dict[str, npt.NDArray[np.generic]]

# A factor that noise has drowned keeps this little of its norm: its direction is still the best
# guess to start the next round from, and its score counts a millionth.
_LEAST_NORM = 1e-3


def first_model(
    popularity_sum: npt.NDArray[np.floating], plan: RunPlan, *, noise_gain: float | None = None
) -> Model:
    """The model after the popularity round.

    The vocabulary is the plan's number of items with the highest noisy popularity; their weights
    are a power of it, kept above the noise's standard deviation. The first factor is the weighted
    popularity itself; the others come from the plan's public seed.

    Args:
        popularity_sum: float[n_items], what the regions' releases come to.
        plan: The run plan.
        noise_gain: By how much its noise is larger than one region's (`server.round_total`); as of
            the sum of all regions of the plan by default.

    Returns:
        popularity, vocabulary, item_weights, item_factors.

    Raises:
        InputError: A value is not finite, or the shape is not the plan's.
    """
    noise_stddev = noise_stddev_of(plan, "popularity", noise_gain)
    return vocabulary_model(
        checked_sum(popularity_sum, (plan.n_items,), "popularity"),
        vocabulary_size=plan.vocabulary_size,
        rank=plan.rank,
        row_exponent=float(plan.row_exponent),
        least_popularity=noise_stddev,
        init_seed=plan.init_seed,
    )


def vocabulary_model(
    popularity: FloatArray,
    *,
    vocabulary_size: int,
    rank: int,
    row_exponent: float,
    least_popularity: float,
    init_seed: int,
) -> Model:
    """The model that popularity alone determines; see `first_model`.

    Args:
        popularity: float64[n_items].
        vocabulary_size: m; ties go to the smaller item number.
        rank: d.
        row_exponent: Power of the popularity that an item is weighted by.
        least_popularity: What popularity is raised to at least, above 0.
        init_seed: Public seed of the other factors.
    """
    vocabulary = np.argsort(-popularity, kind="stable")[:vocabulary_size].astype(np.int64)
    known = np.maximum(popularity[vocabulary], least_popularity)
    weights = known**row_exponent
    weights /= weights.max()
    # Philox is specified, so that the seed gives the same factors with every version of NumPy.
    generator = np.random.Generator(np.random.Philox(init_seed))
    start = 2.0 * generator.random((vocabulary_size, rank)) - 1.0
    start[:, 0] = known * weights
    return {
        "popularity": popularity.astype(np.float32),
        "vocabulary": vocabulary,
        "item_weights": weights.astype(np.float32),
        "item_factors": _orthonormal(start).astype(np.float32),
    }


def power_step(gradient_sum: FloatArray, *, noise_stddev: float) -> npt.NDArray[np.float32]:
    """Factors from a gradient −(A V + noise), A being the customers' Gram matrix.

    The directions are the left singular vectors of A V: an orthonormal basis of its columns, as QR
    would give, but in order of strength and independent of how V was rotated. The strengths are the
    singular values with what noise adds to them taken off; a factor's norm is the fourth root of
    its relative strength, so that scores y F Fᵀ weigh factors by √strength (measured best).

    Args:
        gradient_sum: float64[m, d].
        noise_stddev: Standard deviation of the noise on each coordinate; 0 for none.

    Returns:
        float32[m, d], orthogonal columns, signs fixed.

    Raises:
        InputError: The gradient is wholly zero.
    """
    basis, singular, _ = np.linalg.svd(-gradient_sum, full_matrices=False)
    if not singular[0] > 0:
        raise InputError("The regions' gradients sum to zero; there is nothing to learn from.")
    return factors_of(basis, shrink(singular, gradient_sum.shape, noise_stddev))


def factors_of(basis: FloatArray, strength: FloatArray) -> npt.NDArray[np.float32]:
    """Factors with the directions of a basis, whose norms say how much each counts.

    Args:
        basis: float64[m, d], orthonormal columns.
        strength: float64[d], at least 0, falling.

    Returns:
        float32[m, d], signs fixed; no column is wholly zero.
    """
    # Without any strength left all factors are noise; none is then better than another.
    relative = strength / strength[0] if strength[0] > 0 else np.ones_like(strength)
    norms = np.maximum(relative**0.25, _LEAST_NORM)
    factors: npt.NDArray[np.float32] = (_fix_signs(basis) * norms).astype(np.float32)
    return factors


def shrink(singular: FloatArray, shape: tuple[int, ...], noise_stddev: float) -> FloatArray:
    """Singular values of a matrix without its noise, by optimal shrinkage in Frobenius norm.

    Source: Gavish and Donoho, "Optimal Shrinkage of Singular Values" (2017), equation 7, for white
    noise of known standard deviation.

    Args:
        singular: float64[d], of an m × d matrix with noise.
        shape: (m, d).
        noise_stddev: Of each coordinate; 0 leaves the values as they are.
    """
    if noise_stddev == 0:
        return singular
    size, rank = max(shape), min(shape)
    beta = rank / size
    scale = math.sqrt(size) * noise_stddev
    value = singular / scale
    inner = np.maximum((value**2 - beta - 1) ** 2 - 4 * beta, 0)
    shrunk: FloatArray = np.where(
        value > 1 + math.sqrt(beta), np.sqrt(inner) / np.maximum(value, 1e-300), 0.0
    )
    return shrunk * scale


def _orthonormal(columns: FloatArray) -> FloatArray:
    basis, triangle = np.linalg.qr(columns)
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    result: FloatArray = basis * signs
    return result


def _fix_signs(basis: FloatArray) -> FloatArray:
    """Makes each column's entry of largest magnitude positive; ties go to the first."""
    largest = np.argmax(np.abs(basis), axis=0)
    signs = np.where(basis[largest, np.arange(basis.shape[1])] < 0, -1.0, 1.0)
    result: FloatArray = basis * signs
    return result


def noise_stddev_of(plan: RunPlan, mechanism_name: str, noise_gain: float | None) -> float:
    """The standard deviation of the noise in each value of a total of a plan's mechanism.

    Args:
        plan: The run plan.
        mechanism_name: A mechanism of one round, or the first of several alike.
        noise_gain: By how much the total's noise is larger than one region's; as of the sum of all
            regions of the plan by default.
    """
    mechanism = next(m for m in plan.mechanisms if m.name == mechanism_name)
    gain = math.sqrt(len(plan.regions)) if noise_gain is None else noise_gain
    return mechanism.noise_stddev * gain


def checked_sum(values: npt.NDArray[np.floating], shape: tuple[int, ...], name: str) -> FloatArray:
    """A total as float64.

    Raises:
        InputError: It has another shape, or values that are not finite.
    """
    if values.shape != shape:
        raise InputError(
            f"The sum of {name} has the shape {values.shape}; the run plan's is {shape}."
        )
    checked: FloatArray = values.astype(np.float64)
    if not np.isfinite(checked).all():
        raise InputError(f"The sum of {name} has values that are not finite.")
    return checked
