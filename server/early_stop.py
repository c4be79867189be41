"""When a run ends before its last round: by what its rounds released, and by nothing else.

A round's signal is defined in `common.plan.EarlyStop`: the cosine between the location of the
regions' changes in this round and in the one before. It is the diagnostic of Pflug ("Non-asymptotic
confidence bounds for stochastic approximation algorithms with constant step size", 1990; Chee and
Toulis, "Convergence diagnostics for stochastic gradient descent", 2018): while training moves
somewhere, successive changes agree; when only noise is left, they are orthogonal.

The earlier change is kept with the optimiser's state, so that a resumed run goes on from the same
numbers. Each signal is logged with its round, and the log decides: whoever reads it comes to the
same end (`common.audit.verify`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from common.errors import FormatError
from common.plan import EarlyStop, RunPlan
from common.strategies import change_of
from server.aggregation import Model
from server.round_total import RoundTotal

Arrays = Mapping[str, npt.NDArray[np.generic]]

_LAST = "last/"


def signal_of(server_round: int, total: RoundTotal, plan: RunPlan, state: Arrays) -> str | None:
    """A round's signal as its log entry states it; None where there is none.

    Args:
        server_round: The round.
        total: What the regions' changes come to.
        plan: The run plan.
        state: The coordinator's state before the round.

    Returns:
        Six decimals; None in the popularity round, in the first round of training, and for a plan
        that does not end early.

    Raises:
        FormatError: The state is not this plan's.
    """
    if plan.early_stop is None or server_round <= 2:
        return None
    product = before = now = 0.0
    for spec in plan.parameter_arrays():
        name = _LAST + spec.name
        if name not in state or state[name].shape != spec.shape:
            raise FormatError(f"The state has no change of {spec.name} of the round before.")
        last = state[name].reshape(-1)
        for place, piece in total.chunks(change_of(spec.name)):
            earlier = last[place].astype(np.float64)
            product += float(piece @ earlier)
            now += float(piece @ piece)
            before += float(earlier @ earlier)
    length = math.sqrt(now) * math.sqrt(before)
    return f"{min(max(product / length, 0.0), 1.0):.6f}" if length > 0 else f"{0:.6f}"


def kept_change(server_round: int, total: RoundTotal, plan: RunPlan) -> Model:
    """What the next round's signal needs of this one, by name, as float32: the mean change."""
    if plan.early_stop is None or server_round < 2:
        return {}
    kept: Model = {}
    for spec in plan.parameter_arrays():
        flat = np.empty(math.prod(spec.shape), np.float32)
        for place, piece in total.chunks(change_of(spec.name)):
            flat[place] = piece / total.n_regions
        kept[_LAST + spec.name] = flat.reshape(spec.shape)
    return kept


def ends(rule: EarlyStop | None, signals: Sequence[str | None]) -> bool:
    """Whether a run ends after rounds with these signals, as they are logged.

    Args:
        rule: The plan's rule; None never ends a run.
        signals: Of every round so far, in order.
    """
    if rule is None or len(signals) < rule.patience_rounds:
        return False
    least = Decimal(rule.least_signal)
    last = signals[-rule.patience_rounds :]
    return all(each is not None and Decimal(each) < least for each in last)
