"""Reading profiles: one customer's, and an overview of all.

Nothing here asks for consent: whoever reads asks whether it stands before each reading
(`client.profiles.region`, `client.consent_service.local_desk`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from client.profiles.columns import Moment, columns_of
from client.profiles.explanation import Explained
from client.profiles.judging import CATEGORY_BITS, KEPT_NUMBERS, Judged
from client.profiles.library import TagLibrary
from client.profiles.manifest import Manifest
from client.profiles.purchases import LocalTime
from client.profiles.store import ProfileStore
from client.profiles.tables import Array, sids_of
from common.canonical_json import JsonValue

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class SegmentLine:
    """How many customers a segment has, and what they are like; exact, for the operator.

    Attributes:
        name: The segment's id, or a group's number.
        title: What it is called, in English.
        customers: How many.
        share: Of all profiles.
        medians: Of `KEPT_NUMBERS`; NaN where none is known.
        strategy: What to do next; empty for groups.
    """

    name: str
    title: str
    customers: int
    share: float
    medians: Mapping[str, float] = field(repr=False)
    strategy: str = ""

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "customers": self.customers,
            "share": f"{self.share:.6f}",
            "medians": {
                name: None if np.isnan(value) else f"{value:.6g}"
                for name, value in self.medians.items()
            },
            "strategy": self.strategy,
        }


@dataclass(frozen=True)
class Overview:
    """All profiles of a region.

    Attributes:
        manifest: What they were made by.
        segments: The segments, in the library's order.
        groups: The groups of similar customers.
        tags: How many customers each tag is said of, by its id; of how many categories does not
            matter.
    """

    manifest: Manifest
    segments: tuple[SegmentLine, ...]
    groups: tuple[SegmentLine, ...]
    tags: Mapping[str, int]


@dataclass(frozen=True)
class ProfileReader:
    """Reads the profiles of a region.

    Attributes:
        store: Where they are kept.
        library: The tag library that they were judged by.
        categories: The names of the catalogue's categories.
        local: The region's local time.
        cart_left_after_h: After how many hours a cart counts as left.
    """

    store: ProfileStore
    library: TagLibrary
    categories: tuple[str, ...]
    local: LocalTime
    cart_left_after_h: int

    def of(self, sid: str) -> Explained | None:
        """One customer's profile; None if she has none.

        Args:
            sid: Her pseudonym, 64 hex digits.

        Raises:
            DamagedProfilesError: There are no profiles that can be read.
        """
        manifest, facts, judged = self.store.of(sids_of([sid]))
        if not len(facts) or not len(judged):
            return None
        judged = judged.renumbered(manifest.library, self.library, manifest.segments)
        at_ms = manifest.as_of_ms or manifest.refreshed_ms
        moment = Moment(at_ms, self.local, manifest.stated, self.cart_left_after_h * _HOUR_MS)
        columns = columns_of(facts, moment, manifest.models)
        return Explained(manifest, self.library, self.categories, columns, judged)

    def overview(self) -> Overview:
        """All profiles together.

        Raises:
            DamagedProfilesError: There are no profiles that can be read.
        """

        def read(manifest: Manifest) -> Overview:
            parts = [
                self.store.judged(shard).renumbered(
                    manifest.library, self.library, manifest.segments
                )
                for shard in manifest.shards
            ]
            return _overview(manifest, parts, self.library)

        return self.store.read(read)


def _overview(manifest: Manifest, parts: Sequence[Judged], library: TagLibrary) -> Overview:
    segment = np.concatenate([part.segment for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    group = numbers[:, KEPT_NUMBERS.index("group")]
    tags: Counter[str] = Counter()
    for part in parts:
        number = (part.said >> np.uint64(CATEGORY_BITS)).astype(np.int64)
        # Of several categories a tag is said of one customer.
        pairs = np.unique(np.column_stack([part.owner, number]), axis=0)
        for place, count in enumerate(np.bincount(pairs[:, 1], minlength=len(library.said))):
            tags[library.said[place].id] += int(count)
    return Overview(
        manifest,
        tuple(
            _line(each.id, each.title.en, segment == place, numbers, each.strategy.en)
            for place, each in enumerate(library.segment)
        ),
        tuple(
            _line(f"{number:.0f}", f"Group {number:.0f}", group == number, numbers)
            for number in np.unique(group[np.isfinite(group)])
        ),
        dict(tags),
    )


def _line(name: str, title: str, those: Array, numbers: Array, strategy: str = "") -> SegmentLine:
    count = int(those.sum())
    medians = {}
    for place, number in enumerate(KEPT_NUMBERS):
        known = numbers[those, place]
        known = known[np.isfinite(known)]
        medians[number] = float(np.median(known)) if len(known) else float("nan")
    share = count / len(numbers) if len(numbers) else 0.0
    return SegmentLine(name, title, count, share, medians, strategy)
