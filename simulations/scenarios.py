"""The scenarios a simulation can run: which regions, whose data, how customers choose."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

from common.errors import UsageError
from simulations.made_up_regions import (
    INSIGHT_REGIONS,
    INSIGHT_WINDOWS,
    SYNTHETIC_WINDOWS,
    THREE,
    MadeUp,
)
from simulations.prepared import EvaluationWindows, PreparedScenario
from simulations.retail_weeks import (
    TRAIN_CUT_WEEK,
    TUNING_CUT_WEEK,
    TUNING_WINDOWS,
    evaluation_windows,
    weeks_after,
)


class PrepareData(Protocol):
    """Writes a scenario's public catalogue and each region's store below a folder."""

    def __call__(self, out: Path, *, seed: int) -> PreparedScenario:
        """Prepares the data and says what was kept and left out."""


@dataclass(frozen=True)
class EarlierCut:
    """An earlier temporal split, on which what is served is measured beside the study's own.

    Attributes:
        windows: The split.
        weeks: Its test weeks, for people.
        judged: Likewise, the test weeks of the scenario itself.
        note: What part either had in choosing the constants; for people.
    """

    windows: EvaluationWindows
    weeks: str
    judged: str
    note: str


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
        witness_quorum: How many other parties must cosign a checkpoint for it to count.
        planned_customers: The public planning size that hyper-parameters are derived from.
        windows: The temporal split.
        prepare: Makes the data.
        earlier: An earlier split, if the data have one.
    """

    name: str
    title: str
    federation: str
    jurisdictions: tuple[str, ...]
    refusal_share: float
    withdrawal_share: float
    quorum: int
    witness_quorum: int
    planned_customers: int
    windows: EvaluationWindows
    prepare: PrepareData
    earlier: EarlierCut | None = None


# What makes the data is imported when they are made: whoever asks which there are need not wait.
def _retail5(out: Path, *, seed: int) -> PreparedScenario:
    # The data are real and fixed: nothing in them depends on a seed.
    del seed
    from simulations.regions import prepare_retail5

    return prepare_retail5(out)


def _synthetic(out: Path, *, seed: int, made_up: MadeUp) -> PreparedScenario:
    from simulations.synthetic import prepare_synthetic

    return prepare_synthetic(out, seed=seed, made_up=made_up)


def _insights(out: Path, *, seed: int) -> PreparedScenario:
    from simulations.insights import prepare_insights

    return prepare_insights(out, seed=seed)


_EXPOSURE = (
    "Neither period is an untouched test. The constants were chosen by the figures of the earlier "
    "weeks and of two periods before them; those of the later weeks were seen meanwhile. The later "
    "weeks hold the end-of-year season, in which recent purchases tell more than usual."
)
# Where made-up regions are said to be, in turn.
_COUNTRIES = ("AT", "BE", "CZ", "DE", "DK", "ES", "FI", "FR", "IE", "IT", "NL", "PL", "PT", "SE")


def many_regions(n_regions: int, *, customers_each: int) -> Scenario:
    """A scenario of any number of small made-up regions: for what grows with their number.

    Args:
        n_regions: How many.
        customers_each: About how many customers each has.
    """
    made_up = MadeUp.evenly(n_regions, customers_each=customers_each)
    name = f"synthetic-{n_regions}"
    return Scenario(
        name=name,
        title=f"{made_up.customers:,} made-up customers in {n_regions} regions; for scale",
        federation=f"{name}.example",
        jurisdictions=tuple(islice(cycle(_COUNTRIES), n_regions)),
        refusal_share=0.06,
        withdrawal_share=0.03,
        quorum=max(1, 2 * n_regions // 3),
        witness_quorum=min(3, n_regions),
        planned_customers=made_up.customers,
        windows=SYNTHETIC_WINDOWS,
        prepare=partial(_synthetic, made_up=made_up),
    )


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
            witness_quorum=3,
            planned_customers=2500,
            windows=evaluation_windows(),
            prepare=_retail5,
            earlier=EarlierCut(
                windows=TUNING_WINDOWS,
                weeks=weeks_after(TUNING_CUT_WEEK),
                judged=weeks_after(TRAIN_CUT_WEEK),
                note=_EXPOSURE,
            ),
        ),
        Scenario(
            name="synthetic-3",
            title="600 made-up customers in three regions; small, for trials and CI",
            federation="synthetic-3.example",
            jurisdictions=("DE", "FR", "IE"),
            refusal_share=0.06,
            withdrawal_share=0.03,
            quorum=2,
            witness_quorum=2,
            planned_customers=THREE.customers,
            windows=SYNTHETIC_WINDOWS,
            prepare=partial(_synthetic, made_up=THREE),
        ),
        Scenario(
            name="insights-4",
            title="20,900 made-up customers with every table, in four regions, one of them small",
            federation="insights-4.example",
            jurisdictions=("DE", "FR", "IE", "NL"),
            refusal_share=0.06,
            withdrawal_share=0.03,
            quorum=3,
            witness_quorum=3,
            planned_customers=sum(INSIGHT_REGIONS.values()),
            windows=INSIGHT_WINDOWS,
            prepare=_insights,
        ),
        many_regions(64, customers_each=25),
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
