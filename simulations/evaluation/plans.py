"""The plans that an evaluation trains: the defaults of each strategy, mode and ε.

They follow from public numbers alone, as those of a deployment do. Nothing here looks at purchases.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

from common.aggregation_rules import NOISE_MODES, SECURE_SUM_QUORUM, NoiseMode
from common.errors import UsageError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.strategies import AUTO, SUMS, StrategyChoice, StrategyName
from common.timestamps import format_time
from simulations.evaluation.data import EvaluationData
from simulations.evaluation.protocols import Split

LOCAL: NoiseMode = "local"
DISTRIBUTED: NoiseMode = "distributed"
ALL: Final = "all"


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        strategy: How; ``auto`` for what the rule chose for the plan.
        mode: Whose noise protects.
        epsilon: ε of the plan, a decimal string.
        plan: The default plan for it.
    """

    strategy: StrategyChoice
    mode: NoiseMode
    epsilon: str
    plan: RunPlan

    @property
    def key(self) -> str:
        """The setting's name in tables and files."""
        return f"{self.strategy}/{self.mode}/{self.epsilon}"

    @property
    def title(self) -> str:
        """For people."""
        name = f"auto ({self.plan.strategy})" if self.strategy == AUTO else self.strategy
        return f"{name}, {self.mode} noise, ε = {self.epsilon}"


@dataclass(frozen=True)
class Omission:
    """What is asked for and not measured.

    Attributes:
        what: A method or a setting.
        why: Why not, as a clause.
    """

    what: str
    why: str


def settings_of(
    data: EvaluationData,
    split: Split,
    *,
    strategies: Sequence[StrategyChoice],
    modes: Sequence[NoiseMode],
    epsilons: Sequence[str],
    delta: str,
) -> tuple[list[Setting], list[Omission]]:
    """All combinations that there is a plan for, in the order asked for; and those there is not.

    Raises:
        InputError: ε or δ is out of range.
    """
    settings: list[Setting] = []
    omitted: dict[str, Omission] = {}
    for strategy, mode, epsilon in itertools.product(strategies, modes, epsilons):
        name = f"{strategy}, {mode} noise"
        why = _why_not(strategy, mode, len(data.regions))
        if why is not None:
            omitted.setdefault(name, Omission(name, why))
            continue
        plan = plan_of(data, split, strategy=strategy, mode=mode, epsilon=epsilon, delta=delta)
        settings.append(Setting(strategy, mode, epsilon, plan))
    return settings, list(omitted.values())


def _why_not(strategy: StrategyChoice, mode: NoiseMode, n_regions: int) -> str | None:
    """Why there is no plan for a combination; None if there is one."""
    if mode == LOCAL:
        return None
    if strategy not in (*SUMS, AUTO):
        return f"distributed noise is for sums over all customers: {' and '.join(SUMS)}"
    if n_regions < SECURE_SUM_QUORUM:
        return f"a secure sum needs {SECURE_SUM_QUORUM} regions"
    return None


def plan_of(
    data: EvaluationData,
    split: Split,
    *,
    strategy: StrategyChoice,
    mode: NoiseMode,
    epsilon: str,
    delta: str,
) -> RunPlan:
    """The default plan of a federation of the data's regions.

    Raises:
        InputError: A value is out of range, or the strategy is not for this mode.
    """
    count, windows = len(data.regions), data.windows
    until = windows.train_until_ms if split is Split.TEMPORAL else windows.test_until_ms
    distributed = mode == DISTRIBUTED
    return default_plan(
        run_id="evaluation",
        federation="evaluation",
        scenario="evaluation",
        regions=[region.name for region in data.regions],
        quorum=count,
        catalogue=data.catalogue.digest,
        n_items=data.catalogue.n_items,
        train_from=format_time(windows.train_from_ms),
        train_until=format_time(until),
        epsilon=epsilon,
        delta=delta,
        planned_customers=data.planned_customers,
        strategy=strategy,
        mode=mode,
        rule="secure-sum" if distributed else "sum",
        honest_survivors_min=count if distributed else 0,
    )


def require_modes(modes: Sequence[str]) -> list[NoiseMode]:
    """The modes of these names.

    Raises:
        UsageError: There is no such mode.
    """
    known: dict[str, NoiseMode] = {mode: mode for mode in NOISE_MODES}
    for mode in modes:
        if mode not in known:
            raise UsageError(f"There is no mode {mode!r}.", remedy=f"Modes: {', '.join(known)}.")
    return [known[mode] for mode in modes]


def require_strategies(names: Sequence[str]) -> tuple[StrategyChoice, ...]:
    """The strategies of these names; ``all`` stands for every one of them.

    Raises:
        UsageError: There is no such strategy, or one is named twice.
    """
    every: tuple[StrategyChoice, ...] = get_args(StrategyName)
    known: dict[str, StrategyChoice] = {**{each: each for each in every}, AUTO: AUTO}
    if list(names) == [ALL]:
        return every
    for name in names:
        if name not in known or names.count(name) > 1:
            raise UsageError(
                f"{name!r} is no strategy, or is named twice.",
                remedy=f"Strategies: {', '.join(known)}, or {ALL}.",
            )
    return tuple(known[name] for name in names)
