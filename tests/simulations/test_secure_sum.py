"""Confidential runs, from provisioning to the verdict: real engines, real coordinator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine.seal import SealStore
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import InputError, UsageError
from common.parameters import arrays_digest
from common.plan import RunPlan
from server.config import ServerHome
from server.parameter_step import model_after
from server.round_total import WholeTotal
from simulations.federate import federate
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from simulations.scenarios import find_scenario
from tests.simulations.test_run_request import request
from tests.support.run_bundle import bundled
from tests.support.small_federation import make_federation

SIM = Path(sys.executable).parent / "fedpref-sim"
Arrays = dict[str, np.ndarray]


def entries(home: Path, kind: str) -> list[dict[str, JsonValue]]:
    with AuditLog.open_read_only(home / "log.sqlite") as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def sealed_model(folder: RunFolder, plan: RunPlan) -> str:
    """Digest of the model that the plain sums of what the regions sealed give."""
    model: Any = {}
    state: Any = {}
    for number in range(1, plan.total_rounds + 1):
        releases = []
        for region in plan.regions:
            seal = SealStore(folder.region_home(region) / "seals").read(plan.run_id, number)
            assert seal is not None
            releases.append(seal.arrays)
        model, state = model_after(number, model, WholeTotal.of(releases), plan, state)
    return arrays_digest(model)


class Watched:
    """A region, and every array that leaves it."""

    def __init__(self, region: OpenRegion, seen: list[tuple[str, Arrays]]) -> None:
        self._region = region
        self._seen = seen

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], Arrays]:
        reply, answered = self._region.channel.call(method, header, arrays)
        self._seen.append((method, answered))
        return reply, answered


@pytest.mark.parametrize("strategy", ["factors", "tied-autoencoder"])
def test_a_confidential_run_is_the_open_one_without_a_single_update(
    tmp_path: Path, strategy: Any
) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run", regions=3, quorum=3, rule="secure-sum", strategy=strategy
    )
    seen: list[tuple[str, Arrays]] = []
    with open_regions(folder, set_ups) as regions:
        channels = {name: Watched(region, seen) for name, region in regions.items()}
        federate("inprocess", folder, plan, channels)
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    # To the bit the model of the plain sums, though no value of an update ever left.
    (published,) = entries(ServerHome(folder.server).root, "model")
    assert published["model"] == sealed_model(folder, plan)
    assert all(not arrays for method, arrays in seen if method != "mask")
    masked = [arrays for method, arrays in seen if method == "mask"]
    assert len(masked) == 3 * plan.total_rounds
    assert {array.dtype for arrays in masked for array in arrays.values()} == {np.dtype(np.int32)}
    for region in plan.regions:
        home = folder.region_home(region)
        assert len(entries(home, "mask")) == len(entries(home, "charge")) == plan.total_rounds
        assert list((home / "masking").iterdir()) == []


def test_a_run_that_paused_and_whose_regions_were_restarted_goes_on(tmp_path: Path) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run", regions=3, quorum=3, rule="secure-sum"
    )
    for last_round in (1, 2, None):
        with open_regions(folder, set_ups) as regions:
            channels = {name: region.channel for name, region in regions.items()}
            federate("inprocess", folder, plan, channels, last_round=last_round)
    assert bundled(folder, plan).verified
    (published,) = entries(ServerHome(folder.server).root, "model")
    assert published["model"] == sealed_model(folder, plan)


def test_fewer_than_three_regions_are_refused_before_anything_begins() -> None:
    small = replace(find_scenario("synthetic-3"), jurisdictions=("DE", "FR"))
    with pytest.raises(UsageError, match="at least 3 regions; the scenario has 2"):
        request(scenario="synthetic-3", aggregation="secure-sum").settings(small)
    three = find_scenario("synthetic-3")
    assert request(aggregation="secure-sum").settings(three).aggregation == "secure-sum"


def test_a_plan_of_a_quorum_below_three_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quorum of at least 3"):
        make_federation(tmp_path / "run", regions=3, quorum=2, rule="secure-sum")


@pytest.mark.slow
def test_the_command_ends_verified_and_its_report_says_confidential(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        [
            *(SIM, "run", "--scenario", "synthetic-3", "--aggregation", "secure-sum"),
            *("--quality-seeds", "1", "--out", out),
        ],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified" in done.stdout
    assert verify_bundle(out).verified
    page = (out / "report.html").read_text()
    assert "This run is <strong>confidential</strong>" in page
    assert "2<sup>−12</sup>" in page
