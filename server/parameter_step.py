"""From the regions' releases to the next model; with changes, by the coordinator's optimiser.

All releases were noised in the regions, so everything here is post-processing and costs no ε. Every
region's change counts the same; no number that a region reports weighs it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.errors import FormatError, InputError
from common.parameters import ArraySpec
from common.plan import LocalTraining, RunPlan
from common.strategies import FACTORS, GRAM, SUMS, change_of, initial_parameters
from server.aggregation import Model, first_model
from server.answers import sums_after
from server.gram import gram_model
from server.power_rounds import factors_after
from server.round_total import RoundTotal

Arrays = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

#: Share of the earlier squares that ``fedadam`` keeps, and what keeps its steps bounded
#: (Reddi et al., "Adaptive Federated Optimization", 2021, section 5 and appendix).
SECOND_MOMENTUM = 0.99
ADAPTIVITY = 1e-3
_FIRST, _SECOND = "first/", "second/"
_KEPT = {"mean": (), "fedavgm": (_FIRST,), "fedadam": (_FIRST, _SECOND)}


def model_after(
    server_round: int,
    model: Arrays,
    total: RoundTotal,
    plan: RunPlan,
    optimizer: Arrays,
) -> tuple[Model, Model]:
    """The model after a round, whatever the plan's strategy, and the optimiser's next state.

    Where questions are asked, the model is the sums of their answers so far. Of ``factors`` the
    state is what earlier rounds released.

    Args:
        server_round: The round, from 1.
        model: The model that it started from.
        total: What the regions' releases come to.
        plan: The run plan.
        optimizer: The optimiser's state before the round; empty before the first.

    Raises:
        InputError: A value is not finite.
        FormatError: The model or the state is malformed.
    """
    if plan.asks:
        return sums_after(model, total, plan, server_round), {}
    name = plan.mechanism_of(server_round).name
    if name not in ("popularity", *SUMS):
        return parameter_step(server_round, model, total, plan, optimizer)
    if name == FACTORS:
        return factors_after(server_round, model, total, plan, optimizer)
    (released,) = (spec.name for spec in plan.released_arrays(name))
    values = total.values(released)
    if name == GRAM:
        return gram_model(model, values, plan, noise_gain=total.noise_gain), {}
    first = first_model(values, plan, noise_gain=total.noise_gain)
    return (first if plan.strategy in SUMS else with_initial_parameters(first, plan)), {}


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
    server_round: int, model: Arrays, total: RoundTotal, plan: RunPlan, state: Arrays
) -> tuple[Model, Model]:
    """The next model, and the optimiser's next state.

    Args:
        server_round: The round, from 2: the learning rate follows the plan's schedule.
        model: The model that the regions started from.
        total: What their changes come to.
        plan: The run plan.
        state: The optimiser's state after the last round; empty before the first.

    Returns:
        The model with new parameters; the state, float32 arrays by name, empty for ``mean``.

    Raises:
        InputError: A parameter would not be finite any more.
        FormatError: The state is not this plan's.
    """
    local = _local(plan)
    rate = local.server_learning_rate_of(server_round)
    following: Model = dict(model)
    kept: Model = {}
    for spec in plan.parameter_arrays():
        moments = _moments(spec, local, state)
        # Every value moves by itself, so pieces will do: they spare arrays of float64.
        flat = model[spec.name].reshape(-1)
        moved = np.empty(flat.shape, np.float32)
        for place, piece in total.chunks(change_of(spec.name)):
            step = rate * _direction(piece / total.n_regions, place, local, moments)
            with np.errstate(over="ignore"):
                moved[place] = flat[place].astype(np.float64) + step
        if not np.isfinite(moved).all():
            raise InputError(
                f"After this round {spec.name} would have values that are not finite.",
                remedy="Begin a new run with a smaller learning rate.",
            )
        following[spec.name] = moved.reshape(spec.shape)
        kept |= {
            prefix + spec.name: moment.reshape(spec.shape) for prefix, moment in moments.items()
        }
    return following, kept


def _direction(
    mean: FloatArray, place: slice, local: LocalTraining, moments: Mapping[str, Float32Array]
) -> FloatArray:
    """Where a piece moves, per learning rate; the moments at its place become the next ones."""
    momentum = float(local.server_momentum)
    if local.server_optimizer == "mean":
        return mean
    first = momentum * moments[_FIRST][place].astype(np.float64)
    first += mean if local.server_optimizer == "fedavgm" else (1.0 - momentum) * mean
    moments[_FIRST][place] = first
    if local.server_optimizer == "fedavgm":
        return first
    second = SECOND_MOMENTUM * moments[_SECOND][place].astype(np.float64)
    second += (1.0 - SECOND_MOMENTUM) * mean**2
    moments[_SECOND][place] = second
    direction: FloatArray = first / (np.sqrt(second) + ADAPTIVITY)
    return direction


def _moments(spec: ArraySpec, local: LocalTraining, state: Arrays) -> dict[str, Float32Array]:
    """What the optimiser keeps of a parameter, by prefix: flat copies; zero before the first."""
    kept: dict[str, Float32Array] = {}
    for prefix in _KEPT[local.server_optimizer]:
        name = prefix + spec.name
        if state and (name not in state or state[name].shape != spec.shape):
            raise FormatError(f"The optimiser's state has no {name} of the shape {spec.shape}.")
        stated = state[name] if state else np.zeros(spec.shape, np.float32)
        kept[prefix] = np.array(stated, dtype=np.float32, order="C").reshape(-1)
    return kept


def _local(plan: RunPlan) -> LocalTraining:
    if plan.local_training is None:
        raise InputError(f"The strategy {plan.strategy} has no local training.")
    return plan.local_training
