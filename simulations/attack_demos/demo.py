"""What a demonstration is: one attack, on stock Flower and on this system, and its spoils."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.aggregation_rules import NoiseMode, RuleName
from common.errors import UsageError
from simulations.attack_demos.users import let_pass
from simulations.faults.federation import Federation, provision_slice
from simulations.federate import federate
from simulations.provision import open_regions
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario

#: Fewer regions cannot show every attack: of three, each region's shares are needed to open a sum.
LEAST_REGIONS = 4
# Nobody is to be lost on a slow machine: what is shown is not about time.
_ROUND_TIMEOUT_S = 600
# One of each mechanism.
_WARM_ROUNDS = 2

#: Provisions a federation in a folder that is not there yet.
Provision = Callable[[Path, RuleName, NoiseMode], Federation]


@dataclass(frozen=True)
class Spoils:
    """What an attacker has in the end.

    Attributes:
        won: Whether it is what the attack was for.
        what: In one line, with the reason by which it was refused if it was.
        figures: The same as names and values, for machines.
    """

    won: bool
    what: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Demo:
    """One attack.

    Attributes:
        name: What it is called on the command line.
        title: What is done, in a few words.
        baseline: Against which code of Flower's.
        defence: What it meets here.
        on_flower: Carries it out against Flower.
        on_ours: Carries it out against this system.
    """

    name: str
    title: str
    baseline: str
    defence: str
    on_flower: Callable[[Setting], Spoils]
    on_ours: Callable[[Setting], Spoils]


@dataclass
class Setting:
    """What attacks are carried out on.

    Attributes:
        work: A folder of their own; its path is short, for sockets.
        seed: What made-up data, the attackers' choices and all noise are drawn from.
        provision: Provisions a federation.
        market_customers: How many made-up customers there are in the shilling market.
        market_seeds: Over how many seeds of noise exposure is measured.
    """

    work: Path
    seed: int
    provision: Provision
    market_customers: int = 4000
    market_seeds: int = 4
    _made: dict[tuple[RuleName, NoiseMode], Federation] = field(default_factory=dict)
    _copies: int = 0

    def __post_init__(self) -> None:
        let_pass(self.work)

    def federation(self, rule: RuleName = "sum", mode: NoiseMode = "local") -> Federation:
        """A provisioned federation of this rule, a copy for this caller alone."""
        if (rule, mode) not in self._made:
            made = self.provision(self.work / f"{rule}-{mode}", rule, mode)
            self._made[rule, mode] = made
            _warm_up(self._copy(made))
        return self._copy(self._made[rule, mode])

    def new_folder(self) -> Path:
        """A folder for this caller alone, not there yet."""
        self._copies += 1
        return self.work / f"own-{self._copies}"

    def _copy(self, made: Federation) -> Federation:
        folder = RunFolder(self.new_folder())
        shutil.copytree(made.folder.root, folder.root, symlinks=True)
        return replace(made, folder=folder)


def _warm_up(federation: Federation) -> None:
    """Some rounds in this process: what it imports and works out, every forked one then has."""
    with open_regions(federation.folder, federation.set_ups) as regions:
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", federation.folder, federation.plan, channels, last_round=_WARM_ROUNDS)
    shutil.rmtree(federation.folder.root)


def slice_of(scenario: Scenario, seed: int) -> Provision:
    """Provisions slices of a scenario's data, all of whose customers consent.

    Args:
        scenario: The scenario.
        seed: What made-up data are drawn from.

    Raises:
        UsageError: It has too few regions.
    """
    if len(scenario.jurisdictions) < LEAST_REGIONS:
        raise UsageError(
            f"Attacks are shown on {LEAST_REGIONS} regions or more; {scenario.name} has "
            f"{len(scenario.jurisdictions)}.",
            remedy="Take retail-5.",
        )
    willing = replace(scenario, refusal_share=0.0, withdrawal_share=0.0)
    return lambda root, rule, mode: provision_slice(
        willing, root, seed=seed, rule=rule, mode=mode, round_timeout_s=_ROUND_TIMEOUT_S
    )
