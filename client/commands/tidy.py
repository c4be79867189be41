"""``fedpref-region tidy``: removes what the policy says is kept no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def tidy(
    home: Annotated[Path, typer.Argument(help="The region's folder or its home.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove seals, permits and evidence that the policy's retention_days keeps no longer.

    The engine may be running. The log keeps its entries. Backups made before have what was removed:
    make a new one, and destroy those.
    """
    from client.consent_service.region_records import read_records
    from client.engine.home import RegionHome
    from client.engine.policy import read_policy, require_logged
    from client.engine.retention import find_outdated, remove_outdated
    from common.timestamps import now_ms

    region = RegionHome.read(home)
    console = Console(highlight=False, soft_wrap=True)
    with read_records(region) as records:
        policy = read_policy(region.policy)
        require_logged(policy, records.state.policy_sha256, region.policy)
        if policy.retention_days is None:
            console.print(f"{region.region}: its policy sets no retention_days: all is kept.")
            return
        outdated = find_outdated(
            region, policy.retention_days, records.log, records.subjects, at_ms=now_ms()
        )
        if not dry_run:
            remove_outdated(region, outdated, records.subjects)
    verb = "would be removed" if dry_run else "removed"
    console.print(
        f"{region.region}: {len(outdated.seals)} seals, {len(outdated.permits)} files of permits "
        f"and plans, evidence of {len(outdated.evidence)} choices {verb}."
    )
    for path in (*outdated.seals, *outdated.permits):
        console.print(f"  {path}", markup=False)
