"""What the training core promises: what privacy adds to a step, and how far steps scale.

Ratios are measured alternately in this process, on one thread, as medians over turns of ratios
within a turn, in processor time (`benchmarks.steps.alternating`). Customers are made up, with 30
purchases each on average; d = 64.
"""

from __future__ import annotations

import torch

from benchmarks.results import Bar, Figure
from benchmarks.steps import against_opacus, against_plain, capacity, scaling

_PARTS = (against_plain, against_opacus, capacity, scaling)
BARS: tuple[Bar, ...] = tuple(bar for part in _PARTS for bar in part.BARS)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area on one core; takes some quarter of an hour."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured: dict[str, Figure] = {}
        for part in _PARTS:
            measured.update(part.measure())
        return measured
    finally:
        torch.set_num_threads(threads)
