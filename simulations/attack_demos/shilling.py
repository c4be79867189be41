"""One hostile region of eight pushes an item into everybody's ten best.

Flower's FedAvg takes the mean of what it is sent. Robust rules give a location that one of eight
cannot move far. The hostile region tries updates as loud as validation here would let pass, as
quiet as an honest one, and without noise; each side is shown with the one that helps it most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

from common.aggregation_rules import RuleName
from server.round_total import RoundTotal, WholeTotal
from simulations.attack_demos.demo import Demo, Setting, Spoils
from simulations.attack_demos.market import ATTACKS, Attack, Combine, Market, Release, by_rule
from simulations.attack_demos.stock_flower import fedavg, reply_content

#: The bar: at most so many times the exposure without an attack.
MOST_TIMES = 2.0
#: The rules that withstand all three; why Krum does not is in decision 26.
RULES: tuple[RuleName, ...] = ("median", "trimmed-mean")


def on_flower(setting: Setting) -> Spoils:
    """Against FedAvg."""
    market = _market(setting.market_customers, setting.seed)
    clean, pushed = _exposures(market, averaged, setting)
    worst = max(pushed.values())
    return Spoils(
        worst > MOST_TIMES * clean,
        f"{worst:.0%} of all customers see the item among their ten best; {clean:.0%} without the "
        "attack",
        {"clean": clean, "attacked": worst, "regions": len(market.regions)},
    )


def on_ours(setting: Setting) -> Spoils:
    """Against median and trimmed mean."""
    figures: dict[str, Any] = {}
    parts, won = [], False
    for rule in RULES:
        # The plan of such a run: under a robust rule it has sizes of its own.
        market = _market(setting.market_customers, setting.seed, rule)
        figures["regions"] = len(market.regions)
        clean, pushed = _exposures(market, by_rule(rule), setting)
        worst = max(pushed.values())
        won = won or worst > MOST_TIMES * clean
        parts.append(f"{worst:.1%} under {rule}, {clean:.1%} without the attack")
        figures[rule] = {"clean": clean, "attacked": worst}
    return Spoils(won, "; ".join(parts), figures)


def averaged(releases: Sequence[Release]) -> RoundTotal:
    """What Flower's FedAvg makes of releases, as the total of so many regions."""
    mean = fedavg([reply_content(each) for each in releases], server_round=1)
    return WholeTotal.of([mean] * len(releases))


def _exposures(
    market: Market, combine: Combine, setting: Setting
) -> tuple[float, dict[str, float]]:
    """Exposure without an attack, and by each attack; means over seeds of noise."""
    seeds = [f"{setting.seed}/{number}" for number in range(setting.market_seeds)]

    def exposure(attack: Attack | None) -> float:
        return fmean(market.exposure(combine, attack, seed=seed) for seed in seeds)

    return exposure(None), {attack: exposure(attack) for attack in ATTACKS}


@lru_cache(maxsize=3)
def _market(customers: int, seed: int, rule: RuleName = "sum") -> Market:
    tolerated = 0 if rule == "sum" else 1
    return Market.of(n_customers=customers, seed=seed, rule=rule, tolerated=tolerated)


DEMO = Demo(
    name="shilling",
    title="one hostile region of eight pushes an item",
    baseline="FedAvg",
    defence="median, trimmed mean",
    on_flower=on_flower,
    on_ours=on_ours,
)
