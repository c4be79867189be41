"""Who is served better and who worse: by region, by activity, and by consent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulations.customers import draw_choices
from simulations.evaluation.data import EvaluationData
from simulations.evaluation.protocols import Fold

BoolArray = npt.NDArray[np.bool_]

REGION, ACTIVITY = "region", "activity"
#: Terciles of the number of distinct items in the history.
ACTIVITIES = ("fewest items", "middle", "most items")


@dataclass(frozen=True, eq=False)
class Customers:
    """The customers who are asked, of all folds in order, and region after region.

    Attributes:
        regions: The region of each.
        sids: The pseudonym of each.
        history_sizes: int64[n], how many distinct items each has in the history.
    """

    regions: npt.NDArray[np.str_] = field(repr=False)
    sids: tuple[str, ...] = field(repr=False)
    history_sizes: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, folds: Sequence[Fold]) -> Customers:
        """The customers of folds."""
        histories = [(region, each) for fold in folds for region, each in fold.histories.items()]
        return cls(
            np.array([region for region, each in histories for _ in each.sids], dtype=np.str_),
            tuple(sid for _, each in histories for sid in each.sids),
            np.concatenate([np.diff(each.indptr) for _, each in histories]),
        )

    def segments(self) -> dict[tuple[str, str], BoolArray]:
        """Segmentation and segment → bool[n], who is in it."""
        found = {
            (REGION, str(region)): self.regions == region for region in dict.fromkeys(self.regions)
        }
        for name, members in zip(ACTIVITIES, self._terciles(), strict=True):
            found[ACTIVITY, name] = members
        return found

    def among(self, sids: frozenset[str]) -> BoolArray:
        """bool[n]: who is one of these."""
        return np.array([sid in sids for sid in self.sids], dtype=bool)

    def _terciles(self) -> tuple[BoolArray, BoolArray, BoolArray]:
        """As equal as ties allow; customers with as many items are in one tercile."""
        low, high = np.quantile(self.history_sizes, [1 / 3, 2 / 3])
        few, many = self.history_sizes <= low, self.history_sizes > high
        return few, ~few & ~many, many


def refusing(
    data: EvaluationData, fold: Fold, share: float, seed: int
) -> dict[str, frozenset[str]]:
    """For each region the pseudonyms of customers who refuse training, drawn from a seed.

    Args:
        data: The data.
        fold: A fold; those who refuse are of its customers in training.
        share: Which share of them, within [0, 1].
        seed: Of the draw.
    """
    refused: Mapping[str, frozenset[str]] = {
        region.name: draw_choices(
            fold.train[region.name].sids,
            refusal_share=share,
            withdrawal_share=0.0,
            rounds=1,
            seed=(seed, number),
        ).refusing
        for number, region in enumerate(data.regions)
    }
    return dict(refused)
