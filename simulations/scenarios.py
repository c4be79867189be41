"""The scenarios a simulation can run: which regions, whose data, how customers choose."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import UsageError
from simulations.regions import (
    EvaluationWindows,
    PreparedScenario,
    evaluation_windows,
    prepare_retail5,
)
from simulations.synthetic import WINDOWS, prepare_synthetic3


class PrepareData(Protocol):
    """Writes a scenario's public catalogue and each region's store below a folder."""

    def __call__(self, out: Path, *, seed: int) -> PreparedScenario:
        """Prepares the data and says what was kept and left out."""


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        name: What the command line calls it.
        title: One line for people.
        federation: The federation's name; it begins every log's origin.
        jurisdictions: The country code of each region, in order; real data are not of these
            countries, the codes only show where a deployment states them.
        refusal_share: Share of customers who refuse training from the start.
        withdrawal_share: Share of customers who consent and withdraw during the run.
        quorum: The fewest regions an aggregate may be made of.
        planned_customers: The public planning size that hyper-parameters are derived from.
        windows: The temporal split.
        prepare: Makes the data.
    """

    name: str
    title: str
    federation: str
    jurisdictions: tuple[str, ...]
    refusal_share: float
    withdrawal_share: float
    quorum: int
    planned_customers: int
    windows: EvaluationWindows
    prepare: PrepareData


def _retail5(out: Path, *, seed: int) -> PreparedScenario:
    # The data are real and fixed: nothing in them depends on a seed.
    del seed
    return prepare_retail5(out)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="retail-5",
            title="2,469 real households of a grocery chain, in five regions by home store",
            federation="retail-5.example",
            jurisdictions=("DE", "FR", "IE", "NL", "SE"),
            refusal_share=0.06,
            withdrawal_share=0.03,
            quorum=3,
            planned_customers=2500,
            windows=evaluation_windows(),
            prepare=_retail5,
        ),
        Scenario(
            name="synthetic-3",
            title="600 made-up customers in three regions; small, for trials and CI",
            federation="synthetic-3.example",
            jurisdictions=("DE", "FR", "IE"),
            refusal_share=0.06,
            withdrawal_share=0.03,
            quorum=2,
            planned_customers=600,
            windows=WINDOWS,
            prepare=prepare_synthetic3,
        ),
    )
}


def find_scenario(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        UsageError: There is none; names the nearest and all there are.
    """
    if name in SCENARIOS:
        return SCENARIOS[name]
    near = difflib.get_close_matches(name, SCENARIOS, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"There is no scenario {name!r}.{guess}",
        remedy=f"Scenarios: {', '.join(SCENARIOS)}.",
    )
