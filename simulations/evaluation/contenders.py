"""Who is measured: this system's models with their noise, and what they are held against.

A contender sees a question, never its answers. All figures of a contender are of the same split,
the same candidates (the whole catalogue) and the same customers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from client.training.evaluation import Protocol as Counted
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.plan import RunPlan
from common.ranking import IntArray
from simulations import baselines
from simulations.ease import EASE_L2
from simulations.evaluation.plans import Setting
from simulations.quality_methods import SERVED_VARIANTS, Population, Variants, train_private
from simulations.quality_ranker import Ranker

FloatArray = npt.NDArray[np.float64]
Kind = Literal["private", "ablation", "reference", "no-privacy", "library"]

POPULARITY, RECENCY, EASE = "popularity", "own-recent", "ease"
#: EASE is over so many items, those that most customers bought in training.
EASE_ITEMS = 5000
_EVERYTHING = "catalogue"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        key: Its name in files.
        label: For people.
        kind: ``private`` (this system), ``ablation`` (it without its factors), ``reference``,
            ``no-privacy`` (what privacy costs) or ``library`` (a kept library's).
        strategy: How it is trained, if it is private.
        mode: Whose noise protects: ``local``, ``distributed``, or ``alone`` for one region alone.
        epsilon: ε, if it is private.
    """

    key: str
    label: str
    kind: Kind
    strategy: str | None = None
    mode: str | None = None
    epsilon: str | None = None


@dataclass(frozen=True, eq=False)
class Question:
    """What a contender is given.

    Attributes:
        population: Who is in training; and who is asked, with their histories and blank answers.
        catalogue: The public catalogue.
        protocols: Which rankings are wanted.
        places: How many items are ranked.
        ease_l2: λ of EASE, chosen on what is learnt from.
        number: The fold's number.
    """

    population: Population = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    protocols: tuple[Counted, ...]
    places: int
    ease_l2: float = EASE_L2
    number: int = 0

    def ranker(self, plan: RunPlan) -> Ranker:
        """Rankings over the whole catalogue, as the recommender makes them."""
        universes = {_EVERYTHING: None}
        return Ranker(self.population, self.catalogue, plan, universes, self.places)

    @property
    def served(self) -> Variants:
        """What a customer would be served."""
        return [each for each in SERVED_VARIANTS if each[1] in self.protocols]

    @cached_property
    def popularity(self) -> FloatArray:
        """float64[n_items]: how many customers in training bought each item."""
        return baselines.popularity(self.population.pooled)


#: A method's key, which items count, and int64[customers, places], region after region.
Ranking = tuple[str, Counted, IntArray]


class Contender(Protocol):
    """Ranks for everybody who is asked."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """What it is called, and what its figures are of."""
        ...

    @property
    def has_chance(self) -> bool:
        """Whether chance has a part in it, so that it is measured once for each seed."""
        ...

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """Each method's rankings, of the protocols it has any for."""
        ...


class Popular:
    """The items that most customers bought, of all regions; the same for everybody."""

    has_chance = False
    methods = (Method(POPULARITY, "Popularity, all regions", "reference"),)

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By the number of customers."""
        del seed
        scores = dict.fromkeys(question.population.regions, question.popularity)
        for counted, _, ranked in question.ranker(self._plan).by_popularity(scores):
            if counted in question.protocols:
                yield POPULARITY, counted, ranked


class OwnRecent:
    """The customer's own purchases, recent ones first; there are no new items among them."""

    has_chance = False
    methods = (Method(RECENCY, "Own purchases, recent ones count more", "reference"),)

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By recency; free places go by popularity."""
        del seed
        if Counted.ALL in question.protocols:
            ranker = question.ranker(self._plan)
            for counted, _, ranked in ranker.by_history(recent=True, fallback=question.popularity):
                yield RECENCY, counted, ranked


class LinearModel:
    """EASE over all regions' records, without privacy."""

    has_chance = False
    methods = (Method(EASE, "EASE, centralised, without privacy", "no-privacy"),)

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By the model's scores of the most popular items."""
        del seed
        items = np.sort(np.argsort(-question.popularity, kind="stable")[:EASE_ITEMS])
        ranker = question.ranker(self._plan)
        for counted, _, ranked in ranker.by_ease(items, l2=question.ease_l2):
            if counted in question.protocols:
                yield EASE, counted, ranked


class WithoutPrivacy:
    """The factors without noise and without clipping, of all regions; the sizes that noise allows.

    And once more with sizes for no noise: what privacy costs is the distance to that.
    """

    has_chance = False
    methods = (
        Method("factors/no-privacy", "factors, without privacy, the plan's sizes", "no-privacy"),
        Method("factors/no-privacy-large", "factors, without privacy, large", "no-privacy"),
    )

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """What would be served."""
        del seed
        population = question.population
        for method, sizes in zip(self.methods, (None, baselines.NO_PRIVACY_SIZES), strict=True):
            model = baselines.train_without_privacy([population.pooled], self._plan, sizes)
            models = dict.fromkeys(population.regions, model)
            yield from _served(question, self._plan, method.key, models, n_summed=0)


class Private:
    """This system's model of all regions, with its noise; and what is left without its factors."""

    has_chance = True

    def __init__(self, setting: Setting, *, ablated: bool = False) -> None:
        self._setting = setting
        self._ablated = ablated
        key, of = setting.key, (setting.strategy, setting.mode, setting.epsilon)
        title = setting.title
        self._main = Method(key, title, "private", *of)
        self._without = Method(f"{key}/no-factors", f"{title}, no factors", "ablation", *of)
        self.methods = (self._main, self._without) if ablated else (self._main,)

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """What would be served."""
        plan, population = self._setting.plan, question.population
        name = f"evaluate/{self._setting.key}/{question.number}/{seed}"
        shared = train_private(population, population.regions, plan, name)
        models = dict.fromkeys(population.regions, shared)
        count = len(population.regions)
        yield from _served(question, plan, self._main.key, models, n_summed=count)
        if self._ablated:
            ranker = question.ranker(plan)
            variants = question.served
            for _, counted, _, ranked in ranker.without_factors(
                models, n_summed=count, variants=variants
            ):
                yield self._without.key, counted, ranked


class Alone:
    """Each region's own model, at the same ε: what federation is worth."""

    has_chance = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        key = f"{setting.strategy}/alone/{setting.epsilon}"
        label = f"{setting.strategy}, each region alone, ε = {setting.epsilon}"
        own = Method(key, label, "private", setting.strategy, "alone", setting.epsilon)
        self.methods = (own,)

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """What would be served."""
        plan, population = self._setting.plan, question.population
        name = f"evaluate/{self._setting.key}/{question.number}/{seed}/alone"
        models = {
            region: train_private(population, [region], plan, name) for region in population.regions
        }
        yield from _served(question, plan, self.methods[0].key, models, n_summed=1)


def _served(
    question: Question,
    plan: RunPlan,
    key: str,
    models: Mapping[str, ModelState],
    *,
    n_summed: int,
) -> Iterator[Ranking]:
    ranker, variants = question.ranker(plan), question.served
    for _, counted, _, ranked in ranker.by_model(models, n_summed=n_summed, variants=variants):
        yield key, counted, ranked


def own_contenders(settings: Sequence[Setting], reference: RunPlan) -> list[Contender]:
    """This system's contenders and the baselines of its own, in the table's order.

    Args:
        settings: What is trained; at least one. The first strategy is also measured in each region
            alone, and without its factors.
        reference: A plan of ``factors``, whose sizes the model without privacy has.
    """
    first = settings[0]
    contenders: list[Contender] = []
    for setting in settings:
        is_first = setting.strategy == first.strategy
        contenders.append(Private(setting, ablated=is_first))
        if is_first and setting.mode == first.mode:
            contenders.append(Alone(setting))
    return [
        *contenders,
        Popular(reference),
        OwnRecent(reference),
        WithoutPrivacy(reference),
        LinearModel(reference),
    ]
