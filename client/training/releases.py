"""What one round of a plan's strategy lets out of a region: named arrays on the public grid.

`popularity`, `factors` and `gram` are noisy sums (`client.training.dp_sgd`). The other strategies
take local DP-SGD steps from the model that the coordinator sent, and let out how far these moved
it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.dp_sgd import factor_release, gram_release, popularity_release
from client.training.local_steps import LocalSettings, train_locally
from client.training.noise import NoiseSource
from client.training.strategies import examples, trainable
from common.errors import InputError
from common.model_state import ModelState
from common.parameters import snap_to_grid
from common.plan import Mechanism, RunPlan
from common.strategies import FACTORS, GRAM, change_of

Arrays = Mapping[str, npt.NDArray[np.generic]]
Release = dict[str, npt.NDArray[np.float32]]


def release(
    dataset: PreferenceDataset,
    model: Arrays,
    *,
    plan: RunPlan,
    server_round: int,
    noise: NoiseSource,
) -> Release:
    """One round's update of one region, ready to leave it.

    Args:
        dataset: The customers of the round.
        model: The model that the round starts from; empty in the first.
        plan: The run plan.
        server_round: The round, from 1.
        noise: Where noise and the samples of customers are drawn from.

    Formal guarantees:
        `Mechanism.event` bounds it: `steps` Gaussian mechanisms of the round's σ / C on Poisson
        samples, under add-or-remove of one customer, whatever the data and whatever the model.

    Returns:
        By name the arrays that `RunPlan.released_arrays` states.

    Raises:
        FormatError: The model is malformed.
        InputError: The data set is over another catalogue, or training left finite numbers.
    """
    mechanism = plan.mechanism_of(server_round)
    if mechanism.name == "popularity":
        return {"popularity": popularity_release(dataset, mechanism, noise=noise)}
    if mechanism.name == FACTORS:
        gradient = factor_release(dataset, mechanism, model, noise=noise)
        return {"factor_gradient": gradient}
    if mechanism.name == GRAM:
        return {"item_gram": gram_release(dataset, mechanism, model, noise=noise)}
    return _changes(dataset, ModelState.of_plan(model, plan), plan, server_round, noise)


def _changes(
    dataset: PreferenceDataset,
    state: ModelState,
    plan: RunPlan,
    server_round: int,
    noise: NoiseSource,
) -> Release:
    model = trainable(state, first_step=_first_step(plan, server_round), seed=plan.init_seed)
    mechanism = plan.mechanism_of(server_round)
    settings = local_settings(plan, mechanism, server_round)
    train_locally(model, examples(dataset, state), settings, noise)
    return {
        change_of(name): snap_to_grid(
            parameter.numpy().astype(np.float64) - state.parameters[name], mechanism.grid_exponent
        )
        for name, parameter in sorted(model.parameters.items())
    }


def local_settings(plan: RunPlan, mechanism: Mechanism, server_round: int) -> LocalSettings:
    """How a region trains in a round of a plan.

    Raises:
        InputError: The plan's strategy does not train in the regions.
    """
    local = plan.local_training
    if local is None:
        raise InputError(f"The strategy {plan.strategy} has no local training.")
    return LocalSettings(
        noise_multiplier=float(mechanism.noise_multiplier),
        clipping_norm=float(mechanism.clipping_norm),
        sampling_probability=float(mechanism.sampling_probability),
        steps=mechanism.steps,
        expected_batch_size=float(local.expected_batch_size),
        learning_rate=local.learning_rate_of(server_round),
        optimizer=local.optimizer,
        weight_decay=float(local.weight_decay),
    )


def _first_step(plan: RunPlan, server_round: int) -> int:
    """How many steps each region has taken before this round: public, as the plan is."""
    return sum(
        mechanism.steps
        for mechanism in plan.mechanisms[1:]
        for number in mechanism.rounds
        if number < server_round
    )
