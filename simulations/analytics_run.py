"""A run of questions over a simulated federation: asked, answered, bundled, verified.

The apps and the engines are those of every run; keys, consents, charges and log entries are real.
What is made up is that every customer who does not refuse consents to statistics, and that each
region's policy allows what is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from common.aggregation_rules import NoiseMode
from common.analytics.answers import ARRAYS_NAME, FACTS_NAME, ReleasedAnswers
from common.analytics.asked import Asking
from common.analytics.outlook import require_worth
from common.catalogue import Catalogue
from common.errors import FederationError, UsageError, VerificationError
from common.plan import RunPlan
from common.questions_plan import QuestionsFile, outlooks, questions_plan
from common.timestamps import format_time
from server.app_bundle import app_bundle_sha256
from simulations.customers import CustomerChoices, draw_choices
from simulations.federate import federate, own_words
from simulations.outcome import bundle_run
from simulations.provision import RegionSetUp, open_regions, provision
from simulations.run_folder import RunFolder, open_run_folder
from simulations.scenarios import Scenario

#: What a run's bundle covers beside the logs.
ARTIFACTS = (ARRAYS_NAME, FACTS_NAME)
# In a confidential run two regions would tell either the other's answer.
_SECURE_QUORUM = 3


@dataclass(frozen=True)
class QuestionsRun:
    """What is asked of a simulated federation.

    Attributes:
        scenario: The scenario.
        questions: What is asked.
        epsilon: ε of the run, a decimal string.
        delta: δ, a decimal string.
        seed: Of the made-up data and choices; never of noise.
        mode: Whose noise protects.
        window: Begin of the window that is asked about and its end, exclusive, in milliseconds
            since the epoch; the scenario's training window if None.
        anyway: Ask even where noise would swamp an answer.
    """

    scenario: Scenario
    questions: QuestionsFile
    epsilon: str
    delta: str = "0.000001"
    seed: int = 1
    mode: NoiseMode = "local"
    window: tuple[int, int] | None = None
    anyway: bool = False


def run_questions(
    run: QuestionsRun, out: Path, *, console: Console | None = None
) -> ReleasedAnswers:
    """Asks a simulated federation, and gives what it released once its logs verify.

    Args:
        run: What is asked.
        out: A new folder, or an empty one.
        console: Where progress is shown; nowhere by default.

    Raises:
        UsageError: The folder is not empty.
        BudgetError: Noise would swamp an answer: nothing was asked, and nothing spent.
        VerificationError: The run's own logs do not verify.
        FedprefError: What stopped it.
    """
    shown = console or Console(quiet=True)
    with open_run_folder(out) as folder:
        if any(path.name != ".lock" for path in folder.root.iterdir()):
            raise UsageError(f"{out} is not empty.", remedy="Name a new folder.")
        shown.print(f"Preparing {run.scenario.name}: data, keys, consents and permits")
        plan = _plan(run, folder)
        require_worth(outlooks(plan), anyway=run.anyway)
        set_ups = _set_ups(run, plan)
        provision(folder, run.scenario, plan, set_ups, app_bundle_sha256())
        shown.print(f"Asking {len(plan.questions)} questions within ε = {plan.epsilon}")
        with open_regions(folder, set_ups) as regions:
            for region in regions.values():
                region.engine.preflight(plan)
            channels = {name: region.channel for name, region in regions.items()}
            try:
                federate("inprocess", folder, plan, channels)
            except FederationError as error:
                raise own_words(error, [each.engine for each in regions.values()]) from error
        verdict = bundle_run(folder, run.scenario, plan, ARTIFACTS)
    if not verdict.verified:
        raise VerificationError(
            f"The run's own logs do not verify: {verdict.first_failure}",
            remedy=f"Look at them: fedpref-audit verify {out}",
        )
    return ReleasedAnswers.load(out)


def _plan(run: QuestionsRun, folder: RunFolder) -> RunPlan:
    scenario, confidential = run.scenario, run.questions.aggregation == "secure-sum"
    prepared = scenario.prepare(folder.data, seed=run.seed)
    window = run.window or (scenario.windows.train_from_ms, scenario.windows.train_until_ms)
    quorum = max(scenario.quorum, _SECURE_QUORUM) if confidential else scenario.quorum
    catalogue = Catalogue.load(folder.catalogue)
    return questions_plan(
        run.questions,
        Asking(tuple(catalogue.category_names), *window),
        run_id=f"{scenario.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        federation=scenario.federation,
        scenario=scenario.name,
        regions=[region.name for region in prepared.regions],
        quorum=quorum,
        catalogue=prepared.catalogue_digest,
        n_items=prepared.n_items,
        window=(format_time(window[0]), format_time(window[1])),
        epsilon=run.epsilon,
        delta=run.delta,
        planned_customers=scenario.planned_customers,
        mode=run.mode,
        honest_survivors_min=quorum if run.mode == "distributed" else 0,
    )


def _set_ups(run: QuestionsRun, plan: RunPlan) -> list[RegionSetUp]:
    return [
        RegionSetUp(
            region=region,
            jurisdiction=jurisdiction,
            choose=partial(
                _choose, run=run, rounds=max(2, plan.total_rounds), region_number=number
            ),
            epsilon_cap=run.epsilon,
            delta_max=run.delta,
        )
        for number, (region, jurisdiction) in enumerate(
            zip(plan.regions, run.scenario.jurisdictions, strict=True)
        )
    ]


def _choose(
    customers: Sequence[str], *, run: QuestionsRun, rounds: int, region_number: int
) -> CustomerChoices:
    """How one region's customers choose; who withdraws does so while the run is on."""
    return draw_choices(
        customers,
        refusal_share=run.scenario.refusal_share,
        withdrawal_share=run.scenario.withdrawal_share,
        rounds=rounds,
        seed=(run.seed, region_number),
    )
