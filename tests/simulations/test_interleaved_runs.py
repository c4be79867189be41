"""Two runs in the same regions, one begun before the other and ended after it; both verify."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from client.app import app as client_app
from client.engine.permit_desk import sign_permit
from common import canonical_json
from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.engine_channel import register_channel
from common.plan import RunPlan
from common.timestamps import now_ms
from server.app import app as server_app
from server.config import ServerHome
from simulations.in_process_grid import run_in_process
from simulations.outside_witness import witness_in_process
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from simulations.witness_export import read_witnesses
from tests.support.run_bundle import FEDERATION
from tests.support.small_federation import APP, make_federation


def coordinate(
    folder: RunFolder, regions: dict[str, OpenRegion], run: str, *, last_round: int = 0
) -> None:
    """A coordinator's process: from where the run stands to its end, or to a round."""
    with ExitStack() as stack:
        stack.enter_context(witness_in_process(folder))
        for index, region in enumerate(regions.values()):
            stack.enter_context(register_channel(index, region.engine))
        run_in_process(
            server_app,
            client_app,
            n_nodes=len(regions),
            run_config={
                "server-home": str(folder.server),
                "run": run,
                "last-round": last_round,
            },
        )


def verdict_of(folder: RunFolder, plan: RunPlan, home: ServerHome, target: Path) -> Verdict:
    target.mkdir()
    (target / "model.safetensors").write_bytes(home.model.read_bytes())
    parties = {"server": folder.server, **{r: folder.region_home(r) for r in plan.regions}}
    logs = {party: AuditLog.open_read_only(path / "log.sqlite") for party, path in parties.items()}
    witnesses = read_witnesses(folder, FEDERATION, logs)
    write_bundle(
        target,
        federation=FEDERATION,
        run=plan.run_id,
        registry=home.registry_envelopes(),
        plan=home.plan.read_bytes(),
        logs=logs,
        artifacts=["model.safetensors"],
        signer=home.signer("aggregator"),
        created_at_ms=now_ms(),
        cosigned=witnesses.cosigned,
        witnessed=witnesses.witnessed,
        evidence=witnesses.evidence,
    )
    for log in logs.values():
        log.close()
    return verify_bundle(target)


def test_a_run_that_is_paused_while_another_runs_goes_on_and_both_verify(tmp_path: Path) -> None:
    folder, first, set_ups = make_federation(
        tmp_path / "run", regions=2, quorum=2, epsilon="3", epsilon_cap="20"
    )
    second = RunPlan.from_record(first.to_record() | {"run_id": "run-2"})
    homes = {}
    for name, plan in (("first", first), ("second", second)):
        homes[name] = ServerHome(folder.server, name)
        homes[name].folder.mkdir(parents=True)
        homes[name].plan.write_bytes(canonical_json.encode(plan.to_record()))
    with open_regions(folder, set_ups) as regions:
        for region in regions.values():
            sign_permit(region.engine, second, app=APP, valid_for_s=3600)
        coordinate(folder, regions, "first", last_round=1)
        coordinate(folder, regions, "second", last_round=2)
        coordinate(folder, regions, "first")
        coordinate(folder, regions, "second")
    for name, plan in (("first", first), ("second", second)):
        verdict = verdict_of(folder, plan, homes[name], tmp_path / name)
        assert verdict.verified, verdict.first_failure
