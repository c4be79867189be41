"""Noisy sums over customers: per-customer clipping, summing, Gaussian noise, the public grid.

One customer is one example. The released value is a noisy *sum*: no data set's size enters
anywhere, so adding a customer changes the sum by at most C and the noise not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.gram_sums import clipped_gram
from client.training.models.power_factors import clipped_sum
from client.training.noise import NoiseSource
from client.training.rows import factor_rows, popularity_values, sparse_factor_rows
from common.model_state import ModelState
from common.parameters import snap_to_grid
from common.plan import Mechanism

FloatArray = npt.NDArray[np.float64]
#: How a region computes the factors' gradient: both give the same, to float64's rounding.
Gradients = Literal["closed-form", "opacus-hooks"]


def popularity_release(
    dataset: PreferenceDataset,
    mechanism: Mechanism,
    *,
    noise: NoiseSource,
) -> npt.NDArray[np.float32]:
    """The noisy popularity of every catalogue item, ready to leave the region.

    Formal guarantees:
        One (σ/C)-Gaussian mechanism under add-or-remove of one customer, whatever the data.

    Edge cases:
        No customers: pure noise, which is what the mechanism has to give.

    Returns:
        float32[n_items] on the grid.

    Raises:
        InputError: The data set has values that are not finite.
    """
    total = popularity_sum(dataset, clipping_norm=float(mechanism.clipping_norm))
    noisy = total + noise.gaussian(total.shape, mechanism.noise_stddev)
    return snap_to_grid(noisy, mechanism.grid_exponent)


def popularity_sum(dataset: PreferenceDataset, *, clipping_norm: float) -> FloatArray:
    """The sum of the customers' unit rows, each clipped; without noise, so it must not leave.

    It is the gradient that Opacus gives for a linear layer with the loss −⟨w, x⟩ (a test holds the
    two together), in closed form: its cost grows with purchases, not with customers × catalogue.
    """
    # A unit row is above a smaller C by the same factor for every customer.
    scale = min(1.0, clipping_norm) * (1.0 - 2.0**-20)
    return np.bincount(
        dataset.indices, weights=popularity_values(dataset) * scale, minlength=dataset.n_items
    ).astype(np.float64)


def factor_release(
    dataset: PreferenceDataset,
    mechanism: Mechanism,
    model_state: Mapping[str, npt.NDArray[np.generic]],
    *,
    noise: NoiseSource,
    gradients: Gradients = "closed-form",
) -> npt.NDArray[np.float32]:
    """The noisy gradient of the factors' loss, ready to leave the region.

    Args:
        dataset: The customers of the round.
        mechanism: Its σ / C, its C and its grid.
        model_state: The model that the round starts from.
        noise: Where noise is drawn from.
        gradients: In closed form, or by Opacus's hooks as a reference.

    Formal guarantees:
        One (σ/C)-Gaussian mechanism under add-or-remove of one customer, whatever the data and
        whatever the model: a hostile model cannot raise a customer's contribution above C.

    Edge cases:
        No customers, or none who bought anything of the vocabulary: pure noise.

    Returns:
        float32[m, d] on the grid.

    Raises:
        FormatError: The model is malformed.
        InputError: The data set is over another catalogue or has values that are not finite.
    """
    model = ModelState.from_arrays(model_state)
    total = factor_sum(
        dataset, model, clipping_norm=float(mechanism.clipping_norm), gradients=gradients
    )
    size, rank = total.shape
    noisy = total + noise.gaussian((rank, size), mechanism.noise_stddev).T
    return snap_to_grid(noisy, mechanism.grid_exponent)


def factor_sum(
    dataset: PreferenceDataset,
    model: ModelState,
    *,
    clipping_norm: float,
    gradients: Gradients = "closed-form",
) -> FloatArray:
    """float64[m, d]: the customers' gradients, each clipped; without noise, so it must not leave.

    Raises:
        InputError: As in `factor_release`.
    """
    if gradients == "opacus-hooks":
        # Opacus takes a second to load, and a region's engine does without it.
        from client.training.opacus_reference import clipped_gradient

        return clipped_gradient(
            factor_rows(dataset, model), model.directions, clipping_norm=clipping_norm
        )
    return clipped_sum(
        sparse_factor_rows(dataset, model), model.directions, clipping_norm=clipping_norm
    )


def gram_release(
    dataset: PreferenceDataset,
    mechanism: Mechanism,
    model_state: Mapping[str, npt.NDArray[np.generic]],
    *,
    noise: NoiseSource,
) -> npt.NDArray[np.float32]:
    """How often each pair of items is bought together, noised, ready to leave the region.

    Args:
        dataset: The customers of the round.
        mechanism: Its σ / C, its C and its grid.
        model_state: The model that the round starts from: its vocabulary and weights are used.
        noise: Where noise is drawn from.

    Formal guarantees:
        One (σ/C)-Gaussian mechanism under add-or-remove of one customer, whatever the data and
        whatever the model.

    Edge cases:
        No customers, or none who bought two items of the vocabulary: pure noise.

    Returns:
        float32[m(m − 1)/2] on the grid, in the order of `common.item_pairs`.

    Raises:
        FormatError: The model is malformed.
        InputError: The data set is over another catalogue or has values that are not finite.
    """
    model = ModelState.from_arrays(model_state)
    total = gram_sum(dataset, model, clipping_norm=float(mechanism.clipping_norm))
    noisy = total + noise.gaussian(total.shape, mechanism.noise_stddev)
    return snap_to_grid(noisy, mechanism.grid_exponent)


def gram_sum(dataset: PreferenceDataset, model: ModelState, *, clipping_norm: float) -> FloatArray:
    """float64[m(m − 1)/2]: the customers' pairs, each customer's clipped; it must not leave.

    Raises:
        InputError: As in `gram_release`.
    """
    return clipped_gram(
        sparse_factor_rows(dataset, model), len(model.vocabulary), clipping_norm=clipping_norm
    )
