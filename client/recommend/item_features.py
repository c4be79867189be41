"""The features of items are the region's own: its catalogue, which the published model must name.

A coordinator that could relabel items would choose what is recommended beside what. It cannot: the
labels come from the region's file alone, whose digest the permitted plan and the log entry of the
published model both name. Items may be added at the end of the catalogue while a model is served;
then the first items, with their labels, must still have the digest that the model was made with.
"""

from __future__ import annotations

from common.catalogue import Catalogue
from common.errors import VerificationError


def pinned_catalogue(catalogue: Catalogue, *, stated: str, n_items: int) -> Catalogue:
    """The region's own catalogue, if a model is over it or over its first items.

    Args:
        catalogue: The region's own.
        stated: The digest that the model's plan and log entry name.
        n_items: How many items the model is over.

    Returns:
        The region's catalogue; items from number `n_items` on are newer than the model.

    Raises:
        VerificationError: It has other items or other labels than the model was made with.
    """
    if catalogue.digest == stated and catalogue.n_items == n_items:
        return catalogue
    if catalogue.n_items > n_items and catalogue.first(n_items).digest == stated:
        return catalogue
    raise VerificationError(
        f"The model is over another catalogue ({stated[:12]}…, {n_items:,} items) than the "
        f"region's ({catalogue.digest[:12]}…, {catalogue.n_items:,} items).",
        remedy="Serve a model that was trained over the region's catalogue, or put back the "
        "catalogue that it was trained over; new items belong at its end.",
    )
