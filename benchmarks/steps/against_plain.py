"""Our steps beside the same without privacy: by hand, and by stock PyTorch.

"Hand" is the same closed form, by the same kernels, without norms, clip factors and noise, and
without the checks of the data; "auto" is the same loss by PyTorch's layers and autograd, eager. Of
each there are several ways to write it, and the quickest on this machine is what is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.results import Bar, Figure
from benchmarks.steps import made_up, ours
from benchmarks.steps.alternating import Times, Work, alternate, quickest
from benchmarks.steps.plain_autoencoder import AutogradAutoencoder, HandAutoencoder
from benchmarks.steps.plain_factorisation import (
    REGULARISATION,
    UNOBSERVED_WEIGHT,
    AutogradFactorisation,
    HandFactorisation,
)
from benchmarks.steps.plain_sasrec import AutogradSasRec, HandSasRec, SasRecSizes
from client.data.dataset import CustomerItemMatrix
from client.training.models.matrix_factorisation import MatrixFactorisation
from client.training.models.sasrec import SasRec
from client.training.models.tied_autoencoder import TiedAutoencoder
from common.strategies import SASREC, initial_parameters

SASREC_ITEMS, SASREC_LENGTH, SASREC_BLOCKS, SASREC_HEADS, SASREC_NEGATIVES = 20_000, 50, 2, 1, 100


@dataclass(frozen=True)
class Contest:
    """One of our steps and the ways to write its baselines.

    Attributes:
        customers: How many each step is on.
        ours: Private steps.
        hand: By name.
        auto: By name.
        n_steps: How many steps a call takes.
    """

    customers: int
    ours: Work
    hand: Mapping[str, Work] = field(repr=False)
    auto: Mapping[str, Work] = field(repr=False)
    n_steps: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a contest gave.

    Attributes:
        to_hand: Our processor time over that of the quickest hand-written step.
        to_auto: Over that of the quickest of stock PyTorch.
        hand_to_auto: The quickest hand-written step's over that of stock PyTorch.
        customers_per_s: Ours, one core.
        hand: The name of the quickest.
        auto: The name of the quickest.
        seconds: Medians for one step: ours, hand, auto.
    """

    to_hand: float
    to_auto: float
    hand_to_auto: float
    customers_per_s: float
    hand: str
    auto: str
    seconds: tuple[float, float, float]

    def named(self) -> str:
        """The baselines and what each took."""
        mine, hand, auto = self.seconds
        return (
            f"ours {mine:.3f} s, hand ({self.hand}) {hand:.3f} s, auto ({self.auto}) {auto:.3f} s"
        )


def hold(contest: Contest, *, turns: int, chosen: tuple[str, str] | None = None) -> Outcome:
    """Chooses the baselines and measures all three in turn.

    Args:
        contest: What to compare.
        turns: How often each is measured.
        chosen: The names of both baselines, where the same contest with fewer customers has shown
            which are the quickest: every chunk has as many customers as there.
    """
    hand, auto = chosen or (quickest(contest.hand), quickest(contest.auto))
    things = {"ours": contest.ours, "hand": contest.hand[hand], "auto": contest.auto[auto]}
    times: Times = alternate(things, turns=turns)
    mine, by_hand, by_auto = (times.median_s(name) / contest.n_steps for name in things)
    return Outcome(
        to_hand=times.ratio("ours", "hand"),
        to_auto=times.ratio("ours", "auto"),
        hand_to_auto=times.ratio("hand", "auto"),
        customers_per_s=contest.customers / mine,
        hand=hand,
        auto=auto,
        seconds=(mine, by_hand, by_auto),
    )


def autoencoder(n_items: int, customers: int, *, n_steps: int = 1) -> Contest:
    """The tied autoencoder."""
    arrays = made_up.autoencoder_arrays(n_items)
    rows = made_up.unit_rows(customers, n_items)
    return Contest(
        customers,
        ours.steps(TiedAutoencoder(arrays), rows, n_steps=n_steps),
        {
            f"chunks of {chunk}": HandAutoencoder(arrays, chunk=chunk).steps(rows, n_steps)
            for chunk in (256, 1024)
        },
        {
            f"{likelihood}, chunks of {chunk}": AutogradAutoencoder(
                arrays, chunk=chunk, likelihood=likelihood
            ).steps(rows, n_steps)
            for likelihood in ("log-softmax", "cross-entropy")
            for chunk in (128, 256, 1024)
        },
        n_steps,
    )


def factorisation(n_items: int, customers: int, *, n_steps: int = 1) -> dict[str, Contest]:
    """The matrix factorisation, its customers' vectors solved for in either precision."""
    arrays = made_up.factor_arrays(n_items)
    rows = made_up.by_size(made_up.confidences(customers, n_items))
    return {
        precision: Contest(
            customers,
            ours.steps(
                MatrixFactorisation(
                    arrays,
                    unobserved_weight=UNOBSERVED_WEIGHT,
                    regularisation=REGULARISATION,
                    precision=precision,
                ),
                rows,
                n_steps=n_steps,
            ),
            {
                f"chunks of {chunk}": HandFactorisation(
                    arrays, chunk=chunk, precision=precision
                ).steps(rows, n_steps)
                for chunk in (256, 1024)
            },
            {
                f"chunks of {chunk}": AutogradFactorisation(
                    arrays, chunk=chunk, precision=precision
                ).steps(rows, n_steps)
                for chunk in (4096, 8192)
            },
            n_steps,
        )
        for precision in ("double", "single")
    }


def sasrec(n_items: int, customers: int, *, n_steps: int = 1) -> Contest:
    """SASRec; sequences of up to 51 purchases, 30 on average, the shortest first."""
    options = {
        "blocks": str(SASREC_BLOCKS),
        "heads": str(SASREC_HEADS),
        "max_length": str(SASREC_LENGTH),
        "negatives": str(SASREC_NEGATIVES),
    }
    arrays: Mapping[str, npt.NDArray[np.float32]] = initial_parameters(
        SASREC, made_up.RANK, options, popularity=np.ones(n_items), seed=1
    )
    rows: CustomerItemMatrix = made_up.sequences(customers, n_items, longest=SASREC_LENGTH + 1)
    sizes = SasRecSizes(SASREC_BLOCKS, SASREC_HEADS, SASREC_NEGATIVES)
    model = SasRec(
        arrays, blocks=sizes.blocks, heads=sizes.heads, negatives=sizes.negatives, seed=1
    )
    chunks = (64, 128, 256)
    return Contest(
        customers,
        ours.steps(model, rows, n_steps=n_steps),
        {
            f"chunks of {chunk}": HandSasRec(arrays, sizes, chunk=chunk).steps(rows, n_steps)
            for chunk in chunks
        },
        {
            f"chunks of {chunk}": AutogradSasRec(arrays, sizes, chunk=chunk).steps(rows, n_steps)
            for chunk in chunks
        },
        n_steps,
    )


# The autoencoder's sizes: items, customers, steps of a call, turns, and the bar to hand.
_AUTOENCODER = (
    (20_000, 1_024, 3, 9, 1.10),
    (100_000, 1_024, 2, 5, 1.10),
    (20_000, 10_240, 1, 5, 1.05),
    (100_000, 10_240, 1, 7, 1.05),
)
_MF_ITEMS, _MF_CUSTOMERS, _MF_STEPS, _MF_TURNS = 100_000, 8_192, 3, 9
_SASREC_CUSTOMERS, _SASREC_TURNS = 1_024, 7


def _name(model: str, n_items: int, customers: int, to: str) -> str:
    return f"{model}, {n_items:,} items, {customers:,} customers: ours / {to}"


def _own(model: str) -> str:
    return f"{model}: hand itself / auto"


_AE, _MF, _SR = "tied autoencoder", "matrix factorisation", f"SASRec, d = {made_up.RANK}"
_RATES = {
    "double": Bar(f"{_MF}, solved in double", "customers/s/core", 12_000.0, least=True),
    "single": Bar(f"{_MF}, solved in single", "customers/s/core", 20_000.0, least=True),
}
_SASREC_RATE = Bar(_SR, "customers/s/core", 1_000.0, least=True)

BARS: tuple[Bar, ...] = (
    *(
        bar
        for items, customers, _, _, limit in _AUTOENCODER
        for bar in (
            Bar(_name(_AE, items, customers, "hand"), "×", limit),
            Bar(_name(_AE, items, customers, "auto"), "×", 0.6),
        )
    ),
    Bar(_own(_AE), "×", 1.0),
    Bar(_name(_MF, _MF_ITEMS, _MF_CUSTOMERS, "hand"), "×", 1.10),
    Bar(_own(_MF), "×", 1.0),
    *_RATES.values(),
    Bar(_name(_SR, SASREC_ITEMS, _SASREC_CUSTOMERS, "hand"), "×", 1.25),
    Bar(_own(_SR), "×", 1.0),
    _SASREC_RATE,
)


def measure() -> dict[str, Figure]:
    """Measures these bars, model by model."""
    return _measure_autoencoder() | _measure_factorisation() | _measure_sasrec()


def _measure_autoencoder() -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    worst: list[float] = []
    chosen: dict[int, tuple[str, str]] = {}
    for items, customers, n_steps, turns, _ in _AUTOENCODER:
        contest = autoencoder(items, customers, n_steps=n_steps)
        outcome = hold(contest, turns=turns, chosen=chosen.get(items))
        chosen[items] = outcome.hand, outcome.auto
        found[_name(_AE, items, customers, "hand")] = Figure(outcome.to_hand, outcome.named())
        found[_name(_AE, items, customers, "auto")] = Figure(outcome.to_auto, outcome.named())
        worst.append(outcome.hand_to_auto)
    return found | {_own(_AE): Figure(max(worst), "the largest of the sizes above")}


def _measure_factorisation() -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for precision, contest in factorisation(_MF_ITEMS, _MF_CUSTOMERS, n_steps=_MF_STEPS).items():
        outcome = hold(contest, turns=_MF_TURNS)
        found[_RATES[precision].name] = Figure(outcome.customers_per_s, outcome.named())
        if precision == "double":
            name = _name(_MF, _MF_ITEMS, _MF_CUSTOMERS, "hand")
            found[name] = Figure(outcome.to_hand, outcome.named())
            found[_own(_MF)] = Figure(outcome.hand_to_auto)
    return found


def _measure_sasrec() -> dict[str, Figure]:
    outcome = hold(sasrec(SASREC_ITEMS, _SASREC_CUSTOMERS), turns=_SASREC_TURNS)
    name = _name(_SR, SASREC_ITEMS, _SASREC_CUSTOMERS, "hand")
    return {
        name: Figure(outcome.to_hand, outcome.named()),
        _own(_SR): Figure(outcome.hand_to_auto),
        _SASREC_RATE.name: Figure(outcome.customers_per_s, "2 blocks, 100 negatives"),
    }
