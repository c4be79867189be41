"""The federation that trials of faults are carried out on: a slice of a scenario's real data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from client.data.source_config import FileSourceConfig, load_source_config
from client.engine.home import RegionHome
from client.engine.permit_desk import sign_permit
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common.aggregation_rules import NoiseMode, RuleName
from common.durable_file import write_durably
from common.errors import UsageError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.timestamps import format_time
from server.app_bundle import app_bundle_sha256
from server.config import ServerHome
from simulations.customers import CustomerChoices, draw_choices
from simulations.prepared import PreparedRegion, PreparedScenario
from simulations.provision import RegionSetUp, open_region, provision
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario

#: One household in so many is in the slice.
EVERY = 16
#: How long a round waits for replies: what a hung region costs a trial, in seconds.
ROUND_TIMEOUT_S = 30
EPSILON_CAP = 8.0
#: Enough for a plan of five rounds: a region can be away for two of them, and come back.
PLANNED_CUSTOMERS = 800
DELTA = 1e-6
_PERMIT_VALID_S = 24 * 3600
_WITHDRAWALS_TILL_ROUND = 3


@dataclass(frozen=True)
class Federation:
    """A provisioned federation to copy, once for each trial.

    Attributes:
        folder: Its run's folder.
        scenario: The scenario, over the slice.
        plan: The plan of its run.
        other_plan: The plan of another run, which every region permits too.
        set_ups: What the regions were provisioned with, in the plan's order.
        seed: What customers' choices and all noise are drawn from.
        households: How many households are in the slice, by region.
        data: The regions' stores, read already; none to have each life read its own.
    """

    folder: RunFolder
    scenario: Scenario
    plan: RunPlan
    other_plan: RunPlan
    set_ups: tuple[RegionSetUp, ...]
    seed: int
    households: tuple[int, ...]
    data: Mapping[str, RegionData] = field(default_factory=dict)

    def set_up(self, region: str) -> RegionSetUp:
        """What a region was provisioned with."""
        return self.set_ups[self.plan.regions.index(region)]


def provision_slice(
    scenario: Scenario,
    root: Path,
    *,
    seed: int,
    rule: RuleName = "sum",
    mode: NoiseMode = "local",
    every: int = EVERY,
    round_timeout_s: int = ROUND_TIMEOUT_S,
) -> Federation:
    """Prepares a slice of a scenario's data, and provisions its regions for two runs.

    Args:
        scenario: The scenario.
        root: The run's folder, not there yet.
        seed: What customers' choices are drawn from.
        rule: By which rule the regions' updates become one.
        mode: Whose noise protects.
        every: One household in so many is kept, with all its rows.
        round_timeout_s: How long a round waits for replies, in seconds.

    Raises:
        UsageError: The scenario's stores are no files.
    """
    app, folder = app_bundle_sha256(), RunFolder(root)
    prepared = _thinned(scenario.prepare(folder.data, seed=seed), every)
    small = replace(
        scenario,
        prepare=lambda _out, *, seed: _given(prepared, seed),
        planned_customers=PLANNED_CUSTOMERS,
    )
    plan, other = (
        _plan(
            small,
            prepared,
            f"faults-{name}",
            seed=seed,
            rule=rule,
            mode=mode,
            round_timeout_s=round_timeout_s,
        )
        for name in ("run", "other")
    )
    set_ups = _set_ups(small, plan, seed)
    provision(folder, small, plan, set_ups, app)
    data = {}
    for set_up in set_ups:
        home = RegionHome.read(folder.region_home(set_up.region))
        data[set_up.region] = RegionData(home, read_policy(home.policy))
        data[set_up.region].checked_transactions()
        with open_region(home, set_up) as region:
            sign_permit(region.engine, other, app=app, valid_for_s=_PERMIT_VALID_S)
    households = tuple(region.households for region in prepared.regions)
    return Federation(folder, small, plan, other, tuple(set_ups), seed, households, data)


def plan_for_server(folder: RunFolder, plan: RunPlan) -> None:
    """Has a run's coordinator carry out a plan."""
    write_durably(ServerHome(folder.server).plan, plan.to_bytes())


def _given(prepared: PreparedScenario, seed: int) -> PreparedScenario:
    """In the place of preparing the data, which lie there."""
    del seed
    return prepared


def _plan(
    scenario: Scenario,
    prepared: PreparedScenario,
    run_id: str,
    *,
    seed: int,
    rule: RuleName,
    mode: NoiseMode,
    round_timeout_s: int,
) -> RunPlan:
    return default_plan(
        run_id=run_id,
        federation=scenario.federation,
        scenario=scenario.name,
        regions=[region.name for region in prepared.regions],
        quorum=scenario.quorum,
        catalogue=prepared.catalogue_digest,
        n_items=prepared.n_items,
        train_from=format_time(scenario.windows.train_from_ms),
        train_until=format_time(scenario.windows.train_until_ms),
        epsilon=format(EPSILON_CAP, "g"),
        planned_customers=scenario.planned_customers,
        init_seed=seed,
        round_timeout_s=round_timeout_s,
        rule=rule,
        mode=mode,
        honest_survivors_min=scenario.quorum if mode == "distributed" else 0,
    )


def _set_ups(scenario: Scenario, plan: RunPlan, seed: int) -> list[RegionSetUp]:
    return [
        RegionSetUp(
            region=region,
            jurisdiction=jurisdiction,
            choose=partial(_choose, scenario=scenario, seed=(seed, number)),
            epsilon_cap=format(EPSILON_CAP, "g"),
            delta_max=plan.delta,
            withdrawal_in_round="discard",
        )
        for number, (region, jurisdiction) in enumerate(
            zip(plan.regions, scenario.jurisdictions, strict=True)
        )
    ]


def _choose(
    customers: Sequence[str], *, scenario: Scenario, seed: tuple[int, int]
) -> CustomerChoices:
    return draw_choices(
        customers,
        refusal_share=scenario.refusal_share,
        withdrawal_share=scenario.withdrawal_share,
        rounds=_WITHDRAWALS_TILL_ROUND,
        seed=seed,
    )


def _thinned(prepared: PreparedScenario, every: int) -> PreparedScenario:
    """Keeps one household in so many, wherever its rows lie, and all that these bought."""
    return replace(prepared, regions=tuple(_thin_out(region, every) for region in prepared.regions))


def _thin_out(region: PreparedRegion, every: int) -> PreparedRegion:
    config = load_source_config(region.source)
    if not isinstance(config, FileSourceConfig):
        raise UsageError(f"The store of {region.name} is no file, of which a slice could be made.")
    path = region.source.parent / config.path
    table = pq.read_table(path)
    column = table.column(config.columns.customer)
    kept = [name for name in pc.unique(column).to_pylist() if _is_kept(str(name), every)]
    thin = table.filter(pc.is_in(column, value_set=pa.array(kept, type=column.type)))
    buffer = pa.BufferOutputStream()
    pq.write_table(thin, buffer)
    write_durably(path, buffer.getvalue().to_pybytes())
    return replace(region, households=len(kept), rows=thin.num_rows)


def _is_kept(customer: str, every: int) -> bool:
    """By the digest of its name: the same households in every region that they visit."""
    return int.from_bytes(hashlib.sha256(customer.encode()).digest()[:8], "big") % every == 0
