"""A year of made-up purchases of one region, with times: for studies of analytics.

Categories follow Zipf's law, each customer has tastes, a weekday of her own and a last visit; some
hours are busier. All of it is drawn from one seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS
from common.catalogue import Catalogue
from common.errors import InputError
from simulations.made_up_regions import DAY_MS, YEAR_DAYS

FloatArray = npt.NDArray[np.float64]

_CATEGORIES = 300
_HOUR_MS = 3_600_000
#: Where the year ends, milliseconds since the epoch, where it begins.
END_MS = YEAR_DAYS * DAY_MS


def made_up(customers: int, seed: int) -> Purchases:
    """Some customers' purchases, of the catalogue that `made_up_catalogue` makes.

    Args:
        customers: How many; each has one visit at least.
        seed: The same seed gives the same purchases.

    Raises:
        InputError: There are no customers.
    """
    if customers < 1:
        raise InputError("A made-up region has one customer at least.")
    generator = np.random.default_rng(seed)
    visits = 1 + generator.negative_binomial(1.2, 1.2 / (1.2 + 24), customers)
    last_day = np.minimum(generator.exponential(45.0, customers), YEAR_DAYS - 1).astype(int)
    visitor = np.repeat(np.arange(customers), visits)
    day = (YEAR_DAYS - 1 - last_day[visitor]) * (1 - generator.beta(1, 2, len(visitor)))
    # Some weekdays and hours are busier; each customer has a weekday of her own.
    own = generator.integers(0, WEEKDAYS, customers)
    moved = (own[visitor] - day.astype(int)) % WEEKDAYS
    day = np.maximum(day.astype(int) - moved * (generator.random(len(visitor)) < 0.4), 0)
    hour = generator.choice(24, len(visitor), p=_hours_of_day())
    items = generator.integers(1, 8, len(visitor))
    taste = generator.gumbel(size=(customers, _CATEGORIES)) * 0.6
    weight = np.exp(taste) / (1 + np.arange(_CATEGORIES))[None, :] ** 0.9
    below = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    owner = np.repeat(visitor, items)
    drawn = generator.random(len(owner))
    item = np.empty(len(owner), dtype=np.int32)
    edges = np.searchsorted(owner, np.arange(customers + 1))
    for number in range(customers):
        own_rows = slice(edges[number], edges[number + 1])
        item[own_rows] = np.searchsorted(below[number], drawn[own_rows])
    return Purchases(
        tuple(f"customer-{n}" for n in range(customers)),
        owner.astype(np.int32),
        np.minimum(item, _CATEGORIES - 1).astype(np.int32),
        np.repeat(day * DAY_MS + hour * _HOUR_MS, items).astype(np.int64),
    )


def made_up_catalogue() -> Catalogue:
    """As many items as categories."""
    return Catalogue.of(
        [f"item-{n:03d}" for n in range(_CATEGORIES)],
        category=[f"category-{n:03d}" for n in range(_CATEGORIES)],
    )


def _hours_of_day() -> FloatArray:
    weight = np.exp(-(((np.arange(24) - 13) / 5.0) ** 2)) + 0.01
    share: FloatArray = weight / weight.sum()
    return share
