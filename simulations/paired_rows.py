"""Methods beside a reference, paired: the same customers and seeds are resampled for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulations.quality_table import REPLICATES, Bootstrap

FloatArray = npt.NDArray[np.float64]
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class PairedRow:
    """What a method reached.

    Attributes:
        method: Its name.
        mean: Over customers and seeds.
        ratio: To the reference's mean; NaN if that is 0.
        interval: The ratio's 95% interval; NaN if the reference is 0 in some resamples.
    """

    method: str
    mean: float
    ratio: float
    interval: tuple[float, float]

    def text(self) -> str:
        """The row in a line."""
        low, high = self.interval
        return f"{self.method:<34} {self.mean:.4f}  × {self.ratio:.3f} ({low:.3f} to {high:.3f})"


def paired_rows(
    values: Mapping[str, FloatArray], reference: str, *, replicates: int = REPLICATES
) -> list[PairedRow]:
    """Compares methods.

    Args:
        values: For each method float64[n_customers, seeds]; NaN for a customer without a value,
            who is one without a value by every method.
        reference: Which method the others are compared with.
        replicates: Bootstrap resamples.

    Raises:
        InputError: No customer has a value.
    """
    compared = values[reference]
    defined = ~np.isnan(compared).any(axis=1)
    bootstrap = Bootstrap(int(defined.sum()), compared.shape[1], replicates=replicates, seed=0)
    resampled = bootstrap.means(compared[defined])
    rows = []
    for method, own in values.items():
        mean, other = float(own[defined].mean()), float(compared[defined].mean())
        low = high = math.nan
        if (resampled > 0).all():
            low, high = np.percentile(bootstrap.means(own[defined]) / resampled, _INTERVAL)
        ratio = mean / other if other > 0 else math.nan
        rows.append(PairedRow(method, mean, ratio, (float(low), float(high))))
    return rows
