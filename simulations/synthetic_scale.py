"""Made-up customers in any number: for what changes with the number of customers.

Items follow Zipf's law and belong to tastes; a customer has few tastes, buys again what she
bought, and after some items tends to buy a certain other one. Regions have tastes of their own. All
of it is drawn from one seed, in arrays, without a loop over customers; millions of them a region
and a part of a region at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import MS_PER_WEEK, CustomerItemMatrix, PreferenceDataset
from common.errors import InputError
from simulations.baselines import pool

TRAIN_WEEKS, TEST_WEEKS = 48, 5
START_MS = 1_480_000_000_000
CUT_MS = START_MS + TRAIN_WEEKS * MS_PER_WEEK

_TASTES = 24
_OWN_TASTES = 3
# Of the Dirichlet distribution of a region's shares of tastes: the less, the more regions differ.
_LEAN = 5.0
_MEAN_PURCHASES = 45
_MOST_PURCHASES = 160
# Shares of purchases that are of anything, a repeat, or the usual successor of the last one.
_ANYTHING, _REPEAT, _SUCCESSOR = 0.15, 0.25, 0.2

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionPurchases:
    """One region's made-up customers.

    Attributes:
        train: Their purchases in the training window.
        test: The same customers' in the weeks after it, row by row.
    """

    train: PreferenceDataset = field(repr=False)
    test: PreferenceDataset = field(repr=False)


def synthetic_regions(
    n_customers: int,
    *,
    n_items: int,
    n_regions: int,
    seed: int,
    taste_concentration: float = _LEAN,
) -> list[RegionPurchases]:
    """Customers over regions, about as many in each.

    Args:
        n_customers: In all.
        n_items: The catalogue's size, at least 100.
        n_regions: How many regions.
        seed: The same seed gives the same purchases.
        taste_concentration: Of the Dirichlet distribution of a region's shares of tastes: the less,
            the more regions differ.

    Raises:
        InputError: A number is too small for tastes and regions to mean anything.
    """
    sizes = _region_sizes(n_customers, n_items, n_regions)
    generator = np.random.default_rng(seed)
    world = _World.drawn(n_items, generator)
    regions = []
    for number, size in enumerate(sizes):
        lean = generator.dirichlet(np.full(_TASTES, taste_concentration))
        regions.append(_region(world, lean, _names(f"r{number}", 0, size), generator))
    return regions


def streamed_regions(
    n_customers: int, *, n_items: int, n_regions: int, seed: int, part: int = 50_000
) -> Iterator[RegionPurchases]:
    """The same kind of customers, region by region: memory for one region, and a part's tables.

    Every part has a generator of its own; the purchases are others than those of
    `synthetic_regions` by the same seed.

    Args:
        n_customers: In all.
        n_items: The catalogue's size, at least 100.
        n_regions: How many regions.
        seed: The same seed and part size give the same purchases.
        part: Customers that are drawn at a time.

    Raises:
        InputError: As of `synthetic_regions`.
    """
    sizes = _region_sizes(n_customers, n_items, n_regions)
    world = _World.drawn(n_items, np.random.default_rng(seed))
    for number, size in enumerate(sizes):
        lean = np.random.default_rng([seed, number]).dirichlet(np.full(_TASTES, _LEAN))
        parts = [
            _region(
                world,
                lean,
                _names(f"r{number}", first, min(part, size - first)),
                np.random.default_rng([seed, number, first]),
            )
            for first in range(0, size, part)
        ]
        yield RegionPurchases(
            pool([each.train for each in parts]), pool([each.test for each in parts])
        )


def _region_sizes(n_customers: int, n_items: int, n_regions: int) -> list[int]:
    if n_items < 100 or n_regions < 1 or n_customers < n_regions:
        raise InputError(
            f"{n_customers} customers, {n_items} items and {n_regions} regions are too few.",
            remedy="Use 100 items or more, and a customer for each region at least.",
        )
    sizes: list[int] = np.diff(np.linspace(0, n_customers, n_regions + 1).astype(int)).tolist()
    return sizes


def _names(region: str, first: int, size: int) -> tuple[str, ...]:
    return tuple(f"{region}-{number:09d}" for number in range(first, first + size))


@dataclass(frozen=True, eq=False)
class _World:
    """What all customers share.

    Attributes:
        by_taste: int64[tastes, items of a taste], in the order of popularity.
        successor: int64[n_items], what tends to be bought after each item.
        n_items: The catalogue's size.
    """

    by_taste: IntArray
    successor: IntArray
    n_items: int

    @classmethod
    def drawn(cls, n_items: int, generator: np.random.Generator) -> _World:
        per_taste = n_items // _TASTES
        shuffled = generator.permutation(n_items)[: _TASTES * per_taste]
        by_taste = shuffled.reshape(per_taste, _TASTES).T.copy()
        successor = np.arange(n_items)
        successor[by_taste] = np.roll(by_taste, 1, axis=1)
        return cls(by_taste, successor, n_items)

    def items(self, tastes: IntArray, generator: np.random.Generator) -> IntArray:
        """One item of each of these tastes: the k-th most popular with a chance of about 1/k."""
        per_taste = self.by_taste.shape[1]
        places = np.exp(generator.random(len(tastes)) * np.log(per_taste + 1)).astype(int) - 1
        chosen: IntArray = self.by_taste[tastes, np.minimum(places, per_taste - 1)]
        return chosen


def _region(
    world: _World, lean: FloatArray, sids: tuple[str, ...], generator: np.random.Generator
) -> RegionPurchases:
    """Some customers of a region whose shares of tastes are `lean`."""
    n_customers = len(sids)
    own = generator.choice(_TASTES, size=(n_customers, _OWN_TASTES), p=lean)
    lengths = np.minimum(generator.geometric(1 / _MEAN_PURCHASES, n_customers), _MOST_PURCHASES)
    items = _sequences(world, own, int(lengths.max()), generator)
    inside = np.arange(items.shape[1]) < lengths[:, None]
    owners = np.repeat(np.arange(n_customers), lengths)
    # Sums of exponential gaps, scaled to the window: uniform times in order.
    sums = np.cumsum(generator.exponential(size=(n_customers, items.shape[1] + 1)), axis=1)
    ends = sums[np.arange(n_customers), lengths]
    times = sums[:, :-1][inside] / ends[owners] * (TRAIN_WEEKS + TEST_WEEKS)
    bought = items[inside]
    late = times >= TRAIN_WEEKS
    return RegionPurchases(
        _dataset(sids, owners[~late], bought[~late], times[~late], world.n_items, test=False),
        _dataset(sids, owners[late], bought[late], times[late], world.n_items, test=True),
    )


def _sequences(
    world: _World, own: IntArray, longest: int, generator: np.random.Generator
) -> IntArray:
    """int64[n, longest]: what each customer buys, one purchase after the other."""
    n_customers = len(own)
    rows = np.arange(n_customers)
    items = np.zeros((n_customers, longest), dtype=np.int64)
    for place in range(longest):
        tastes = own[rows, generator.integers(0, _OWN_TASTES, n_customers)]
        anything = generator.random(n_customers) < _ANYTHING
        tastes = np.where(anything, generator.integers(0, _TASTES, n_customers), tastes)
        chosen = world.items(tastes, generator)
        if place:
            kind = generator.random(n_customers)
            earlier = items[rows, generator.integers(0, place, n_customers)]
            chosen = np.where(kind < _REPEAT, earlier, chosen)
            follows = world.successor[items[:, place - 1]]
            chosen = np.where(kind > 1 - _SUCCESSOR, follows, chosen)
        items[:, place] = chosen
    return items


def _dataset(
    sids: tuple[str, ...],
    owners: IntArray,
    items: IntArray,
    weeks: FloatArray,
    n_items: int,
    *,
    test: bool,
) -> PreferenceDataset:
    end_weeks = TRAIN_WEEKS + (TEST_WEEKS if test else 0)
    order = np.lexsort((weeks, items, owners))
    owners, items, weeks = owners[order], items[order], weeks[order]
    keys = owners * n_items + items
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(np.append(first, len(keys)))
    last = weeks[first + counts - 1] if len(first) else weeks[:0]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owners[first], minlength=len(sids)))])
    return PreferenceDataset(
        sids=sids,
        counts=CustomerItemMatrix(
            indptr.astype(np.int64),
            items[first].astype(np.int32),
            counts.astype(np.float32),
            n_items,
        ),
        last_ms=START_MS + (last * MS_PER_WEEK).astype(np.int64),
        ages_weeks=(end_weeks - weeks).astype(np.float32),
        start_ms=START_MS + (TRAIN_WEEKS * MS_PER_WEEK if test else 0),
        end_ms=START_MS + end_weeks * MS_PER_WEEK,
    )
