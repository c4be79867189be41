"""Why an item is in a list: what of the customer's own, or of what is public, put it there.

A reason names an item of the customer's own history or events, or a category; never anybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.filters import Chosen
from client.recommend.live_rules import LiveEffect
from client.recommend.scoring import Scored, ScoringTables, shared_row
from client.recommend.types import Reason, ReasonCode
from common.catalogue import UNLABELLED

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SceneFactors = npt.NDArray[np.floating]

# Of a category a customer buys so much more than others do before it is told as a reason.
_TOLD_RATIO = 1.2
# A scene that raises a category by less is not told.
_TOLD_SCENE = 1.05


@dataclass(frozen=True, eq=False)
class Grounds:
    """What a customer's list was made of.

    Attributes:
        tables: What all customers have in common.
        row: Her history, one row or none; purchases of this moment among them.
        scored: Her candidates.
        effect: What her live events do.
        scene: float[n_categories], the scene's factors, or None.
        regional: Whether popularity has the region's bias.
    """

    tables: ScoringTables = field(repr=False)
    row: PreferenceDataset = field(repr=False)
    scored: Scored = field(repr=False)
    effect: LiveEffect = field(repr=False)
    scene: SceneFactors | None = field(repr=False)
    regional: bool


def reasons_of(grounds: Grounds, chosen: Chosen) -> list[tuple[Reason, ...]]:
    """The reasons of every item of a list, the strongest first; at least one each."""
    raised = {int(item): place for place, item in enumerate(grounds.effect.items)}
    likes = _likes(grounds, chosen.items)
    ratios = _category_ratios(grounds)
    found: list[tuple[Reason, ...]] = []
    for row, (item, place) in enumerate(
        zip(chosen.items.tolist(), chosen.places.tolist(), strict=True)
    ):
        told: list[Reason] = []
        if place >= 0:
            told += _weighed(grounds, place, raised.get(item), likes[row])
        told += _category_reason(grounds.tables, item, ratios)
        told += _scene_reason(grounds.tables, item, grounds.scene)
        told += [] if told else [_popularity_reason(regional=grounds.regional)]
        found.append(tuple(dict.fromkeys(told)))
    return found


def popular_reasons(
    tables: ScoringTables, items: IntArray, *, scene: SceneFactors | None, regional: bool
) -> list[tuple[Reason, ...]]:
    """The reasons of a list that is made for nobody in particular."""
    popular = _popularity_reason(regional=regional)
    return [(*_scene_reason(tables, item, scene), popular) for item in items.tolist()]


def _weighed(grounds: Grounds, place: int, raised: int | None, like: Reason | None) -> list[Reason]:
    """What gave a candidate its score, the greater share first."""
    scored = grounds.scored
    # What live events raise without being about it is what the customer usually buys.
    live = Reason("bought-before") if raised is None else _live_reason(grounds, raised)
    shares = [
        (float(scored.own[place]), Reason("bought-before")),
        (float(scored.live[place]), live),
        # What she buys herself is not recommended for being like something.
        (0.0 if scored.own[place] > 0 else float(scored.shared[place]), like),
    ]
    shares.sort(key=lambda each: -each[0])
    return [reason for share, reason in shares if share > 0 and reason is not None]


def _live_reason(grounds: Grounds, raised: int) -> Reason:
    cause = grounds.effect.causes[raised]
    about = cause.category if cause.item is None else grounds.tables.catalogue.items[cause.item]
    return Reason(cause.code, about)


def _likes(grounds: Grounds, items: IntArray) -> list[Reason | None]:
    """For each item, which of the customer's own items its shared score owes most to.

    The shared score of item j is the sum of y_i (F_i · F_j) over her items i.
    """
    tables = grounds.tables
    columns = tables.column[items]
    known = (columns >= 0) & (columns < tables.n_vocabulary)
    found: list[Reason | None] = [None] * len(items)
    _, own, values = shared_row(tables, grounds.row)
    if not len(own) or not known.any():
        return found
    products = tables.factors[columns[known]] @ tables.factors[own].T * values
    # An item is not like itself.
    products[columns[known][:, None] == own[None, :]] = 0.0
    strongest = np.argmax(products, axis=1)
    bought_now = set(grounds.effect.bought)
    for row, best, product in zip(
        np.flatnonzero(known).tolist(), strongest.tolist(), products.max(axis=1), strict=True
    ):
        if product > 0:
            item = int(tables.numbers[own[best]])
            code: ReasonCode = "just-bought" if item in bought_now else "like"
            found[row] = Reason(code, tables.catalogue.items[item])
    return found


def _category_ratios(grounds: Grounds) -> FloatArray | None:
    if not grounds.row.n_customers or not len(grounds.row.indices):
        return None
    ratios: FloatArray = grounds.tables.category.ratios(grounds.row)[0]
    return ratios


def _category_reason(tables: ScoringTables, item: int, ratios: FloatArray | None) -> list[Reason]:
    name = _category(tables, item)
    if name is None:
        return []
    if item >= tables.n_released:
        return [Reason("new-item", name)]
    place = int(tables.category.of_item[item])
    told = ratios is not None and place >= 0 and float(ratios[place]) >= _TOLD_RATIO
    return [Reason("category", name)] if told else []


def _scene_reason(tables: ScoringTables, item: int, scene: SceneFactors | None) -> list[Reason]:
    name = _category(tables, item)
    if scene is None or name is None:
        return []
    raised = float(scene[tables.catalogue.category[item]]) >= _TOLD_SCENE
    return [Reason("scene", name)] if raised else []


def _category(tables: ScoringTables, item: int) -> str | None:
    name = tables.catalogue.category_names[int(tables.catalogue.category[item])]
    return None if name == UNLABELLED else name


def _popularity_reason(*, regional: bool) -> Reason:
    return Reason("popular-in-region" if regional else "popular")
