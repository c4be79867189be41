"""A small federation of four regions, and every attack on it carried out at most once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.aggregation_rules import NoiseMode, RuleName
from simulations.attack_demos.demo import Setting
from simulations.attack_demos.table import DEMOS, Shown, carry_out
from simulations.customers import CustomerChoices
from simulations.faults.federation import Federation
from tests.support.small_federation import make_federation, small_scenario

REGIONS, CUSTOMERS, SEED = 4, 20, 1


def provision(root: Path, rule: RuleName, mode: NoiseMode) -> Federation:
    folder, plan, set_ups = make_federation(
        root,
        regions=REGIONS,
        customers=CUSTOMERS,
        choose=lambda _: CustomerChoices(frozenset(), {}),
        rule=rule,
        mode=mode,
        honest_survivors_min=3 if mode == "distributed" else 0,
    )
    scenario = small_scenario(REGIONS, CUSTOMERS)
    return Federation(folder, scenario, plan, plan, tuple(set_ups), SEED, (CUSTOMERS,) * REGIONS)


@pytest.fixture(scope="session")
def setting() -> Iterator[Setting]:
    # Not below pytest's folder: other users must be able to pass through.
    with tempfile.TemporaryDirectory(prefix="fedpref-a") as work:
        yield Setting(Path(work), SEED, provision, market_seeds=2)


@pytest.fixture(scope="session")
def shown(setting: Setting) -> Callable[[str], Shown]:
    done: dict[str, Shown] = {}

    def carried_out(name: str) -> Shown:
        if name not in done:
            (demo,) = (each for each in DEMOS if each.name == name)
            (done[name],) = carry_out([demo], setting)
        return done[name]

    return carried_out
