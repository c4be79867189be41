"""Lists with their reasons, made of one served state: pure functions, for a customer or nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.filters import (
    Chosen,
    allowed_items,
    choose,
    most_popular,
    pool_size,
)
from client.recommend.histories import Histories, with_purchases
from client.recommend.live_rules import LiveEffect
from client.recommend.reasons import Grounds, popular_reasons, reasons_of
from client.recommend.scoring import Scored, score_customer, shared_scores
from client.recommend.served import Served
from client.recommend.settings import Method
from client.recommend.types import Query, Reason, ReasonCode, Recommended, UnknownItemError
from common.catalogue import Catalogue

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Of a customer who is only thought of: she has bought one item.
_NOBODY = "0" * 64
# With more items that may not be shown, as with a short list of what is in stock, all are scored.
_MOST_HIDDEN = 2000


@dataclass(frozen=True, eq=False)
class Customer:
    """What a list for one customer is made of.

    Attributes:
        row: Her history, one row or none; purchases of this moment among them.
        effect: What her live events do.
        method: How her list is made.
        diversity: The least diversity of her list.
    """

    row: PreferenceDataset = field(repr=False)
    effect: LiveEffect = field(repr=False)
    method: Method = "fused"
    diversity: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether there is anything that a list of her own could be made of."""
        return bool(len(self.row.indices)) or self.effect.changes_scores


def personal_items(served: Served, query: Query, customer: Customer) -> tuple[Recommended, ...]:
    """The list of a customer.

    Raises:
        ScoresNotFiniteError: Her scores are no numbers.
    """
    tables, scene = served.tables, served.scene_factor(query.scene)
    allowed = allowed_items(
        tables,
        query,
        bought=customer.row.indices.tolist(),
        left_out=customer.effect.left_out,
    )
    diversity = max(query.diversity, customer.effect.diversity, customer.diversity)
    # Each item that may not be shown may stand before one that may.
    hidden = tables.n_items - int(np.count_nonzero(allowed))
    most = pool_size(query.k, diversity) + hidden
    scored = score_customer(
        tables,
        customer.row,
        method=customer.method,
        effect=customer.effect,
        scene=scene,
        most=most if hidden <= _MOST_HIDDEN else None,
    )
    chosen = choose(tables, scored, query.k, allowed=allowed, diversity=diversity)
    grounds = Grounds(tables, customer.row, scored, customer.effect, scene, served.is_regional)
    return _recommended(served.catalogue, chosen.items, chosen.scores, reasons_of(grounds, chosen))


def popular_items(
    served: Served, query: Query, *, diversity: float = 0.0
) -> tuple[Recommended, ...]:
    """The list for nobody in particular: released popularity, the region's and the scene's.

    Args:
        served: What is served.
        query: The query; whom it names does not matter.
        diversity: The least diversity of the list.
    """
    tables, scene = served.tables, served.scene_factor(query.scene)
    chosen = popular_choice(
        served,
        query.k,
        allowed=allowed_items(tables, query),
        scene=scene,
        diversity=max(query.diversity, diversity),
    )
    reasons = popular_reasons(tables, chosen.items, scene=scene, regional=served.is_regional)
    return _recommended(served.catalogue, chosen.items, chosen.scores, reasons)


def popular_choice(
    served: Served,
    k: int,
    *,
    allowed: npt.NDArray[np.bool_],
    scene: npt.NDArray[np.floating] | None,
    diversity: float = 0.0,
) -> Chosen:
    """The items of `popular_items`.

    Args:
        served: What is served.
        k: How many.
        allowed: bool[n_items], which may be shown.
        scene: float[n_categories], by what a scene raises each category; None for no scene.
        diversity: Of the list.
    """
    tables = served.tables
    if scene is None and not diversity:
        items = most_popular(tables, k, allowed=allowed)
        return Chosen(items, np.maximum(tables.popularity[items], 0.0), items)
    scored = _by_popularity(served, scene)
    return choose(tables, scored, k, allowed=allowed, diversity=diversity)


def similar_items(served: Served, item: str, k: int) -> tuple[Recommended, ...]:
    """The items most like an item: by the model's factors, then those of its place.

    Raises:
        UnknownItemError: The item is not in the catalogue.
    """
    number = number_of(served.catalogue, item)
    items, cosines = served.rules.likeness.like(number, k)
    found = _recommended(served.catalogue, items, cosines, [(Reason("like", item),)] * len(items))
    return found + _of_place(served, number, k, but=items)


def bought_with(served: Served, item: str, k: int) -> tuple[Recommended, ...]:
    """The items that customers who bought an item bought, too.

    By the region's own release if there is one; else what the shared model, which is released,
    expects of a customer who has bought this item and nothing else.

    Raises:
        UnknownItemError: The item is not in the catalogue.
        ScoresNotFiniteError: The scores are no numbers.
    """
    number = number_of(served.catalogue, item)
    table = served.regional.also_bought(number, k)
    items, scores = _expected_with(served, number) if table is None else table
    kept = (scores > 0) & (items != number)
    items, scores = items[kept], scores[kept]
    order = np.lexsort((items, -scores))[:k]
    items, scores = items[order], scores[order]
    reasons = [(Reason("also-bought", item),)] * len(items)
    found = _recommended(served.catalogue, items, scores, reasons)
    return found + _of_place(served, number, k, but=items)


def number_of(catalogue: Catalogue, item: str) -> int:
    """An item's number.

    Raises:
        UnknownItemError: The item is not in the catalogue.
    """
    number = catalogue.index_of.get(item)
    if number is None:
        raise UnknownItemError(
            "An item of the request is not in the region's catalogue.",
            remedy="Use the catalogue's references; new items are added at its end.",
        )
    return number


def _expected_with(served: Served, number: int) -> tuple[IntArray, FloatArray]:
    tables = served.tables
    nothing = Histories.none(served.histories.window, tables.n_items).row(_NOBODY)
    row = with_purchases(nothing, _NOBODY, [number])
    if not 0 <= tables.column[number] < tables.n_vocabulary:
        return tables.numbers[:0], np.zeros(0)
    scores = shared_scores(tables, row)[0, : tables.n_vocabulary]
    items = tables.numbers[: tables.n_vocabulary]
    return items, scores * tables.power[items]


def _of_place(served: Served, number: int, k: int, *, but: IntArray) -> tuple[Recommended, ...]:
    """The most popular items of an item's type and category, to fill the places left over."""
    listed = {number, *but.tolist()}
    found: list[tuple[int, str]] = []
    for groups in (served.rules.places.product_type, served.rules.places.category):
        for item in groups.beside(number, k + len(listed)).tolist():
            if item not in listed:
                listed.add(item)
                found.append((item, served.rules.places.category.name_of(item) or ""))
    left = found[: max(0, k - len(but))]
    items = np.array([item for item, _ in left], dtype=np.int64)
    reasons = [_place_reasons(name) for _, name in left]
    return _recommended(served.catalogue, items, np.zeros(len(items)), reasons)


def _place_reasons(name: str) -> tuple[Reason, ...]:
    code: ReasonCode = "category" if name else "popular"
    return (Reason(code, name or None),)


def _by_popularity(served: Served, scene: npt.NDArray[np.floating] | None) -> Scored:
    tables = served.tables
    scores = np.maximum(tables.popularity, 0.0)
    if scene is not None:
        scores = scores * scene[tables.catalogue.category]
    nothing = np.zeros(tables.n_items)
    everything = np.arange(tables.n_items)
    return Scored(everything, scores, nothing, nothing, nothing, nothing)


def _recommended(
    catalogue: Catalogue,
    items: IntArray,
    scores: FloatArray,
    reasons: Sequence[tuple[Reason, ...]],
) -> tuple[Recommended, ...]:
    pairs: Iterable[tuple[int, float]] = zip(items.tolist(), scores.tolist(), strict=True)
    return tuple(
        Recommended(catalogue.items[item], score, told)
        for (item, score), told in zip(pairs, reasons, strict=True)
    )
