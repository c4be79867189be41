"""What a scenario's data are once they are prepared: windows of time, regions, files.

Nothing here needs what prepares them, so that whoever only asks which scenarios there are does not
wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluationWindows:
    """A temporal split, milliseconds since the epoch; both windows are half-open.

    Attributes:
        train_from_ms: Begin of training.
        train_until_ms: End of training and begin of the test.
        test_until_ms: End of the test.
    """

    train_from_ms: int
    train_until_ms: int
    test_until_ms: int


@dataclass(frozen=True)
class PreparedRegion:
    """One region's data on disk.

    Attributes:
        name: The region's name.
        source: The declaration of its store.
        households: Households at home in the region.
        stores: Stores of the region that sold anything.
        rows: Rows in its file.
        trips: Trips to its stores.
        visitor_trips: Trips among them by households of other regions; they will be dropped.
    """

    name: str
    source: Path
    households: int
    stores: int
    rows: int
    trips: int
    visitor_trips: int


@dataclass(frozen=True)
class PreparedScenario:
    """The scenario's files.

    Attributes:
        catalogue: The public catalogue.
        catalogue_digest: Its digest.
        n_items: Its number of items.
        regions: The regions, in order.
    """

    catalogue: Path
    catalogue_digest: str
    n_items: int
    regions: tuple[PreparedRegion, ...]

    @property
    def home_trip_share(self) -> float:
        """The share of all trips that households made in their home region."""
        trips = sum(region.trips for region in self.regions)
        return 1.0 - sum(region.visitor_trips for region in self.regions) / trips
