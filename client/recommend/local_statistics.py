"""What a region asks of its own customers for its recommender: scenes, regional bias, also-bought.

What it asks about kinds of stores is in `client.recommend.store_types`.

Each says what one customer adds to a vector, by that customer's purchases alone
(`client.training.bounded_sums`). What all of them come to is noised, charged and logged before
anyone sees it; `client.recommend.local_estimates` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.assembly import assemble, count_purchases
from client.data.dataset import MAX_ROWS_PER_CUSTOMER, CustomerItemMatrix, PreferenceDataset
from client.data.transactions import Purchases
from client.training.bounded_sums import Contributions
from client.training.rows import popularity_values
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError
from common.item_pairs import n_pairs, pair_places
from common.parameters import ArraySpec

SCENES, REGIONAL_BIAS, ALSO_BOUGHT = "scenes", "regional-bias", "also-bought"
#: Of the region's further table of purchases; see `client.recommend.store_types`.
STORE_TYPES = "store-types"
#: Every statistic, in the order in which a query asks for them.
STATISTICS = (SCENES, STORE_TYPES, REGIONAL_BIAS, ALSO_BOUGHT)
WEEKDAYS = 7
#: What there is to see in a coordinate, per customer of the region: about by how much those that
#: matter differ from what one would expect anyway, measured on the public retail data
#: (docs/decisions/0043-a-regions-own-queries.md; kinds of stores: 0052-the-rest-of-serving.md). It
#: serves to say beforehand that noise would swamp an answer.
SIGNAL_SHARE = {SCENES: 0.0005, STORE_TYPES: 0.001, REGIONAL_BIAS: 0.002, ALSO_BOUGHT: 0.0002}
#: Of a customer who bought more of the vocabulary, pairs are made of the items bought most often.
MOST_PAIRED_ITEMS = 32

_NONE = -1
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """How moments are told apart: parts of the day, and the zone they are of.

    Attributes:
        dayparts: By name the first hour of each part of the day and the hour it ends before; a part
            may go past midnight. In order.
        zone: The zone of the region's local time, by its name in the tz database.
    """

    dayparts: Mapping[str, tuple[int, int]]
    zone: str

    def __post_init__(self) -> None:
        taken = [hour for first, end in self.dayparts.values() for hour in _hours(first, end)]
        if not self.dayparts or len(set(taken)) != len(taken):
            raise InputError(
                "The parts of the day overlap, or there are none.",
                remedy="Let each hour belong to one part at most.",
            )
        try:
            ZoneInfo(self.zone)
        except (KeyError, OSError, ValueError) as error:
            raise InputError(
                f"There is no time zone {self.zone[:64]!r}.",
                remedy="Use a name of the tz database, such as Europe/Berlin.",
            ) from error

    def daypart(self, hours: npt.NDArray[np.int64]) -> LongArray:
        """int64[n]: the number of the part of the day of each hour; −1 where none has it."""
        part_of = np.full(24, _NONE, dtype=np.int64)
        for number, (first, end) in enumerate(self.dayparts.values()):
            part_of[_hours(first, end)] = number
        return part_of[hours]

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "dayparts": [
                {"name": name, "first_hour": first, "end_hour": end}
                for name, (first, end) in self.dayparts.items()
            ],
            "zone": self.zone,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, JsonValue]) -> Clock:
        """Reads what `to_record` made.

        Raises:
            InputError: It is malformed.
        """
        try:
            listed = record["dayparts"]
            parts = {
                str(each["name"]): (int(str(each["first_hour"])), int(str(each["end_hour"])))
                for each in (listed if isinstance(listed, list) else [])
                if isinstance(each, dict)
            }
            return cls(parts, str(record["zone"]))
        except (KeyError, ValueError) as error:
            raise InputError(f"The parts of the day are malformed: {error!r}.") from error


@dataclass(frozen=True)
class Scenes:
    """When which categories are bought: categories × parts of the day, categories × weekdays.

    A customer adds her purchases, counted by category and moment, in both tables; the row as a
    whole is bounded, so that whoever shops daily counts no more than others.

    Attributes:
        category: int32[n_items], each item's category.
        n_categories: How many there are.
        clock: How moments are told apart.
    """

    category: npt.NDArray[np.int32] = field(repr=False)
    n_categories: int
    clock: Clock

    @classmethod
    def of(cls, catalogue: Catalogue, clock: Clock) -> Scenes:
        """Over a catalogue's categories."""
        return cls(catalogue.category, len(catalogue.category_names), clock)

    @property
    def name(self) -> str:
        """The query's name."""
        return SCENES

    @property
    def n_moments(self) -> int:
        """Columns: the parts of the day, then Monday to Sunday."""
        return len(self.clock.dayparts) + WEEKDAYS

    @property
    def spec(self) -> ArraySpec:
        """Categories × moments."""
        return ArraySpec("scenes", "<f4", (self.n_categories, self.n_moments))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The clock."""
        return self.clock.to_record()

    def contributions(self, purchases: Purchases) -> Contributions:
        """Each purchase counts once by the part of the day, and once by the weekday."""
        moments = pd.DatetimeIndex(purchases.time_ms.astype("datetime64[ms]"), tz="UTC")
        local = moments.tz_convert(self.clock.zone)
        daypart = self.clock.daypart(np.asarray(local.hour, dtype=np.int64))
        weekday = np.asarray(local.day_of_week, dtype=np.int64) + len(self.clock.dayparts)
        owner = purchases.owner.astype(np.int64)
        base = self.category[purchases.item].astype(np.int64) * self.n_moments
        known = daypart != _NONE
        place = np.concatenate([base[known] + daypart[known], base + weekday])
        return Contributions(
            np.concatenate([owner[known], owner]), place, np.ones(len(place), dtype=np.float64)
        )


@dataclass(frozen=True)
class _OverVocabulary:
    """What is asked of a shared model's vocabulary.

    Attributes:
        vocabulary: int64[m], item numbers, in the model's order.
        n_items: How many items the catalogue has.
        model: Digest of the model that the vocabulary is of, in hex.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
    """

    vocabulary: LongArray = field(repr=False)
    n_items: int
    model: str
    start_ms: int
    end_ms: int

    def _rows(
        self, purchases: Purchases
    ) -> tuple[PreferenceDataset, LongArray, LongArray, npt.NDArray[np.bool_]]:
        """Purchases by item; of the entries in the vocabulary whose each is and its place there.

        Returns:
            The rows; int64[n] and int64[n]; and bool[n_entries], which entries these are.
        """
        rows = _counted(purchases, self.n_items, self.start_ms, self.end_ms)
        place = _places(self.vocabulary, self.n_items)[rows.indices]
        known = place != _NONE
        return rows, _owners(purchases, rows)[known], place[known], known


@dataclass(frozen=True)
class RegionalBias(_OverVocabulary):
    """What the region's customers buy of the shared model's vocabulary.

    A customer adds the row that the popularity round of training takes, restricted to the
    vocabulary, so that the two can be compared.
    """

    @property
    def name(self) -> str:
        """The query's name."""
        return REGIONAL_BIAS

    @property
    def spec(self) -> ArraySpec:
        """One value for each item of the vocabulary."""
        return ArraySpec("regional_popularity", "<f4", (len(self.vocabulary),))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The model whose vocabulary it is over."""
        return {"model": self.model}

    def contributions(self, purchases: Purchases) -> Contributions:
        """The popularity row, restricted to the vocabulary."""
        rows, owner, place, known = self._rows(purchases)
        return Contributions(owner, place, popularity_values(rows)[known])


@dataclass(frozen=True)
class AlsoBought(_OverVocabulary):
    """Which items of the shared model's vocabulary are bought by the same customers.

    A customer adds one value for each pair of items she bought: 1 if she bought no others. What she
    adds in all is bounded, however many she bought.
    """

    @property
    def name(self) -> str:
        """The query's name."""
        return ALSO_BOUGHT

    @property
    def spec(self) -> ArraySpec:
        """One value for each pair, in the order of `common.item_pairs`."""
        return ArraySpec("item_pairs", "<f4", (n_pairs(len(self.vocabulary)),))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The model whose vocabulary it is over, and how many items of a customer are paired."""
        return {"model": self.model, "most_paired_items": MOST_PAIRED_ITEMS}

    def contributions(self, purchases: Purchases) -> Contributions:
        """Pairs of a customer's items of the vocabulary."""
        rows, owner, place, known = self._rows(purchases)
        owner, item = _most_bought(owner, place, rows.counts.values[known])
        first, second, whose = _pairs(owner, item)
        places = pair_places(first, second, len(self.vocabulary))
        return Contributions(whose, places, np.ones(len(places)))


def _hours(first: int, end: int) -> list[int]:
    """The hours of a part of the day; from midnight on again if it ends before it begins."""
    return [hour % 24 for hour in range(first, end if end > first else end + 24)]


def _counted(purchases: Purchases, n_items: int, start_ms: int, end_ms: int) -> PreferenceDataset:
    """Some customers' purchases by item, as training has them."""
    part = count_purchases(
        purchases, start_ms=start_ms, end_ms=end_ms, most_rows=MAX_ROWS_PER_CUSTOMER
    )
    rows = assemble([part])
    entries = rows.arrays
    return PreferenceDataset(
        sids=rows.sids,
        counts=CustomerItemMatrix(rows.indptr, entries["items"], entries["counts"], n_items),
        last_ms=entries["last_ms"],
        ages_weeks=entries["ages_weeks"],
        start_ms=start_ms,
        end_ms=end_ms,
    )


def _owners(purchases: Purchases, rows: PreferenceDataset) -> LongArray:
    """int64[n_entries]: whose each entry is, as a position among the purchases' owners."""
    position = {name: number for number, name in enumerate(purchases.owners)}
    of_row = np.fromiter((position[sid] for sid in rows.sids), dtype=np.int64, count=len(rows.sids))
    return np.repeat(of_row, np.diff(rows.indptr))


def _places(vocabulary: LongArray, n_items: int) -> LongArray:
    """int64[n_items]: each item's place in the vocabulary; −1 for what is not in it."""
    places = np.full(n_items, _NONE, dtype=np.int64)
    places[vocabulary] = np.arange(len(vocabulary))
    return places


def _most_bought(
    owner: LongArray, item: LongArray, counts: npt.NDArray[np.float32]
) -> tuple[LongArray, LongArray]:
    """Each customer's most bought items, at most `MOST_PAIRED_ITEMS`; ties to the lower place."""
    order = np.lexsort((item, -counts, owner))
    owner, item = owner[order], item[order]
    begins = np.searchsorted(owner, owner, side="left")
    kept = np.arange(len(owner)) - begins < MOST_PAIRED_ITEMS
    owner, item = owner[kept], item[kept]
    order = np.lexsort((item, owner))
    return owner[order], item[order]


def _pairs(owner: LongArray, item: LongArray) -> tuple[LongArray, LongArray, LongArray]:
    """All pairs of each customer's items.

    Args:
        owner: int64[n], ascending.
        item: int64[n], ascending for each owner, distinct.

    Returns:
        The lower item, the higher item and the owner of each pair.
    """
    ends = np.searchsorted(owner, owner, side="right")
    # After each item come those that it makes a pair with.
    following = ends - np.arange(len(owner)) - 1
    first = np.repeat(np.arange(len(owner)), following)
    begins = np.cumsum(following) - following
    second = first + 1 + np.arange(len(first)) - begins[first]
    return item[first], item[second], owner[first]
