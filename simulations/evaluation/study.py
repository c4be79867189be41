"""An evaluation under way: trains, ranks and judges every contender, fold by fold and seed by seed.

Everything here is computed in a simulation, from all regions' records without noise. In a
deployment none of these figures may leave a region unnoised.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from client.training.evaluation import Protocol
from common.ranking import IntArray
from simulations.evaluation.contenders import Contender, Method, Private, Question
from simulations.evaluation.data import EvaluationData
from simulations.evaluation.judge import Judge, Metrics, Quality
from simulations.evaluation.kept import Arrays, MadeAnew, Parts
from simulations.evaluation.protocols import Fold, Split
from simulations.evaluation.segments import Customers, refusing
from simulations.evaluation.tuning import chosen_l2
from simulations.quality import one_thread
from simulations.quality_methods import Population, RegionSplit

# What is done, how many steps are done, how many there are.
Progress = Callable[[str, int, int], None]
EVERYONE, WITH_REFUSALS = "everyone", "with-refusals"
_REFUSAL_SEED = 1


@dataclass(frozen=True)
class Cell:
    """What some qualities are of.

    Attributes:
        setting: Who was in training: ``everyone``, or all ``with-refusals`` but those who refused.
        method: The method's key.
        counted: Which items count.
    """

    setting: str
    method: str
    counted: Protocol


@dataclass(frozen=True, eq=False)
class Measured:
    """What an evaluation found.

    Attributes:
        methods: The methods, in the table's order.
        cells: Each cell's qualities: one for each seed, or one where chance has no part.
        customers: Who was asked.
        refused: The pseudonyms of those who refused, in the setting with refusals.
        judge: Knows who has an answer.
        ease_l2: λ of EASE, in each fold.
    """

    methods: tuple[Method, ...]
    cells: dict[Cell, list[Quality]] = field(repr=False)
    customers: Customers = field(repr=False)
    refused: frozenset[str] = field(repr=False)
    judge: Judge = field(repr=False)
    ease_l2: tuple[float, ...]


def measure(
    data: EvaluationData,
    folds: Sequence[Fold],
    split: Split,
    contenders: Sequence[Contender],
    *,
    seeds: Sequence[int],
    metrics: Metrics,
    rounds: int,
    refusal_share: float,
    progress: Progress = lambda _what, _done, _total: None,
    parts: Parts | None = None,
) -> Measured:
    """Measures every contender with everyone in training, and the private ones with refusals too.

    Args:
        data: The data.
        folds: Its folds, which do not leak.
        split: How they were made.
        contenders: Who is measured, in order.
        seeds: Of the noise.
        metrics: What is measured.
        rounds: The most that a plan has.
        refusal_share: Share of customers who refuse training; 0 leaves that setting out.
        progress: Called as the study goes on.
        parts: Where what was measured before is, and what is measured now is kept; None keeps
            nothing.

    Raises:
        StorageError: A part cannot be kept.
    """
    parts = parts or MadeAnew()
    judge = Judge(folds, split, metrics)
    tuned = _tuned(folds, parts)
    cells: dict[Cell, list[Quality]] = {}
    settings: dict[str, Sequence[Mapping[str, frozenset[str]]]] = {EVERYONE: [{}] * len(folds)}
    if refusal_share > 0:
        settings[WITH_REFUSALS] = [
            refusing(data, fold, refusal_share, _REFUSAL_SEED) for fold in folds
        ]
    work = [
        (setting, contender, seed)
        for setting in settings
        for contender in contenders
        if setting == EVERYONE or isinstance(contender, Private)
        for seed in (seeds if contender.has_chance else seeds[:1])
    ]
    questions = {
        setting: _questions(data, folds, split, metrics, tuned, refused, rounds)
        for setting, refused in settings.items()
    }
    with one_thread():
        for done, (setting, contender, seed) in enumerate(work):
            first = contender.methods[0]
            progress(f"{first.label}, {setting}, seed {seed}", done, len(work))
            name = f"{setting}/{first.key}/{seed}"
            arrays = parts.arrays(name, _measuring(contender, questions[setting], seed, judge))
            found = judge.from_arrays(arrays)
            for method, counted in itertools.product(contender.methods, split.protocols):
                if (method.key, counted) in found:
                    cell = Cell(setting, method.key, counted)
                    cells.setdefault(cell, []).append(found[method.key, counted])
    progress("done", len(work), len(work))
    refused = settings.get(WITH_REFUSALS, [])
    return Measured(
        methods=tuple(method for contender in contenders for method in contender.methods),
        cells=cells,
        customers=Customers.of(folds),
        # With strong generalisation nobody who is asked is in training, whatever she chose.
        refused=frozenset(sid for fold in refused for each in fold.values() for sid in each)
        if split is Split.TEMPORAL
        else frozenset(),
        judge=judge,
        ease_l2=tuple(tuned),
    )


def _questions(
    data: EvaluationData,
    folds: Sequence[Fold],
    split: Split,
    metrics: Metrics,
    tuned: Sequence[float],
    refused: Sequence[Mapping[str, frozenset[str]]],
    rounds: int,
) -> list[Question]:
    """Each fold's question, without those who refused in training."""
    return [
        Question(
            population=_population(fold, out, rounds),
            catalogue=data.catalogue,
            protocols=split.protocols,
            places=metrics.places[-1],
            ease_l2=l2,
            number=number,
        )
        for number, (fold, l2, out) in enumerate(zip(folds, tuned, refused, strict=True))
    ]


def _population(fold: Fold, refused: Mapping[str, frozenset[str]], rounds: int) -> Population:
    """Who is in training, in every round alike; and who is asked, the answers left blank."""
    # Of a split only what is learnt from is taken.
    splits = [RegionSplit(region, train, train) for region, train in fold.train.items()]
    excluded = {region: dict.fromkeys(range(1, rounds + 1), out) for region, out in refused.items()}
    return Population.of(splits, fold.questions, rounds, excluded)


def _tuned(folds: Sequence[Fold], parts: Parts) -> list[float]:
    """λ of EASE, for each fold."""
    found = parts.arrays(
        "ease-l2", lambda: {"l2": np.array([chosen_l2(fold) for fold in folds], dtype=np.float64)}
    )
    return [float(l2) for l2 in found["l2"]]


def _measuring(
    contender: Contender, questions: Sequence[Question], seed: int, judge: Judge
) -> Callable[[], Arrays]:
    """Measures a contender's methods with one seed, when called."""

    def measured() -> Arrays:
        return judge.to_arrays(
            {
                (method, counted): judge.judge(counted, ranked)
                for (method, counted), ranked in _rankings(contender, questions, seed).items()
            }
        )

    return measured


def _rankings(
    contender: Contender, questions: Sequence[Question], seed: int
) -> dict[tuple[str, Protocol], list[IntArray]]:
    """Each method's rankings by which items count: one array for each fold."""
    found: dict[tuple[str, Protocol], list[IntArray]] = {}
    for question in questions:
        for method, counted, ranked in contender.rank(question, seed):
            found.setdefault((method, counted), []).append(ranked)
    return found
