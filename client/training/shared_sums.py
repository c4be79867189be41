"""Sums of whole grid units, and a region's share of the noise in them: for distributed noise.

Each customer's clipped contribution is put on the grid by itself, coordinate by coordinate towards
zero, and whole numbers are added: that is exact, so one customer moves the sum by at most C / γ,
with nothing for rounding (`common.discrete_gaussian.sensitivity_of`). What leaves is that sum plus
one share of noise, which protects nobody by itself: it leaves under two masks only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

from client.data.dataset import PreferenceDataset
from client.training.clipping import factors_of
from client.training.discrete_noise import discrete_gaussian
from client.training.exact_bernoulli import WordSource
from client.training.gram_sums import clipped_pairs, most_customers
from client.training.noise import NoiseSource
from client.training.rows import popularity_values, sparse_factor_rows
from common.discrete_gaussian import SharedNoise
from common.errors import InputError
from common.item_pairs import n_pairs
from common.model_state import ModelState
from common.plan import Mechanism, RunPlan
from common.secure_aggregation import Quantiser
from common.strategies import GRAM

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Noise beyond so many of its deviations comes up less than once in 10^55 draws.
_NOISE_ROOM = 16.0
# So many products are made at a time: their memory does not grow with customers.
_CHUNK_PRODUCTS = 1 << 22
# Contributions are this much shorter than C, so that no rounding in a float makes them longer.
_MARGIN = 1.0 - 2.0**-20


def shared_round(
    dataset: PreferenceDataset,
    model: Mapping[str, npt.NDArray[np.generic]],
    *,
    plan: RunPlan,
    server_round: int,
    noise: NoiseSource,
) -> dict[str, npt.NDArray[np.int32]]:
    """One round's update of one region of a plan with distributed noise, by name.

    Args:
        dataset: The customers of the round.
        model: The model that the round starts from; empty in the first.
        plan: The run plan.
        server_round: The round, from 1.
        noise: Where noise is drawn from; it must give random words.

    Formal guarantees:
        As `shared_release`.

    Raises:
        FormatError: The model is malformed.
        InputError: The data set is over another catalogue, or the source gives no words.
    """
    if not isinstance(noise, WordSource):
        raise InputError("Discrete noise cannot be drawn from this source.")
    mechanism = plan.mechanism_of(server_round)
    if mechanism.name == "popularity":
        units = popularity_units(dataset, mechanism)
    elif mechanism.name == GRAM:
        units = gram_units(dataset, ModelState.from_arrays(model), mechanism)
    else:
        units = factor_units(dataset, ModelState.from_arrays(model), mechanism)
    (spec,) = plan.released_arrays(mechanism.name)
    return {spec.name: shared_release(units, mechanism, plan, noise)}


def shared_release(
    units: IntArray, mechanism: Mechanism, plan: RunPlan, noise: WordSource
) -> npt.NDArray[np.int32]:
    """A sum of whole grid units with one region's share of the noise, as ring elements.

    Args:
        units: What `popularity_units`, `factor_units` or `gram_units` gives.
        mechanism: Of a plan with distributed noise.
        plan: The run plan.
        noise: Where noise is drawn from.

    Formal guarantees:
        Together with the shares of at least `honest_survivors_min` − 1 other honest regions, and
        as long as nothing but the sum of all is seen, the mechanism that `RunPlan.shared_noise`
        accounts for. By itself it promises next to nothing.

    Edge cases:
        A sum beyond what the ring has room for is limited to that before noise, which is a
        contraction. Noise that wraps around in the ring changes nothing that is claimed: what is
        seen is a function of the sum.

    Returns:
        int32, of the units' shape.
    """
    quantiser = Quantiser(mechanism.grid_exponent, len(plan.regions))
    return ring_release(units, plan.shared_noise(mechanism), quantiser, noise)


def ring_release(
    units: IntArray, shared: SharedNoise, quantiser: Quantiser, noise: WordSource
) -> npt.NDArray[np.int32]:
    """A sum of whole grid units with one share of noise, as elements of a quantiser's ring.

    Args:
        units: int64, whole grid units, each customer's bounded by the shared release's sensitivity.
        shared: Whose share is added.
        quantiser: How many regions' sums the ring has room for.
        noise: Where noise is drawn from.

    Formal guarantees:
        As `shared_release`, for the release that `shared` describes.

    Returns:
        int32, of the units' shape.
    """
    room = quantiser.largest_steps
    most = max(0, room - int(np.ceil(_NOISE_ROOM * shared.share.value)))
    noisy = np.clip(units, -most, most) + discrete_gaussian(units.shape, shared.share, noise)
    ring: npt.NDArray[np.int32] = (noisy & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return ring


def popularity_units(dataset: PreferenceDataset, mechanism: Mechanism) -> IntArray:
    """int64[n_items]: the customers' clipped unit rows in grid units, summed; must not leave so.

    Raises:
        InputError: The data set has values that are not finite.
    """
    scale = min(1.0, float(mechanism.clipping_norm)) * _MARGIN
    units = _truncated(popularity_values(dataset) * scale, mechanism.grid_exponent)
    total = np.zeros(dataset.n_items, dtype=np.int64)
    np.add.at(total, dataset.indices, units)
    return total


def factor_units(dataset: PreferenceDataset, model: ModelState, mechanism: Mechanism) -> IntArray:
    """int64[m, d]: the customers' clipped gradients in grid units, summed; must not leave so.

    As `client.training.models.power_factors.clipped_sum`, but for the order: each customer's
    gradient is put on the grid before it is added. It is of rank one and zero where the customer's
    row is, so that this costs as many products as the sum in floats does.

    Raises:
        InputError: The data set is over another catalogue, or has values that are not finite.
    """
    directions = model.directions
    total = np.zeros(directions.shape, dtype=np.int64)
    customers = max(1, _CHUNK_PRODUCTS // max(1, directions.size))
    for rows in sparse_factor_rows(dataset, model, chunk=customers):
        _add_gradients(total, rows, directions, mechanism)
    return total


def gram_units(dataset: PreferenceDataset, model: ModelState, mechanism: Mechanism) -> IntArray:
    """int64[m(m − 1)/2]: the customers' clipped pairs in grid units, summed; must not leave so.

    As `client.training.gram_sums.clipped_gram`, but each customer's products are put on the grid
    before they are added.

    Raises:
        InputError: The data set is over another catalogue, or has values that are not finite.
    """
    size = len(model.vocabulary)
    chunks = sparse_factor_rows(dataset, model, chunk=most_customers(size, _CHUNK_PRODUCTS))
    total = np.zeros(n_pairs(size), dtype=np.int64)
    for places, values in clipped_pairs(chunks, size, clipping_norm=float(mechanism.clipping_norm)):
        np.add.at(total, places, _truncated(values, mechanism.grid_exponent))
    return total


def _add_gradients(
    total: IntArray, rows: csr_matrix, directions: FloatArray, mechanism: Mechanism
) -> None:
    projected = rows @ directions
    squares = np.asarray(rows.multiply(rows).sum(axis=1)).ravel()
    norms = np.sqrt(squares) * np.linalg.norm(projected, axis=1)
    if not np.isfinite(squares).all():
        raise InputError("A customer's row is not finite; nothing is released.")
    factors = factors_of(torch.from_numpy(norms), float(mechanism.clipping_norm)).numpy()
    clipped = projected * factors[:, None]
    owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    gradients = -rows.data[:, None] * clipped[owner]
    np.add.at(total, rows.indices, _truncated(gradients, mechanism.grid_exponent))


def _truncated(values: FloatArray, grid_exponent: int) -> IntArray:
    """Whole grid units, towards zero: no coordinate becomes longer. Scaling by 2^k is exact."""
    return np.trunc(np.ldexp(values, -grid_exponent)).astype(np.int64)
