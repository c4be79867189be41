"""Making run plans from the federation's declaration: who takes part is who is enrolled by then."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from common.analytics.asked import Asking
from common.analytics.outlook import require_worth
from common.catalogue import Catalogue
from common.durable_file import make_folder_durably, write_durably
from common.errors import InputError, StorageError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.questions_plan import outlooks, questions_plan
from common.system_users import as_owner
from common.timestamps import parse_time
from server.answers import require_publishable
from server.config import ServerHome
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig, RunTable
from server.robust_noise import unguarded


def make_plan(
    config: FederationConfig, name: str, run: RunTable, catalogue: Catalogue, regions: Sequence[str]
) -> RunPlan:
    """The plan of one run, of training or of questions, under a run id that no other run has.

    Args:
        config: The federation.
        name: The run's name; its id begins with it.
        run: Its settings.
        catalogue: The public catalogue.
        regions: Who takes part.

    Raises:
        InputError: A setting is out of range, or the regions are fewer than the quorum.
        BudgetError: Noise would swamp the answer to a question: nothing is to be asked so.
    """
    if len(regions) < config.federation.quorum:
        raise InputError(
            f"{len(regions)} regions are enrolled; a round needs "
            f"{config.federation.quorum} (federation.quorum).",
            remedy="Enrol more regions first: fedpref-server enrol.",
        )
    run_id = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    if run.question:
        return _questions(config, run_id, run, catalogue, regions)
    return default_plan(
        run_id=run_id,
        federation=config.federation.name,
        scenario=config.federation.name,
        regions=sorted(regions),
        quorum=config.federation.quorum,
        catalogue=catalogue.digest,
        n_items=catalogue.n_items,
        train_from=run.train_from,
        train_until=run.train_until,
        epsilon=run.epsilon,
        delta=run.delta,
        planned_customers=run.planned_customers,
        strategy=run.strategy,
        model=run.model,
        init_seed=run.seed,
        round_timeout_s=run.round_timeout_s,
        mode=run.noise,
        rule=run.aggregation,
        tolerated=run.tolerated,
        honest_survivors_min=run.honest_survivors_min,
        rounds=run.rounds,
    )


def _questions(
    config: FederationConfig,
    run_id: str,
    run: RunTable,
    catalogue: Catalogue,
    regions: Sequence[str],
) -> RunPlan:
    """The plan of a run of questions, if its answers would be of use."""
    window = parse_time(run.train_from), parse_time(run.train_until)
    plan = questions_plan(
        run.questions(),
        Asking(tuple(catalogue.category_names), *window),
        run_id=run_id,
        federation=config.federation.name,
        scenario=config.federation.name,
        regions=sorted(regions),
        quorum=config.federation.quorum,
        catalogue=catalogue.digest,
        n_items=catalogue.n_items,
        window=(run.train_from, run.train_until),
        epsilon=run.epsilon,
        planned_customers=run.planned_customers,
        delta=run.delta,
        round_timeout_s=run.round_timeout_s,
        mode=run.noise,
        honest_survivors_min=run.honest_survivors_min,
    )
    require_publishable(plan)
    require_worth(outlooks(plan), anyway=run.anyway)
    return plan


def write_plan(home: ServerHome, plan: RunPlan) -> None:
    """Writes a run's plan into its folder; a plan that is there is never replaced.

    Raises:
        InputError: The run has a plan.
        StorageError: The disk is full or refuses.
    """
    if home.plan.exists():
        raise InputError(
            f"The run {home.run} has a plan already: {home.plan}.",
            remedy="A plan that regions may have permitted is never changed; choose another name.",
        )
    try:
        with as_owner(home.root):
            make_folder_durably(home.folder)
            # Regions are sent it, and it says nothing about anybody's customers.
            home.folder.chmod(0o755)
            write_durably(home.plan, plan.to_bytes(), mode=0o644)
    except OSError as error:
        raise StorageError(f"{home.plan} cannot be written: {error.strerror}.") from error


def missing_plans(
    deployment: Deployment, config: FederationConfig, regions: Sequence[str]
) -> list[tuple[str, str | None]]:
    """Makes the plan of every declared run that has none; gives their names.

    Args:
        deployment: The deployment.
        config: The federation.
        regions: Who takes part.

    Returns:
        For each run that got a plan its name, and what its robust rule does not guard, if anything.
    """
    made: list[tuple[str, str | None]] = []
    catalogue: Catalogue | None = None
    for name, run in config.run.items():
        home = deployment.home(name)
        if home.plan.exists():
            continue
        catalogue = catalogue or Catalogue.load(deployment.catalogue)
        plan = make_plan(config, name, run, catalogue, regions)
        write_plan(home, plan)
        made.append((name, unguarded(plan)))
    return made
