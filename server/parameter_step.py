"""From the regions' releases to the next model; with changes, by the coordinator's optimiser.

All releases were noised in the regions, so everything here is post-processing and costs no ε. Every
region's change counts the same; no number that a region reports weighs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import FormatError, InputError
from common.plan import LocalTraining, RunPlan
from common.strategies import FACTORS, change_of, initial_parameters
from server.aggregation import Model, first_model, next_model

Arrays = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float64]

#: Share of the earlier squares that ``fedadam`` keeps, and what keeps its steps bounded
#: (Reddi et al., "Adaptive Federated Optimization", 2021, section 5 and appendix).
SECOND_MOMENTUM = 0.99
ADAPTIVITY = 1e-3
_FIRST, _SECOND = "first/", "second/"


def model_after(
    server_round: int,
    model: Arrays,
    releases: Sequence[Arrays],
    plan: RunPlan,
    optimizer: Arrays,
) -> tuple[Model, Model]:
    """The model after a round, whatever the plan's strategy, and the optimiser's next state.

    Args:
        server_round: The round, from 1.
        model: The model that it started from.
        releases: What each region released, in one order.
        plan: The run plan.
        optimizer: The optimiser's state before the round.

    Raises:
        InputError: A value is not finite.
        FormatError: The model or the state is malformed.
    """
    name = plan.mechanism_of(server_round).name
    if name not in ("popularity", FACTORS):
        return parameter_step(model, releases, plan, optimizer)
    (released,) = (spec.name for spec in plan.released_arrays(name))
    total = np.zeros(releases[0][released].shape)
    for each in releases:
        total += each[released].astype(np.float64)
    if name == FACTORS:
        return next_model(model, total, plan, n_regions=len(releases)), {}
    first = first_model(total, plan, n_regions=len(releases))
    return (first if plan.strategy == FACTORS else with_initial_parameters(first, plan)), {}


def with_initial_parameters(model: Model, plan: RunPlan) -> Model:
    """The model after the popularity round, with the parameters that training starts from.

    Args:
        model: What `server.aggregation.first_model` gives.
        plan: The plan of a strategy that trains in the regions.
    """
    local = _local(plan)
    popularity = model["popularity"][model["vocabulary"].astype(np.int64)].astype(np.float64)
    # What drowned in noise is not below the noise: first_model weighs items likewise.
    mechanism = plan.mechanism_of(1)
    known = np.maximum(popularity, mechanism.noise_stddev)
    parameters = initial_parameters(
        plan.strategy, plan.rank, local.options, popularity=known, seed=plan.init_seed
    )
    return {**{name: model[name] for name in _SHARED}, **parameters}


_SHARED = ("item_weights", "popularity", "vocabulary")


def parameter_step(
    model: Arrays, changes: Sequence[Arrays], plan: RunPlan, state: Arrays
) -> tuple[Model, Model]:
    """The next model, and the optimiser's next state.

    Args:
        model: The model that the regions started from.
        changes: What each of them released, in one order.
        plan: The run plan.
        state: The optimiser's state after the last round; empty before the first.

    Returns:
        The model with new parameters; the state, float32 arrays by name, empty for ``mean``.

    Raises:
        InputError: A parameter would not be finite any more.
        FormatError: The state is not this plan's.
    """
    local = _local(plan)
    following: Model = dict(model)
    kept: Model = {}
    for spec in plan.parameter_arrays():
        mean = _mean([each[change_of(spec.name)] for each in changes])
        step, moments = _step(spec.name, mean, local, state)
        with np.errstate(over="ignore"):
            moved = (model[spec.name].astype(np.float64) + step).astype(np.float32)
        if not np.isfinite(moved).all():
            raise InputError(
                f"After this round {spec.name} would have values that are not finite.",
                remedy="Begin a new run with a smaller learning rate.",
            )
        following[spec.name] = moved
        kept |= moments
    return following, kept


def _step(
    name: str, mean: FloatArray, local: LocalTraining, state: Arrays
) -> tuple[FloatArray, Model]:
    rate, momentum = float(local.server_learning_rate), float(local.server_momentum)
    if local.server_optimizer == "mean":
        return rate * mean, {}
    first = momentum * _moment(state, _FIRST + name, mean)
    if local.server_optimizer == "fedavgm":
        first = first + mean
        return rate * first, {_FIRST + name: first.astype(np.float32)}
    first = first + (1.0 - momentum) * mean
    second = SECOND_MOMENTUM * _moment(state, _SECOND + name, mean)
    second = second + (1.0 - SECOND_MOMENTUM) * mean**2
    kept: Model = {
        _FIRST + name: first.astype(np.float32),
        _SECOND + name: second.astype(np.float32),
    }
    return rate * first / (np.sqrt(second) + ADAPTIVITY), kept


def _moment(state: Arrays, name: str, like: FloatArray) -> FloatArray:
    if not state:
        return np.zeros_like(like)
    if name not in state or state[name].shape != like.shape:
        raise FormatError(f"The optimiser's state has no {name} of the shape {like.shape}.")
    return state[name].astype(np.float64)


def _mean(changes: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
    total = np.zeros(changes[0].shape)
    for change in changes:
        total += change.astype(np.float64)
    mean: FloatArray = total / len(changes)
    return mean


def _local(plan: RunPlan) -> LocalTraining:
    if plan.local_training is None:
        raise InputError(f"The strategy {plan.strategy} has no local training.")
    return plan.local_training
