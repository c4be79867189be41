"""The bundle of a small federation's run, and the verifier's verdict on it."""

from __future__ import annotations

from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.plan import RunPlan
from common.timestamps import now_ms
from server.config import ServerHome
from simulations.run_folder import RunFolder
from simulations.witness_export import read_witnesses

FEDERATION = "small.example"


def bundled(folder: RunFolder, plan: RunPlan) -> Verdict:
    """Bundles the logs as they are on the disk, and verifies the bundle."""
    home = ServerHome(folder.server)
    published = [home.answers, home.answers_facts] if plan.asks else [home.model]
    for path in published:
        (folder.root / path.name).write_bytes(path.read_bytes())
    parties = {"server": folder.server, **{r: folder.region_home(r) for r in plan.regions}}
    logs = {party: AuditLog.open_read_only(path / "log.sqlite") for party, path in parties.items()}
    witnesses = read_witnesses(folder, FEDERATION, logs)
    write_bundle(
        folder.root,
        federation=FEDERATION,
        run=plan.run_id,
        registry=home.registry_envelopes(),
        plan=home.plan.read_bytes(),
        logs=logs,
        artifacts=[path.name for path in published],
        signer=home.signer("aggregator"),
        created_at_ms=now_ms(),
        cosigned=witnesses.cosigned,
        witnessed=witnesses.witnessed,
        evidence=witnesses.evidence,
    )
    for log in logs.values():
        log.close()
    return verify_bundle(folder.root)
