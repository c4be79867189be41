"""Who lives where in the scenarios that are made up, and from when to when they buy.

Nothing here needs what makes them up (`simulations.synthetic`, `simulations.insights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulations.prepared import EvaluationWindows

DAY_MS = 24 * 3600 * 1000
# 2024-01-01 and after, UTC.
SYNTHETIC_FROM_MS = 1_704_067_200_000
_TRAIN_DAYS, _TEST_DAYS = 300, 60
SYNTHETIC_DAYS = _TRAIN_DAYS + _TEST_DAYS

SYNTHETIC_WINDOWS = EvaluationWindows(
    train_from_ms=SYNTHETIC_FROM_MS,
    train_until_ms=SYNTHETIC_FROM_MS + _TRAIN_DAYS * DAY_MS,
    test_until_ms=SYNTHETIC_FROM_MS + SYNTHETIC_DAYS * DAY_MS,
)


@dataclass(frozen=True)
class MadeUp:
    """How many made-up customers live where, and how often they buy.

    Attributes:
        customers: How many there are in all.
        region_shares: The share of each region, region-1 and on; they add up to 1.
        mean_trips: How often a customer comes, on average.
    """

    customers: int
    region_shares: tuple[float, ...]
    mean_trips: int

    @classmethod
    def evenly(cls, n_regions: int, *, customers_each: int) -> MadeUp:
        """Regions of about one size, whose customers come a dozen times."""
        return cls(n_regions * customers_each, (1.0 / n_regions,) * n_regions, 12)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions' names; sorted they are in the same order."""
        digits = len(str(len(self.region_shares)))
        return tuple(f"region-{n:0{digits}d}" for n in range(1, len(self.region_shares) + 1))


#: What the scenario synthetic-3 is made of.
THREE = MadeUp(customers=600, region_shares=(0.5, 0.3, 0.2), mean_trips=40)

#: How many customers each region has: the last one is too small for most questions.
INSIGHT_REGIONS: Mapping[str, int] = {
    "region-1": 9_000,
    "region-2": 6_000,
    "region-3": 5_500,
    "region-4": 400,
}
#: How many days the year of the scenario insights-4 has, and when it begins: 2025-01-01, UTC.
YEAR_DAYS = 365
INSIGHT_FROM_MS = 1_735_689_600_000
#: A year is asked about; nothing is trained, so no weeks are kept back for a test.
INSIGHT_WINDOWS = EvaluationWindows(
    train_from_ms=INSIGHT_FROM_MS,
    train_until_ms=INSIGHT_FROM_MS + YEAR_DAYS * DAY_MS,
    test_until_ms=INSIGHT_FROM_MS + (YEAR_DAYS + 1) * DAY_MS,
)
