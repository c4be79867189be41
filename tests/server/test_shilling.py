"""One hostile region of eight pushes an item: what each rule makes of it."""

from __future__ import annotations

from functools import cache
from statistics import fmean

import pytest

from common.aggregation_rules import RuleName
from simulations.attack_demos.market import ATTACKS, Attack, Market, by_rule

SEEDS = ("0", "1", "2")
#: The bar: at most so many times the exposure without an attack.
BAR = 2.0


@cache
def market(rule: RuleName) -> Market:
    return Market.of(n_customers=4000, rule=rule, tolerated=0 if rule == "sum" else 1)


def exposure(rule: RuleName, attack: Attack | None) -> float:
    return fmean(market(rule).exposure(by_rule(rule), attack, seed=seed) for seed in SEEDS)


def test_under_the_sum_everyone_sees_the_item() -> None:
    clean = exposure("sum", None)
    assert 0.02 < clean < 0.15
    assert exposure("sum", "loud") > 0.8
    # Not even an update of honest size and noise is withstood.
    assert exposure("sum", "quiet") > BAR * clean


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_median_and_trimmed_mean_withstand_every_attack(rule: RuleName) -> None:
    clean = exposure(rule, None)
    assert clean > 0.02
    for attack in ATTACKS:
        assert exposure(rule, attack) <= BAR * clean, attack


def test_krum_withstands_what_lies_apart_but_not_a_region_without_noise() -> None:
    """Why `unguarded` warns of Krum where noise outweighs what regions have to say."""
    clean = exposure("krum", None)
    for attack in ("loud", "quiet"):
        assert exposure("krum", attack) <= BAR * clean, attack
    assert exposure("krum", "noiseless") > 0.8
