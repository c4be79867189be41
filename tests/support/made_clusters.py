"""Questions of clusters for tests: any centres, over as many coordinates as they have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.analytics.clusters import Clusters
from common.analytics.coordinates import Coordinate

COORDINATES = (
    Coordinate("recency", 0.0, 365.0),
    Coordinate("frequency", 1.0, 92.0),
    Coordinate("weekend", 0.0, 100.0, "linear"),
    Coordinate("category", 0.0, 50.0, "linear", "category-0"),
)


def made_clusters(name: str, centres: npt.ArrayLike, *, steps: int = 1, first: int = 0) -> Clusters:
    """A question with such centres.

    Args:
        name: What is asked.
        centres: [clusters, dimensions].
        steps: How many steps.
        first: Which coordinate is the first.
    """
    points = np.asarray(centres, dtype=np.float64)
    dimensions = points.shape[-1] if points.ndim else 0
    return Clusters(name, COORDINATES[first : first + dimensions], points, steps)
