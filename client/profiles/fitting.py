"""What customers are compared with: cuts, models of lifetime value and groups, of the region's own.

They say something exact about the region's customers, so they stay with the operator: what a
customer is told is her own place among them, and never a number of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from client.profiles.clusters import Groups
from client.profiles.columns import YEAR_DAYS, Models, buying_history, rfm_points
from client.profiles.lifetime import BuyingModel, SpendingModel
from client.profiles.rfm import Cuts
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]

#: The numbers about customers that models are fitted to.
NEEDED = (
    "days_since_purchase", "customer_for_days", "purchase_days", "purchase_days_365", "spend_365",
    "spend_per_day",
)  # fmt: skip
#: So many customers at most decide the parameters of spending; by pseudonym, which is at random.
SAMPLE = 50_000


def fit_models(
    values: Mapping[str, FloatArray], *, groups: int, cuts: Cuts | None = None
) -> Models:
    """Fits everything that customers are compared with.

    Args:
        values: `NEEDED` of all customers, in the order of their pseudonyms.
        groups: How many groups to look for.
        cuts: Cuts from outside; the region's own quantiles without, and for what they lack.

    Returns:
        What could be fitted: of too few customers there is no lifetime value and there are no
        groups.
    """
    bought = {name: each[np.isfinite(values["purchase_days"])] for name, each in values.items()}
    own = _cuts(bought)
    return Models(
        cuts=own if cuts is None else cuts.with_own(own),
        buying=_buying(bought),
        spending=_spending(bought),
        groups=Groups.of_customers(rfm_points(bought), groups),
    )


def joined(parts: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """`NEEDED` of all parts' customers; what a part does not know is NaN."""
    return {
        name: np.concatenate(
            [np.zeros(0), *(part.get(name, np.full(_rows(part), np.nan)) for part in parts)]
        )
        for name in NEEDED
    }


def _rows(part: Mapping[str, FloatArray]) -> int:
    return len(part["purchase_days"])


def _cuts(values: Mapping[str, FloatArray]) -> Cuts:
    lately = values["days_since_purchase"] <= YEAR_DAYS
    monetary = values["spend_365"][lately]
    return Cuts.of_customers(
        values["days_since_purchase"][lately],
        values["purchase_days_365"][lately],
        monetary if np.isfinite(monetary).any() else None,
    )


def _buying(values: Mapping[str, FloatArray]) -> BuyingModel | None:
    histories = np.column_stack(buying_history(values))
    # Many are alike in weeks: the likelihood of each history is computed once.
    alike, counts = np.unique(histories, axis=0, return_counts=True)
    try:
        return BuyingModel.fit(alike[:, 0], alike[:, 1], alike[:, 2], counts.astype(np.float64))
    except InputError:
        return None


def _spending(values: Mapping[str, FloatArray]) -> SpendingModel | None:
    mean, days = values["spend_per_day"], values["purchase_days"]
    # What somebody paid once says little of her mean; the model is fitted to repeat buyers.
    known = np.flatnonzero((days > 1) & (mean > 0))[:SAMPLE]
    try:
        return SpendingModel.fit(days[known], mean[known])
    except InputError:
        return None
