"""How long it took until what happened was taken up: measured, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.canonical_json import JsonValue

LongArray = npt.NDArray[np.int64]

#: Events are to be taken up within so long, in seconds.
TARGET_S = 600
_QUANTILES = {"median_s": 0.5, "p95_s": 0.95, "max_s": 1.0}


@dataclass(frozen=True)
class Latency:
    """From the moment of an event to that of taking it up, over the rows of one look.

    Attributes:
        rows: How many rows were taken up.
        median_s: Half of them within so many seconds; None without rows.
        p95_s: 95 of 100 within so many.
        max_s: All of them within so many.
        late: How many took longer than `TARGET_S`.
    """

    rows: int = 0
    median_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None
    late: int = 0

    @classmethod
    def of(cls, happened_ms: LongArray, taken_ms: int) -> Latency:
        """Measures the rows of one look.

        Args:
            happened_ms: int64[n], when each event happened, milliseconds since the epoch. Clocks
                that are ahead of the region's do not make a latency negative.
            taken_ms: When they were taken up.
        """
        if not len(happened_ms):
            return cls()
        waited_s = np.maximum(taken_ms - happened_ms, 0) / 1000
        found = np.quantile(waited_s, list(_QUANTILES.values()), method="higher")
        median_s, p95_s, max_s = (float(each) for each in found)
        return cls(len(waited_s), median_s, p95_s, max_s, int((waited_s > TARGET_S).sum()))

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values: seconds as decimal strings."""
        seconds = {name: getattr(self, name) for name in _QUANTILES}
        return {
            "rows": self.rows,
            **{name: None if each is None else f"{each:.3f}" for name, each in seconds.items()},
            "late": self.late,
        }
