"""Runs with distributed noise, from provisioning to the verdict: real engines, real coordinator."""

from __future__ import annotations

from pathlib import Path

from simulations.federate import federate
from simulations.provision import open_regions
from tests.support.run_bundle import bundled
from tests.support.small_federation import make_federation


def test_a_run_with_distributed_noise_ends_and_verifies(tmp_path: Path) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run",
        regions=3,
        quorum=3,
        rule="secure-sum",
        mode="distributed",
        honest_survivors_min=3,
    )
    with open_regions(folder, set_ups) as regions:
        federate("inprocess", folder, plan, {n: region.channel for n, region in regions.items()})
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
