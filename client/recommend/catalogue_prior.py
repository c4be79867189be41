"""How popular an item is likely to be, by its noisy popularity and its place in the catalogue.

Most of a catalogue is bought so rarely that the noise on its released popularity is larger than the
popularity itself, and an item that is newer than the model has none at all. The hierarchy, which is
public, says the rest: what is known of an item's type, category and department is known of it.

Formal guarantees: released values, public constants and the public catalogue enter, nothing else.
So it is post-processing, and free of ε.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from common.catalogue import Catalogue
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# The prior's components lie at 0 and at popularities in this ratio, from a quarter of the noise on.
_RATIO = 1.6
_MOST_COMPONENTS = 24
# Without noise the components still need a scale.
_LEAST_SCALE = 1e-3
# As if this many items had been seen at the shares of the level above.
_LEVEL_SMOOTHING = 10.0
# EM needs many rounds from a flat start; further down it starts near where it ends.
_FIRST_ROUNDS, _ROUNDS = 40, 6


def item_paths(catalogue: Catalogue) -> list[IntArray]:
    """Each item's group at every level, coarse to fine: one group nests in one of the level above.

    Returns:
        int64[n_items] for all items together, department, category, type and brand: numbers from 0.
    """
    levels = (catalogue.department, catalogue.category, catalogue.product_type, catalogue.brand)
    path = np.zeros(catalogue.n_items, dtype=np.int64)
    paths = [path]
    for codes in levels:
        _, path = np.unique(path * (int(codes.max()) + 1) + codes, return_inverse=True)
        paths.append(path.astype(np.int64))
    return paths


def expected_popularity(
    catalogue: Catalogue, popularity: npt.NDArray[np.floating], *, noise_stddev: float
) -> FloatArray:
    """What each item's popularity is expected to be, given what was released.

    Empirical Bayes down the catalogue's tree: the popularities of a group are a mixture of fixed
    components, whose shares are fitted by EM (Dempster, Laird and Rubin, 1977) to the group's noisy
    values and smoothed towards the shares of the group above. An item's value is its posterior
    mean. Far above the noise it is the released value; below, mostly its group's mean.

    Args:
        catalogue: The public catalogue: the model's, or one that extends it.
        popularity: float[n_items of the model], as released.
        noise_stddev: Standard deviation of the noise on each value, from the run plan; 0 for none.

    Returns:
        float64[n_items of the catalogue], at least 0. An item beyond the model's gets the mean of
        the finest group with an item of the model.

    Raises:
        InputError: The catalogue has fewer items than the model, or a value is not finite.
    """
    known = len(popularity)
    if not known <= catalogue.n_items:
        raise InputError(
            f"The model is over {known} items, the catalogue has {catalogue.n_items}.",
            remedy="Use the public catalogue that the run plan names, or one that extends it.",
        )
    released = popularity.astype(np.float64)
    # Written so that NaN fails it.
    if not (np.isfinite(released).all() and 0 <= noise_stddev < np.inf):
        raise InputError("The model's popularity has values that are not finite.")
    centres, widths = _components(released, noise_stddev)
    likelihood = _likelihood(released, centres, widths, noise_stddev)
    shares = _shares(item_paths(catalogue), likelihood, known)
    posterior = shares[:known] * likelihood
    posterior /= posterior.sum(axis=1, keepdims=True)
    means = posterior * _means(released, centres, widths, noise_stddev)
    # What is of a component lies around its centre, not at it.
    weight = posterior.sum(axis=0)
    expected = shares @ np.where(weight > 0, means.sum(axis=0) / np.maximum(weight, 1e-300), 0.0)
    expected[:known] = means.sum(axis=1)
    return np.maximum(expected, 0.0)


def _components(released: FloatArray, noise_stddev: float) -> tuple[FloatArray, FloatArray]:
    """Centre and width, float64[components], of each normal that the prior is a mixture of."""
    largest = max(float(released.max()), noise_stddev) or 1.0
    scale = max(noise_stddev, _LEAST_SCALE * largest) / 4
    count = min(_MOST_COMPONENTS, 2 + int(np.log(max(largest / scale, 1.0)) / np.log(_RATIO)))
    ratio = max(_RATIO, (largest / scale) ** (1 / max(1, count - 1)))
    centres = np.concatenate([[0.0], scale * ratio ** np.arange(count)])
    # Neighbours meet at one width of either.
    widths = np.concatenate([[scale / 2], centres[1:] * (ratio - 1) / (ratio + 1)])
    return centres, widths


def _likelihood(
    released: FloatArray, centres: FloatArray, widths: FloatArray, noise_stddev: float
) -> FloatArray:
    """float64[n, components]: how likely each value is under each, the likeliest being 1."""
    variances = noise_stddev**2 + widths**2
    logs = -((released[:, None] - centres) ** 2) / (2 * variances) - np.log(variances) / 2
    likelihood: FloatArray = np.exp(logs - logs.max(axis=1, keepdims=True))
    return likelihood


def _means(
    released: FloatArray, centres: FloatArray, widths: FloatArray, noise_stddev: float
) -> FloatArray:
    """float64[n, components]: an item's expected popularity if it is of a component."""
    weight = widths**2 / (noise_stddev**2 + widths**2)
    means: FloatArray = released[:, None] * weight + centres * (1 - weight)
    return means


def _shares(paths: list[IntArray], likelihood: FloatArray, known: int) -> FloatArray:
    """float64[n_items, components]: the shares of each item's finest group."""
    n_components = likelihood.shape[1]
    above, path_above = np.full((1, n_components), 1.0 / n_components), np.zeros_like(paths[0])
    for level, path in enumerate(paths):
        groups, first = np.unique(path, return_index=True)
        prior = above[path_above[first]]
        own = path[:known]
        members = csr_matrix((np.ones(known), (own, np.arange(known))), (len(groups), known))
        sizes = np.bincount(own, minlength=len(groups))[:, None]
        shares = prior
        for _ in range(_ROUNDS if level else _FIRST_ROUNDS):
            posterior = shares[own] * likelihood
            posterior /= posterior.sum(axis=1, keepdims=True)
            shares = (members @ posterior + _LEVEL_SMOOTHING * prior) / (sizes + _LEVEL_SMOOTHING)
        above, path_above = shares, path
    finest: FloatArray = above[path_above]
    return finest
