"""How customers are to be grouped by k-means: what whoever makes a plan says of it.

All of it is public, and all of it ends up in the plan as one question (`Clusters`): what a point is
made of, between which bounds, where the first step begins, and how many steps there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from common.analytics.clusters import Clusters
from common.analytics.coordinates import (
    FREQUENCY,
    RECENCY,
    VARIETY,
    Coordinate,
    default_bounds,
    spread_points,
)
from common.analytics.estimates import FloatArray
from common.analytics.purchase_questions import CLUSTERS, cluster_question
from common.errors import InputError

#: So many clusters and steps unless something else is said.
CLUSTERS_SAID, STEPS_SAID = 5, 4


@dataclass(frozen=True)
class Axis:
    """One coordinate that is asked for.

    Attributes:
        measure: What is measured, one of `common.analytics.coordinates.MEASURES`.
        category: The category that purchases are a share of; for the measure ``category`` only.
        least: The number that is −1; the measure's usual one if None.
        most: The number that is 1; likewise.
    """

    measure: str
    category: str = ""
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Grouping:
    """What is said of clusters.

    Attributes:
        axes: What points are made of.
        clusters: How many clusters there are, where no start is given.
        steps: How many steps.
        start: The centres that the first step begins with, in the numbers of the axes; empty for
            points that are spread (`spread_points`).
    """

    axes: tuple[Axis, ...] = (Axis(RECENCY), Axis(FREQUENCY), Axis(VARIETY))
    clusters: int = CLUSTERS_SAID
    steps: int = STEPS_SAID
    start: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def question(self, *, days: int, categories: int) -> Clusters:
        """The question.

        Args:
            days: How long the window is.
            categories: How many categories the public catalogue has.

        Raises:
            InputError: A bound, the start or a number is out of range; names it.
        """
        coordinates = tuple(_coordinate(each, days, categories) for each in self.axes)
        return cluster_question(coordinates, self._centres(coordinates), steps=self.steps)

    def _centres(self, coordinates: tuple[Coordinate, ...]) -> FloatArray:
        if not self.start:
            return spread_points(self.clusters, len(coordinates))
        for row in self.start:
            if len(row) != len(coordinates) or not all(map(math.isfinite, row)):
                raise InputError(
                    f"{CLUSTERS}: a centre of the start has not {len(coordinates)} numbers.",
                    remedy="Give each centre one number for each coordinate, in their order.",
                )
        numbers = np.array(self.start, dtype=np.float64)
        return np.column_stack([each.place(numbers[:, n]) for n, each in enumerate(coordinates)])


def _coordinate(axis: Axis, days: int, categories: int) -> Coordinate:
    least, most, spacing = default_bounds(axis.measure, days=days, categories=categories)
    usual = Coordinate(axis.measure, least, most, spacing, axis.category)
    return replace(
        usual,
        least=usual.least if axis.least is None else axis.least,
        most=usual.most if axis.most is None else axis.most,
    )
