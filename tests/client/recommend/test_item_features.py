"""A model is served over the catalogue that it was made with, or over one that extends it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.item_features import pinned_catalogue
from common.catalogue import Catalogue
from common.errors import VerificationError

ITEMS = ["1", "2", "3", "4"]
LABELS: dict[str, list[str | None]] = {
    "category": ["bread", "bread", "milk", None],
    "product_type": ["rolls", "cake", "fresh", None],
    "department": ["bakery", "bakery", "dairy", "other"],
    "brand": ["ours", None, "acme", "acme"],
}
REGIONS_OWN = Catalogue.of(ITEMS, **LABELS)


def pinned(catalogue: Catalogue, stated: Catalogue = REGIONS_OWN) -> Catalogue:
    return pinned_catalogue(catalogue, stated=stated.digest, n_items=stated.n_items)


def test_the_models_own_catalogue_is_taken() -> None:
    assert pinned(REGIONS_OWN) is REGIONS_OWN


def test_items_may_be_added_at_the_end() -> None:
    labels: dict[str, Any] = {level: [*own, "new"] for level, own in LABELS.items()}
    extended = Catalogue.of([*ITEMS, "5"], **labels)
    assert pinned(extended) is extended
    with pytest.raises(VerificationError, match="another catalogue"):
        pinned(Catalogue.of(["5", *ITEMS], **labels))


def test_a_model_over_more_items_than_the_region_knows_is_not_served() -> None:
    with pytest.raises(VerificationError, match=r"4 items\) than the region's .* 3 items"):
        pinned(REGIONS_OWN.first(3))


@given(
    level=st.sampled_from(sorted(LABELS)),
    place=st.integers(0, 3),
    label=st.sampled_from(["bread", "milk", "rolls", "dairy", "acme", "pushed"]),
    added=st.booleans(),
)
def test_no_label_of_any_item_can_be_another(
    level: str, place: int, label: str, added: bool
) -> None:
    labels: dict[str, Any] = {name: list(own) for name, own in LABELS.items()}
    labels[level][place] = label
    items = list(ITEMS)
    if added:
        # Also behind a new item at the end.
        items.append("5")
        labels = {name: [*own, None] for name, own in labels.items()}
    changed = Catalogue.of(items, **labels)
    if label == LABELS[level][place]:
        assert pinned(changed) is changed
    else:
        with pytest.raises(VerificationError):
            pinned(changed)


def test_a_digest_alone_is_not_enough() -> None:
    """A plan that names the right digest and the wrong number of items is none of ours."""
    with pytest.raises(VerificationError):
        pinned_catalogue(REGIONS_OWN, stated=REGIONS_OWN.digest, n_items=3)
