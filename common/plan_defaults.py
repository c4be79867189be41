"""Plans with the sizes and noise that follow from public numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context

from common.aggregation_rules import NoiseMode, RuleName
from common.calibration import calibrate_noise_multiplier
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING
from common.errors import FormatError, InputError
from common.plan import RunPlan
from common.privacy import NEIGHBORING_RELATION, PRIVACY_UNIT, GaussianEvent, calibrate_sigma
from common.release_bounds import release_value_bound
from common.secure_aggregation.quantiser import finest_grid
from common.strategies import (
    AUTO,
    FACTORS,
    GRAM,
    SUMS,
    StrategyChoice,
    StrategyName,
    parameter_specs,
)
from common.strategy_rule import choose_strategy
from common.sum_rules import sum_sizes
from common.training_rules import TrainingRule, training_rule

MODEL_NAME = "preference-model"
GRID_EXPONENT = -12
# Changes of parameters are small numbers; their grid is as much finer.
CHANGE_GRID_EXPONENT = -22
POPULARITY_CLIPPING_NORM = "1"
FACTOR_CLIPPING_NORM = "0.2"
# √½: the most that a row of norm 1 contributes to the pairs, so that nobody is clipped.
GRAM_CLIPPING_NORM = "0.7071068"
ROW_EXPONENT = "-0.25"
# Below this a round tells nothing worth a charge; nor below two deviations of the cosine of noise.
_LEAST_SIGNAL = 0.02
_SIGNAL_DEVIATIONS = 2.0
# Noise is calibrated to a hair less than ε, because a ledger reports ε by privacy loss
# distributions, whose discretisation errs upwards, and its cap may be the plan's ε.
_CALIBRATION_MARGIN = 2e-5
# Of shares of noise. Their sampler has room for so many grid units, and truncation is nothing here.
_FINEST_GRID = -20
# A coarser grid itself adds a step to what a value may come to, out of millions.
_RING_MARGIN = 1 + 2**-10


def default_plan(
    *,
    run_id: str,
    federation: str,
    scenario: str,
    regions: Sequence[str],
    quorum: int,
    catalogue: str,
    n_items: int,
    train_from: str,
    train_until: str,
    epsilon: str,
    planned_customers: int,
    strategy: StrategyChoice = FACTORS,
    delta: str = "0.000001",
    purpose: str = FEDERATED_TRAINING,
    model: str = MODEL_NAME,
    init_seed: int = 0,
    round_timeout_s: int = 600,
    mode: NoiseMode = "local",
    rule: RuleName = "sum",
    tolerated: int = 0,
    honest_survivors_min: int = 0,
    server_learning_rate_decay: str = "1",
    patience_rounds: int | None = None,
    rounds: int | None = None,
) -> RunPlan:
    """A plan whose sizes follow from ε, δ, the number of regions and the public planning size.

    For noisy sums the rule is `common.sum_rules.sum_sizes`, by the signal planned_customers /
    (σ·√regions), σ being the run's total noise multiplier: five regions of 2,500 customers in all
    have a signal of 1,712 at ε = 8, of 724 at ε = 3 and of 265 at ε = 1 (δ = 1e-6) with local
    noise. For the strategies that train in the regions it is `common.training_rules.training_rule`.

    Noise is calibrated exactly: 1/σ² = 1/σ_popularity² + T/σ_round², both rounded up; for steps on
    samples of customers by privacy loss distributions.

    Args:
        run_id: The run's name, unique.
        federation: The federation's name.
        scenario: The scenario's name.
        regions: The regions' names.
        quorum: The fewest regions an aggregate may be made of.
        catalogue: Digest of the public catalogue.
        n_items: Its number of items.
        train_from: Begin of the training window.
        train_until: Its end, exclusive.
        epsilon: ε of the run, a decimal string.
        planned_customers: Public planning size, over all regions.
        strategy: How the model is trained; ``auto`` for what `common.strategy_rule` chooses.
        delta: δ, a decimal string.
        purpose: The consent purpose.
        model: The model's name.
        init_seed: Seed of the public initial factors.
        round_timeout_s: How long a round waits, in seconds.
        mode: Whose noise protects.
        rule: By which rule the regions' updates become one.
        tolerated: How many hostile regions a robust rule withstands.
        honest_survivors_min: How many honest regions distributed noise is calibrated to.
        server_learning_rate_decay: What the coordinator's learning rate is multiplied by from round
            to round; for strategies that train in the regions.
        patience_rounds: After how many rounds in a row without a signal such a run ends; None for
            never.
        rounds: How many rounds, the popularity round included; None for as many as the rule says.

    Raises:
        InputError: A value is out of range; names it.
    """
    sigma = calibrated_sigma(epsilon, delta)
    n_regions = max(1, len(regions))
    # What the noise of all regions comes to, in units of what one mechanism's σ says.
    gain = math.sqrt(n_regions / max(1, honest_survivors_min))
    signal = planned_customers / (sigma * gain)
    if strategy == AUTO:
        strategy = choose_strategy(signal=signal, n_items=n_items)
    if strategy in SUMS:
        _require_no_schedule(strategy, server_learning_rate_decay, patience_rounds)
        sized = _sums(strategy, signal, sigma, n_items, rounds, robust=tolerated > 0)
    else:
        training = training_rule(
            strategy,
            planned_customers=planned_customers,
            n_regions=n_regions,
            n_items=n_items,
        )
        if rounds is not None:
            training = training._replace(rounds=rounds - 1)
        in_region = planned_customers / n_regions
        sized = _local_steps(strategy, training, sigma, float(epsilon), float(delta), in_region)
        sized |= _schedule(
            strategy,
            training,
            sized["local_training"],
            server_learning_rate_decay,
            patience_rounds,
        )
    record: dict[str, JsonValue] = {
        "v": "fedpref-plan/1",
        "run_id": run_id,
        "federation": federation,
        "scenario": scenario,
        "model": model,
        "strategy": strategy,
        "mode": mode,
        "aggregation": {
            "rule": rule,
            "tolerated": tolerated,
            "honest_survivors_min": honest_survivors_min,
        },
        "regions": list(regions),
        "quorum": quorum,
        "purpose": purpose,
        "catalogue": catalogue,
        "n_items": n_items,
        "train_from": train_from,
        "train_until": train_until,
        "epsilon": epsilon,
        "delta": delta,
        "neighboring_relation": NEIGHBORING_RELATION,
        "privacy_unit": PRIVACY_UNIT,
        "row_exponent": ROW_EXPONENT,
        "init_seed": init_seed,
        "round_timeout_s": round_timeout_s,
        "planned_customers": planned_customers,
        **sized,
    }
    try:
        if rule == "secure-sum":
            record["mechanisms"] = [*on_ring(record)]
        return RunPlan.from_record(record)
    except FormatError as error:
        raise InputError(error.message, remedy="Correct the value of that field.") from error


def calibrated_sigma(epsilon: str, delta: str) -> float:
    """The noise multiplier of one Gaussian mechanism of a run's ε, less a hair.

    Args:
        epsilon: ε, a decimal string.
        delta: δ, a decimal string.

    Raises:
        InputError: A value is out of range.
    """
    try:
        return calibrate_sigma(float(epsilon) * (1 - _CALIBRATION_MARGIN), float(delta))
    except ValueError as error:
        raise InputError(f"ε = {epsilon!r} or δ = {delta!r} is not a decimal number.") from error


def on_ring(record: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The mechanisms with grids that a secure sum has room for: coarser ones where it must be.

    What a value may come to follows from the planned customers, C, σ and the steps; how many steps
    of a grid that may be, from the number of regions. Which grid it is costs no ε: values are
    rounded after noise. What it costs in noise the plan itself bounds, and refuses where it is too
    much. With distributed noise customers' contributions are truncated to the grid before noise,
    so it is the finest there is room for: truncation takes at most γ·√d of a contribution's C.
    """
    distributed = record["mode"] == "distributed"
    openly: dict[str, JsonValue] = {"rule": "sum", "tolerated": 0, "honest_survivors_min": 0}
    plan = RunPlan.from_record({**record, "mode": "local", "aggregation": openly})
    most = len(plan.regions)
    return [
        {
            **mechanism.model_dump(mode="json", exclude_unset=True),
            "grid_exponent": max(
                _FINEST_GRID if distributed else mechanism.grid_exponent,
                finest_grid(release_value_bound(plan, mechanism) * _RING_MARGIN, most),
            ),
        }
        for mechanism in plan.mechanisms
    ]


def least_signal(n_parameters: int) -> str:
    """The signal below which a default plan takes a round for noise.

    The cosine of two rounds of noise alone has a standard deviation of 1/√n.

    Args:
        n_parameters: n, the number of values that training changes.
    """
    noise = _SIGNAL_DEVIATIONS / math.sqrt(n_parameters)
    return f"{min(max(_LEAST_SIGNAL, noise), 1.0):.3f}"


def _schedule(
    strategy: StrategyName,
    rule: TrainingRule,
    local: JsonValue,
    server_learning_rate_decay: str,
    patience_rounds: int | None,
) -> dict[str, JsonValue]:
    """What a plan of a strategy that trains in the regions says of its rounds as a sequence."""
    stop: JsonValue = None
    if patience_rounds is not None:
        specs = parameter_specs(strategy, rule.vocabulary_size, rule.rank, rule.options)
        n_parameters = sum(math.prod(spec.shape) for spec in specs)
        stop = {"patience_rounds": patience_rounds, "least_signal": least_signal(n_parameters)}
    stated = local if isinstance(local, dict) else {}
    scheduled = {**stated, "server_learning_rate_decay": server_learning_rate_decay}
    return {"local_training": scheduled, "early_stop": stop}


def _require_no_schedule(
    strategy: str, server_learning_rate_decay: str, patience_rounds: int | None
) -> None:
    if patience_rounds is None and server_learning_rate_decay == "1":
        return
    raise InputError(
        f"A run of {strategy} has a few rounds that it needs, each of which begins anew: it does "
        "not end early, and the coordinator has no learning rate.",
        remedy="Choose a strategy that trains in the regions, or leave these options out.",
    )


def _sums(
    strategy: str,
    signal: float,
    sigma: float,
    n_items: int,
    all_rounds: int | None,
    *,
    robust: bool,
) -> dict[str, JsonValue]:
    """What a plan of noisy sums has for a signal; see `default_plan`."""
    sizes = sum_sizes(strategy, signal, robust=robust)
    vocabulary_size = min(sizes.vocabulary_size, n_items)
    share = float(sizes.popularity_share)
    rounds = sizes.training_rounds if all_rounds is None else all_rounds - 1
    clipping_norm = GRAM_CLIPPING_NORM if strategy == GRAM else FACTOR_CLIPPING_NORM
    return {
        "vocabulary_size": vocabulary_size,
        "rank": min(sizes.rank, vocabulary_size),
        "training_rounds": rounds,
        "popularity_share": sizes.popularity_share,
        "mechanisms": [
            mechanism_record(
                "popularity",
                [1],
                sigma / math.sqrt(share),
                POPULARITY_CLIPPING_NORM,
                GRID_EXPONENT,
            ),
            mechanism_record(
                strategy,
                list(range(2, rounds + 2)),
                sigma * math.sqrt(rounds / (1 - share)),
                clipping_norm,
                GRID_EXPONENT,
            ),
        ],
        "local_training": None,
        "early_stop": None,
    }


def _local_steps(
    strategy: str,
    rule: TrainingRule,
    sigma: float,
    epsilon: float,
    delta: float,
    customers_in_region: float,
) -> dict[str, JsonValue]:
    """What a plan of a strategy that trains in the regions has."""
    popularity = mechanism_record(
        "popularity",
        [1],
        sigma / math.sqrt(float(rule.popularity_share)),
        POPULARITY_CLIPPING_NORM,
        GRID_EXPONENT,
    )
    probability = float(rule.sampling_probability)
    noise = calibrate_noise_multiplier(
        epsilon=epsilon * (1 - _CALIBRATION_MARGIN),
        delta=delta,
        sampling_probability=probability,
        steps=rule.rounds * rule.steps,
        others=[GaussianEvent(float(str(popularity["noise_multiplier"])))],
    )
    training = mechanism_record(
        strategy, list(range(2, rule.rounds + 2)), noise, rule.clipping_norm, CHANGE_GRID_EXPONENT
    ) | {
        "steps": rule.steps,
        "sampling_probability": rule.sampling_probability,
    }
    return {
        "vocabulary_size": rule.vocabulary_size,
        "rank": rule.rank,
        "training_rounds": rule.rounds,
        "popularity_share": rule.popularity_share,
        "mechanisms": [popularity, training],
        "local_training": {
            "expected_batch_size": f"{max(1.0, probability * customers_in_region):.1f}",
            "optimizer": "sgd",
            "learning_rate": rule.learning_rate,
            "learning_rate_decay": rule.learning_rate_decay,
            "weight_decay": "0",
            "server_optimizer": "mean",
            "server_learning_rate": "1",
            "server_learning_rate_decay": "1",
            "server_momentum": "0",
            "options": {**rule.options},
        },
        "early_stop": None,
    }


def mechanism_record(
    name: str, rounds: list[JsonValue], sigma: float, clipping_norm: str, grid_exponent: int
) -> dict[str, JsonValue]:
    """A mechanism that takes every customer, once: with no less noise than σ.

    Args:
        name: The mechanism's name.
        rounds: Its rounds.
        sigma: σ / C; kept by seven digits, rounded up.
        clipping_norm: C, as a decimal string.
        grid_exponent: Values are multiples of 2 to this power.
    """
    noise = Context(prec=7, rounding=ROUND_CEILING).create_decimal(repr(sigma))
    return {
        "name": name,
        "rounds": rounds,
        "steps": 1,
        "noise_multiplier": format(noise.normalize(), "f"),
        "clipping_norm": clipping_norm,
        "sampling_probability": "1",
        "grid_exponent": grid_exponent,
    }
