"""``[clusters]`` in a file of questions: into which groups customers are to fall, and by what.

For people (TOML)::

    [clusters]
    steps = 4
    start = [[7, 40], [7, 3], [90, 3]]

    [[clusters.coordinate]]
    measure = "recency"

    [[clusters.coordinate]]
    measure = "frequency"
    most = 60
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.analytics.clusters import MOST_CLUSTERS, MOST_COORDINATES, MOST_STEPS
from common.analytics.grouping import CLUSTERS_SAID, STEPS_SAID, Axis, Grouping

Number = Annotated[float | int, Field(ge=0, le=1e9)]
# Lists stand for tuples where people write.
Centre = Annotated[tuple[Number, ...], Field(strict=False, max_length=MOST_COORDINATES)]


class CoordinateTable(BaseModel):
    """One coordinate.

    Attributes:
        measure: What is measured, one of `common.analytics.coordinates.MEASURES`.
        category: The category that purchases are a share of, for the measure ``category``.
        least: Numbers below count as this.
        most: Numbers above count as this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    measure: Annotated[str, Field(min_length=1, max_length=64)]
    category: Annotated[str, Field(max_length=256)] = ""
    least: Number | None = None
    most: Number | None = None


class ClustersTable(BaseModel):
    """``[clusters]``.

    Attributes:
        clusters: How many clusters, where no start is given.
        steps: How many steps of k-means; each is a round.
        start: The public centres that the first step begins with, in the coordinates' numbers.
        coordinate: What a customer is compared by; without any by recency, frequency and variety.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    clusters: Annotated[int, Field(ge=2, le=MOST_CLUSTERS)] = CLUSTERS_SAID
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = STEPS_SAID
    start: Annotated[tuple[Centre, ...], Field(strict=False, max_length=MOST_CLUSTERS)] = ()
    coordinate: Annotated[
        tuple[CoordinateTable, ...], Field(strict=False, max_length=MOST_COORDINATES)
    ] = ()

    @model_validator(mode="after")
    def _said_once(self) -> ClustersTable:
        if self.start and "clusters" in self.model_fields_set:
            raise ValueError("a start says how many clusters there are: leave clusters out")
        if len(self.start) == 1:
            raise ValueError("one cluster is none")
        return self

    def grouping(self) -> Grouping:
        """What is said."""
        axes = tuple(Axis(**each.model_dump()) for each in self.coordinate)
        start = tuple(tuple(map(float, row)) for row in self.start)
        usual = Grouping()
        return Grouping(axes or usual.axes, self.clusters, self.steps, start)
