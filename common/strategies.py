"""The strategies of training: what each trains, by name and shape, and from where it starts.

``factors`` is noisy block power iteration, one step a round (`server.aggregation`); ``gram`` is one
noisy sum of how often items are bought together (`server.gram`). Both come to the same kind of
model. The others are trained by DP-SGD steps in the regions, and what leaves is the change of the
parameters.

Everything here is public: no number of anybody's customers enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from common.parameters import ArraySpec

FACTORS: Final = "factors"
GRAM: Final = "gram"
TIED_AUTOENCODER: Final = "tied-autoencoder"
MATRIX_FACTORISATION: Final = "matrix-factorisation"
SASREC: Final = "sasrec"
StrategyName = Literal["factors", "gram", "tied-autoencoder", "matrix-factorisation", "sasrec"]
#: Nothing is trained: each round answers a question (`common.planned_questions`).
QUESTIONS: Final = "questions"
PlannedStrategy = StrategyName | Literal["questions"]
#: What a plan is asked for where the rule is to choose (`common.strategy_rule`); no plan has it.
AUTO: Final = "auto"
StrategyChoice = StrategyName | Literal["auto"]
#: Noisy sums over all customers, once in a round; the others take steps in the regions.
SUMS: Final = (FACTORS, GRAM)

_CHANGE = "change_of_"
Parameters = dict[str, npt.NDArray[np.float32]]


class _Option(NamedTuple):
    """One constant of a strategy: its bounds, and whether it is a whole number."""

    least: Decimal
    most: Decimal
    whole: bool


_OPTIONS: dict[str, dict[str, _Option]] = {
    FACTORS: {},
    GRAM: {},
    TIED_AUTOENCODER: {},
    MATRIX_FACTORISATION: {
        "unobserved_weight": _Option(Decimal("1e-9"), Decimal(1), whole=False),
        "regularisation": _Option(Decimal("1e-9"), Decimal(10**6), whole=False),
    },
    SASREC: {
        "blocks": _Option(Decimal(1), Decimal(12), whole=True),
        "heads": _Option(Decimal(1), Decimal(16), whole=True),
        "max_length": _Option(Decimal(2), Decimal(1000), whole=True),
        "negatives": _Option(Decimal(1), Decimal(100_000), whole=True),
    },
}


def change_of(parameter: str) -> str:
    """The name under which the change of a parameter leaves a region."""
    return _CHANGE + parameter


def require_options(strategy: str, rank: int, options: Mapping[str, str]) -> None:
    """Checks a strategy's own constants.

    Raises:
        ValueError: One is missing, unknown or out of range; names it.
    """
    known = _OPTIONS[strategy]
    if set(options) != set(known):
        wanted = ", ".join(sorted(known)) or "none"
        raise ValueError(f"the options of {strategy} are {wanted}")
    for name, option in known.items():
        value = Decimal(options[name])
        if not option.least <= value <= option.most or (option.whole and value % 1):
            kind = "a whole number" if option.whole else "a number"
            raise ValueError(
                f"the option {name} is not {kind} within {option.least} and {option.most}"
            )
    if strategy == SASREC and rank % int(options["heads"]):
        raise ValueError("the rank is no multiple of the option heads")


class _Parameter(NamedTuple):
    """A trained array: its name, its shape, and the half-width of its uniform start.

    A width of None starts it at zero.
    """

    name: str
    shape: tuple[int, ...]
    width: float | None


def parameter_specs(
    strategy: str, size: int, rank: int, options: Mapping[str, str]
) -> tuple[ArraySpec, ...]:
    """What a strategy trains, by name.

    Args:
        strategy: One of `StrategyName`.
        size: m, the number of items of the vocabulary.
        rank: d.
        options: The strategy's own constants, checked.
    """
    parameters = _parameters(strategy, size, rank, options)
    specs = (ArraySpec(each.name, "<f4", each.shape) for each in parameters)
    return tuple(sorted(specs, key=lambda spec: spec.name))


def initial_parameters(
    strategy: str,
    rank: int,
    options: Mapping[str, str],
    *,
    popularity: npt.NDArray[np.float64],
    seed: int,
) -> Parameters:
    """Where training starts: from a public seed, and from the popularity that was released.

    Args:
        strategy: One that trains in the regions.
        rank: d.
        options: The strategy's own constants, checked.
        popularity: float64[m], the vocabulary's released popularity, above 0.
        seed: Public.
    """
    # Philox is specified, so that the seed gives the same start with every version of NumPy.
    generator = np.random.Generator(np.random.Philox(seed))
    start: Parameters = {}
    for each in _parameters(strategy, len(popularity), rank, options):
        values = np.zeros(each.shape)
        if each.width is not None:
            values = (2.0 * generator.random(each.shape) - 1.0) * each.width
        if each.name.endswith(f"_{_SCALE}"):
            values = np.ones(each.shape)
        if each.name == _WARM:
            values = np.log(popularity / popularity.mean())
        start[each.name] = values.astype(np.float32)
    return start


# The first guess of an item's bias is how popular it is: released, so free of ε.
_WARM = "item_bias"


def _parameters(
    strategy: str, size: int, rank: int, options: Mapping[str, str]
) -> tuple[_Parameter, ...]:
    if strategy == TIED_AUTOENCODER:
        return (
            _Parameter("hidden_bias", (rank,), None),
            _Parameter("item_bias", (size,), None),
            _Parameter("item_factors", (size, rank), 0.3),
        )
    if strategy == SASREC:
        return _sequential(size, rank, options)
    return (_Parameter("item_factors", (size, rank), 0.1),)


def _sequential(size: int, rank: int, options: Mapping[str, str]) -> tuple[_Parameter, ...]:
    square, width = (rank, rank), rank**-0.5
    blocks = [f"block_{number}" for number in range(int(options["blocks"]))]
    norms = [f"{name}_{part}_norm" for name in blocks for part in ("attention", "forward")]
    products = ("query", "key", "value", "output", "inner", "outer")
    return (
        _Parameter("item_factors", (size, rank), 0.1),
        _Parameter("position_factors", (int(options["max_length"]), rank), 0.1),
        *(_Parameter(f"{name}_{part}", square, width) for name in blocks for part in products),
        *(
            _Parameter(f"{name}_{part}_bias", (rank,), None)
            for name in blocks
            for part in ("inner", "outer")
        ),
        *(
            _Parameter(f"{name}_{part}", (rank,), None)
            for name in (*norms, "final_norm")
            for part in (_SCALE, "shift")
        ),
    )


_SCALE = "scale"
