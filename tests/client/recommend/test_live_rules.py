"""What live events do to a list: weights, and rules on patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.recommend.events import LiveEvent
from client.recommend.item_groups import Places
from client.recommend.likeness import Likeness
from client.recommend.live_rules import NO_EFFECT, LiveEffect, LiveRules
from client.recommend.settings import LiveSettings
from client.recommend.types import EventKind
from common.catalogue import Catalogue
from common.model_state import ModelState
from tests.support.preference_data import END_MS, dataset_of

# Items 0 to 5: phones of two types; 6 to 9: tea; 10 and 11 have no label.
CATALOGUE = Catalogue.of(
    [f"i{number}" for number in range(12)],
    category=["phones"] * 6 + ["tea"] * 4 + [None] * 2,
    product_type=["smart"] * 3 + ["plain"] * 3 + ["black"] * 4 + [None] * 2,
    department=["technics"] * 6 + ["food"] * 4 + [None] * 2,
)
# The vocabulary is 0, 3, 6, 8; of these 0 and 6 are alike, and 3 and 8.
MODEL = ModelState.from_arrays(
    {
        "popularity": np.arange(12, 0, -1, dtype=np.float32),
        "vocabulary": np.array([0, 3, 6, 8], dtype=np.int64),
        "item_weights": np.ones(4, dtype=np.float32),
        "item_factors": np.array(
            [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.1, 1.0]], dtype=np.float32
        ),
    }
)
NOW = END_MS + 5_000


def rules(**live: Any) -> LiveRules:
    return LiveRules(
        LiveSettings.model_validate(live),
        Places.of(CATALOGUE, np.arange(12)),
        Likeness.of(MODEL, 12),
    )


def event(
    kind: EventKind, item: int | None = None, *, ago_s: float = 0, category: str | None = None
) -> LiveEvent:
    return LiveEvent(kind, item, category, NOW - round(ago_s * 1000))


def boosts(effect: LiveEffect) -> dict[int, float]:
    return dict(zip(effect.items.tolist(), effect.boosts.tolist(), strict=True))


def test_nothing_happens_without_events() -> None:
    assert rules().effect((), NOW) is NO_EFFECT
    assert not NO_EFFECT.changes_scores


def test_a_phone_viewed_raises_phones() -> None:
    effect = rules().effect([event("view", 1)], NOW)
    found = boosts(effect)
    # Itself, its type, its category, in this order; tea is not raised.
    assert found == pytest.approx({1: 0.5, 0: 0.3, 2: 0.3, 3: 0.15, 4: 0.15, 5: 0.15})
    assert {effect.causes[place].item for place in range(len(effect.items))} == {1}
    assert effect.causes[0].code == "viewed"


def test_what_the_model_finds_alike_is_raised_by_the_cosine() -> None:
    found = boosts(rules(spread={"product_type": 0, "category": 0}).effect([event("view", 3)], NOW))
    assert found == pytest.approx({3: 0.5, 8: 0.5 * 0.4 / np.hypot(0.1, 1.0)}, rel=1e-5)


def test_items_without_a_label_have_nothing_in_common() -> None:
    assert boosts(rules().effect([event("view", 10)], NOW)) == {10: 0.5}


def test_a_search_raises_the_finest_place_of_that_name() -> None:
    effect = rules().effect([event("search", category="plain")], NOW)
    assert boosts(effect) == pytest.approx(dict.fromkeys((3, 4, 5), 0.8))
    assert (effect.causes[0].code, effect.causes[0].category) == ("searched", "plain")
    assert set(boosts(rules().effect([event("search", category="technics")], NOW))) == set(range(6))
    assert rules(candidates=2).effect([event("search", category="food")], NOW).items.tolist() == [
        6,
        7,
    ]


def test_an_event_fades_and_the_strongest_decides() -> None:
    half = rules(half_life_s=60)
    assert boosts(half.effect([event("view", 10, ago_s=60)], NOW)) == {10: 0.25}
    twice = half.effect([event("view", 10, ago_s=60), event("favourite", 10)], NOW)
    assert boosts(twice) == {10: 0.8}
    assert twice.causes[0].code == "favourite"
    ten = rules().effect([event("view", 10)] * 10, NOW)
    assert boosts(ten) == {10: 0.5}


def test_what_lies_in_the_cart_is_not_recommended() -> None:
    effect = rules().effect([event("cart", 1), event("cart", 6)], NOW)
    assert effect.left_out == {1, 6}
    assert boosts(effect)[0] > 0
    assert rules().effect([event("cart", 1), event("abandon", 1)], NOW).left_out == frozenset()
    assert rules().effect([event("cart", 1), event("abandon")], NOW).left_out == frozenset()
    assert rules().effect([event("cart", 1), event("purchase", 1)], NOW).left_out == frozenset()


def carts(count: int, *between: LiveEvent) -> list[LiveEvent]:
    """So many carts with item 1 in them, each abandoned, with events between."""
    found: list[LiveEvent] = []
    for number in range(count):
        ago_s = 100.0 * (count - number)
        found += [event("cart", 1, ago_s=ago_s), event("abandon", ago_s=ago_s - 10)]
        found += [
            LiveEvent(each.kind, each.item, each.category, NOW - round(ago_s - 20) * 1000)
            for each in between
        ]
    return found


def test_three_carts_abandoned_in_a_row_bring_alternatives() -> None:
    """The default strategy: the item itself goes, what is like it comes."""
    effect = rules().effect(carts(3), NOW)
    assert effect.left_out == {1}
    found = boosts(effect)
    assert found[0] == pytest.approx(0.8 * 0.6)
    assert found[4] == pytest.approx(0.8 * 0.3)
    reasons = {effect.causes[place].code for place, item in enumerate(effect.items) if item == 0}
    assert reasons == {"abandoned"}


def test_two_carts_or_a_purchase_between_bring_none() -> None:
    assert rules().effect(carts(2), NOW).left_out == frozenset()
    bought = rules().effect(carts(3, event("purchase", 9)), NOW)
    assert bought.left_out == frozenset()
    # Looking at something does not break the row.
    assert rules().effect(carts(3, event("view", 9)), NOW).left_out == {1}


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"when": "abandon", "times": 3, "in_a_row": True, **fields}]}


def test_each_configured_strategy_does_what_it_says() -> None:
    remind = rules(**rule(then="remind", strength=0.9)).effect(carts(3), NOW)
    assert remind.left_out == frozenset()
    assert boosts(remind)[1] == 0.9
    suppress = rules(**rule(then="suppress")).effect(carts(3), NOW)
    assert suppress.left_out == {1}
    assert boosts(suppress)[0] < 0.8 * 0.6
    usual = rules(**rule(then="usual", strength=0.7)).effect(carts(3), NOW)
    assert (usual.usual, usual.left_out) == (0.7, frozenset())
    explore = rules(**rule(then="explore", strength=0.6)).effect(carts(3), NOW)
    assert (explore.diversity, explore.left_out) == (0.6, frozenset())


def test_the_first_rule_decides_about_an_item() -> None:
    both = [
        {"when": "abandon", "times": 1, "then": "suppress"},
        {"when": "abandon", "times": 1, "then": "remind", "strength": 1.0},
    ]
    found = rules(rules=both).effect(carts(1), NOW)
    assert found.left_out == {1}
    assert boosts(found).get(1, 0) < 1.0
    found = rules(rules=both[::-1]).effect(carts(1), NOW)
    assert found.left_out == frozenset()
    assert boosts(found)[1] == 1.0


def test_a_rule_ends() -> None:
    short = rules(**rule(then="suppress", for_s=30))
    assert short.effect(carts(3), NOW).left_out == frozenset()
    assert rules(**rule(then="suppress", for_s=100)).effect(carts(3), NOW).left_out == {1}
    # Carts from before the span of a rule are none of its three.
    assert (
        rules(**rule(then="suppress", within_s=250)).effect(carts(3), NOW).left_out == frozenset()
    )


def test_a_purchase_counts_until_the_store_has_it() -> None:
    day_s = 86_400
    events = [event("purchase", 4), event("purchase", 5, ago_s=10)]
    assert rules().effect(events, NOW).bought == (4, 5)
    # Item 5 was bought this minute, says the store; item 4 weeks ago.
    row = dataset_of({"a" * 64: {5: [0.0], 4: [3.0]}}, 12)
    assert rules().effect(events, NOW, row).bought == (4,)
    late = [LiveEvent("purchase", 5, None, NOW + 2 * day_s * 1000)]
    assert rules().effect(late, NOW, row).bought == (5,)
    assert rules().effect(events, NOW, row).changes_scores
