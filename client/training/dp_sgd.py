"""The two mechanisms of a run: per-customer clipping, summing, Gaussian noise, the public grid.

One customer is one example. The released value is a noisy *sum*: no data set's size enters
anywhere, so adding a customer changes the sum by at most C and the noise not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from client.data.dataset import PreferenceDataset
from client.training.clipping import clip_rows
from client.training.noise import NoiseSource
from client.training.rows import factor_rows, popularity_values
from common.errors import InputError
from common.model import PreferenceModel
from common.model_state import ModelState
from common.parameters import snap_to_grid
from common.plan import Mechanism, RunPlan

FloatArray = npt.NDArray[np.float64]
# Public: the released sum is never divided by anything that depends on the data.
PUBLIC_NORMALISER = 1


class NoisySumOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus's optimizer with our strict clipping and our noise source.

    It is used for its noisy gradient, `noisy_sum`; the parameters are the coordinator's to change.

    Args:
        module: The model, wrapped in Opacus's `GradSampleModule`.
        noise_multiplier: σ / C.
        clipping_norm: C.
        noise: Where noise is drawn from.
    """

    def __init__(
        self,
        module: GradSampleModule,
        *,
        noise_multiplier: float,
        clipping_norm: float,
        noise: NoiseSource,
    ) -> None:
        super().__init__(
            torch.optim.SGD(module.parameters(), lr=1.0),
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=PUBLIC_NORMALISER,
            loss_reduction="sum",
        )
        self._noise = noise

    def clip_and_accumulate(self) -> None:
        """Adds each sample's clipped gradient to `summed_grad`; one parameter, as the model has."""
        (parameter,) = self.params
        (per_sample,) = self.grad_samples
        clipped = clip_rows(per_sample, self.max_grad_norm).sum(dim=0)
        if parameter.summed_grad is not None:
            clipped = parameter.summed_grad + clipped
        parameter.summed_grad = clipped
        parameter.grad_sample = None

    def add_noise(self) -> None:
        """Sets `grad` to the clipped sum plus noise of standard deviation σ, in float64."""
        (parameter,) = self.params
        drawn = self._noise.gaussian(
            tuple(parameter.shape), self.noise_multiplier * self.max_grad_norm
        )
        parameter.grad = parameter.summed_grad + torch.from_numpy(drawn)


def popularity_release(
    dataset: PreferenceDataset,
    mechanism: Mechanism,
    *,
    grid_exponent: int,
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
    return snap_to_grid(noisy, grid_exponent)


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
    plan: RunPlan,
    noise: NoiseSource,
) -> npt.NDArray[np.float32]:
    """The noisy gradient of the factors' loss, ready to leave the region.

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
    noisy = noisy_gradient(
        factor_rows(dataset, model),
        model.directions,
        noise_multiplier=float(mechanism.noise_multiplier),
        clipping_norm=float(mechanism.clipping_norm),
        noise=noise,
    )
    return snap_to_grid(noisy, plan.grid_exponent)


def noisy_gradient(
    chunks: Iterable[FloatArray],
    directions: FloatArray,
    *,
    noise_multiplier: float,
    clipping_norm: float,
    noise: NoiseSource,
) -> FloatArray:
    """The customers' gradients, each clipped, summed, plus noise once.

    Args:
        chunks: float64[n, m] each: the customers' rows; memory is bounded by a chunk's size.
        directions: float64[m, d], the model's factors.
        noise_multiplier: σ / C.
        clipping_norm: C.
        noise: Where noise is drawn from.

    Returns:
        float64[m, d].
    """
    module = GradSampleModule(
        PreferenceModel(torch.from_numpy(np.ascontiguousarray(directions))), loss_reduction="sum"
    )
    optimizer = NoisySumOptimizer(
        module, noise_multiplier=noise_multiplier, clipping_norm=clipping_norm, noise=noise
    )
    for rows in chunks:
        if not np.isfinite(rows).all():
            raise InputError("A customer's row is not finite; nothing is released.")
        _accumulate(module, optimizer, torch.from_numpy(rows))
    # A last batch without customers closes the step, so that without data it still is one.
    _accumulate(module, optimizer, torch.zeros((0, len(directions)), dtype=torch.float64))
    optimizer.add_noise()
    (parameter,) = optimizer.params
    gradient: FloatArray = parameter.grad.T.numpy()
    return gradient


def _accumulate(module: GradSampleModule, optimizer: NoisySumOptimizer, rows: torch.Tensor) -> None:
    # Opacus hooks into the backward pass at the module's input, so that must be part of the graph.
    rows.requires_grad_()
    # torch declares no types for backward.
    PreferenceModel.loss(module(rows)).backward()  # type: ignore[no-untyped-call]
    optimizer.clip_and_accumulate()
