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

from client.recommend.item_tree import ItemTree
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
# So many items at a time: what is made of them stays in the processor's cache.
_BLOCK = 4096


def expected_popularity(
    catalogue: Catalogue,
    popularity: npt.NDArray[np.floating],
    *,
    noise_stddev: float,
    tree: ItemTree | None = None,
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
        tree: The catalogue's, if it is there already; made otherwise.

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
    tree = tree or ItemTree.of(catalogue)
    shares = _shares(tree, likelihood, known)
    posterior = shares[tree.places[:known]] * likelihood
    posterior /= posterior.sum(axis=1, keepdims=True)
    means = _means(released, centres, widths, noise_stddev)
    means *= posterior
    # What is of a component lies around its centre, not at it.
    weight = posterior.sum(axis=0)
    around = np.where(weight > 0, means.sum(axis=0) / np.maximum(weight, 1e-300), 0.0)
    expected = np.concatenate([means.sum(axis=1), (shares @ around)[tree.places[known:]]])
    bounded: FloatArray = np.maximum(expected, 0.0)
    return bounded


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
    logs = released[:, None] - centres
    # In place: such tables are large, and there is one for every model.
    np.square(logs, out=logs)
    logs /= -2.0 * variances
    logs -= np.log(variances) / 2
    logs -= logs.max(axis=1, keepdims=True)
    return np.exp(logs, out=logs)


def _means(
    released: FloatArray, centres: FloatArray, widths: FloatArray, noise_stddev: float
) -> FloatArray:
    """float64[n, components]: an item's expected popularity if it is of a component."""
    weight = widths**2 / (noise_stddev**2 + widths**2)
    means: FloatArray = released[:, None] * weight
    means += centres * (1 - weight)
    return means


def _shares(tree: ItemTree, likelihood: FloatArray, known: int) -> FloatArray:
    """float64[n_groups, components]: the shares of each finest group.

    Args:
        tree: The catalogue's.
        likelihood: float64[known, components], of the items that the model is over.
        known: How many of the catalogue's items these are.
    """
    n_components = likelihood.shape[1]
    # A group's items lie together, so the passes below go straight through memory.
    order = tree.order[tree.order < known]
    likelihood = likelihood[order]
    above = np.full((1, n_components), 1.0 / n_components)
    for level, (path, parents) in enumerate(zip(tree.paths, tree.parents, strict=True)):
        own, prior = path[order], above[parents]
        sizes = np.bincount(own, minlength=len(parents))
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        smoothed = (sizes + _LEVEL_SMOOTHING)[:, None]
        shares = prior
        for _ in range(_ROUNDS if level else _FIRST_ROUNDS):
            # An item's posterior is share × likelihood × weight, so the shares can wait until its
            # group has been added up.
            weights = csr_matrix(
                (_weights(likelihood, shares, own), np.arange(known), bounds),
                (len(parents), known),
            )
            posterior = shares * (weights @ likelihood)
            shares = (posterior + _LEVEL_SMOOTHING * prior) / smoothed
        above = shares
    return above


def _weights(likelihood: FloatArray, shares: FloatArray, own: IntArray) -> FloatArray:
    """float64[n]: what makes each item's products of likelihoods and its group's shares add to 1.

    Args:
        likelihood: float64[n, components].
        shares: float64[n_groups, components].
        own: int64[n], each item's group.
    """
    if len(shares) == 1:
        weights: FloatArray = 1.0 / (likelihood @ shares[0])
        return weights
    sums: FloatArray = np.empty(len(own))
    each = np.empty((_BLOCK, shares.shape[1]))
    for start in range(0, len(own), _BLOCK):
        block = slice(start, start + _BLOCK)
        of_group = each[: len(own[block])]
        # Numbers of groups need no check; with one, the table would be copied once more.
        np.take(shares, own[block], axis=0, out=of_group, mode="clip")
        np.einsum("ic,ic->i", likelihood[block], of_group, out=sums[block])
    np.divide(1.0, sums, out=sums)
    return sums
