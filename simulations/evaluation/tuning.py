"""What an evaluation chooses by itself: λ of EASE, on a split of what is learnt from.

EASE is what others are held against, so it must not look worse than it is. It has no privacy to
lose: the choice is charged to nobody, and is no suggestion for a plan. Nothing of this system's own
is chosen here.
"""

from __future__ import annotations

import numpy as np

from client.training.evaluation import Protocol
from client.training.personalisation import bought
from common.metrics import ndcg_at_k
from simulations import baselines
from simulations.ease import EASE_L2, Ease
from simulations.evaluation.contenders import EASE_ITEMS
from simulations.evaluation.protocols import Fold

L2_TRIED = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
_PLACES = 10


def chosen_l2(fold: Fold) -> float:
    """λ with the best NDCG@10 of new items on the fold's tuning split; the usual one without it.

    Args:
        fold: The fold; only its `tuning` is looked at.
    """
    tuning = fold.tuning
    if tuning is None:
        return EASE_L2
    train = baselines.pool(list(tuning.train.values()))
    histories = baselines.pool(list(tuning.histories.values()))
    relevant = tuning.relevant(Protocol.NEW)
    if not train.n_customers or not relevant.sizes.sum():
        return EASE_L2
    popularity = baselines.popularity(train)
    items = np.sort(np.argsort(-popularity, kind="stable")[:EASE_ITEMS])
    seen = bought(histories)
    reached = {
        l2: float(
            np.nanmean(
                ndcg_at_k(
                    Ease.fit(train, items, l2=l2).rank(histories, _PLACES, excluded=seen),
                    relevant,
                    _PLACES,
                )
            )
        )
        for l2 in L2_TRIED
    }
    return max(reached, key=lambda l2: reached[l2])
