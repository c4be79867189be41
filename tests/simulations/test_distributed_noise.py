"""Runs with distributed noise, from provisioning to the verdict: real engines, real coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.audit.verify.verdict import Verdict
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FederationError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from server.double_masked_sum import sum_of_shares
from simulations.federate import federate
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from tests.support import small_federation
from tests.support.run_bundle import bundled
from tests.support.small_federation import make_federation

R1, R2, R3, R4 = (f"region-{number}" for number in range(1, 5))
Header = dict[str, JsonValue]
Arrays = Mapping[str, np.ndarray]


class LostAt:
    """A region that is lost at one step of one round, for so many times."""

    def __init__(
        self, region: OpenRegion, step: str, *, server_round: int = 2, times: int = 1000
    ) -> None:
        self.region = region
        self.step = step
        self.server_round = server_round
        self.left = times

    def call(
        self, method: str, header: Header, arrays: Arrays
    ) -> tuple[Header, dict[str, np.ndarray]]:
        here = (method, header.get("step"), header.get("round"))
        if here == ("execute", self.step, self.server_round) and self.left:
            self.left -= 1
            return {"status": "refused", "region": "lost", "reason": "not-permitted"}, {}
        return self.region.channel.call(method, header, arrays)


def _federation(root: Path, **changes: object) -> tuple[RunFolder, RunPlan, Any]:
    return make_federation(
        root,
        regions=4,
        quorum=3,
        rule="secure-sum",
        mode="distributed",
        honest_survivors_min=3,
        **changes,
    )


def _run(
    root: Path, strategy: str = "factors", **lost: LostAt | tuple[str, dict[str, int]]
) -> tuple[RunFolder, Verdict]:
    folder, plan, set_ups = _federation(root, strategy=strategy)
    with open_regions(folder, set_ups) as regions:
        channels: dict[str, Any] = {name: region.channel for name, region in regions.items()}
        for name, (step, how) in lost.items():
            region = name.replace("_", "-")
            channels[region] = LostAt(regions[region], step, **how)
        federate("inprocess", folder, plan, channels)
    return folder, bundled(folder, plan)


def _entries(folder: RunFolder, party: str, kind: str) -> list[Header]:
    from common.audit.log import AuditLog

    home = folder.server if party == "server" else folder.region_home(party)
    with AuditLog.open_read_only(home / "log.sqlite") as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [envelope.record() for envelope in envelopes if envelope.kind == kind]


def _used(aggregate: Header) -> list[str]:
    return [part["region"] for part in aggregate["regions"]]


@pytest.mark.parametrize("strategy", ["factors", "gram"])
def test_a_run_with_distributed_noise_ends_and_verifies(tmp_path: Path, strategy: str) -> None:
    folder, verdict = _run(tmp_path / "run", strategy)
    assert verdict.verified, verdict.first_failure
    for aggregate in _entries(folder, "server", "aggregate"):
        assert (aggregate["rule"], aggregate["mode"]) == ("secure-sum", "distributed")
        assert _used(aggregate) == [R1, R2, R3, R4]
    # The reader is told with how many honest regions which ε holds.
    (note,) = [note for note in verdict.notes if "The run's noise is distributed" in note]
    assert "8.0000 with 3" in note or "7.999" in note
    assert "with 2" in note
    assert "with 1" in note


@pytest.mark.parametrize("step", ["pin", "share", "mask", "agree", "unmask"])
def test_a_region_that_is_lost_at_any_step_is_not_missed(tmp_path: Path, step: str) -> None:
    folder, verdict = _run(tmp_path / "run", region_4=(step, {}))
    assert verdict.verified, verdict.first_failure
    aggregates = _entries(folder, "server", "aggregate")
    assert len(aggregates) == 3
    in_it = [R1, R2, R3] if step in ("pin", "share", "mask") else [R1, R2, R3, R4]
    assert _used(aggregates[1]) == in_it
    # Before masks another execution is begun without it; after, the one goes on.
    assert aggregates[1]["attempt"] == (2 if step in ("pin", "share") else 1)
    assert _used(aggregates[2]) == [R1, R2, R3, R4]
    for region in (R1, R2, R3):
        opened = [each for each in _entries(folder, region, "unmask") if each["round"] == 2]
        assert [each["survivors"] for each in opened] == [in_it]
        assert len(_entries(folder, region, "charge")) == 3


def test_the_model_is_that_of_the_sealed_shares(tmp_path: Path) -> None:
    folder, plan, set_ups = _federation(tmp_path / "run")
    with open_regions(folder, set_ups) as regions:
        channels: dict[str, Any] = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, plan, channels, last_round=1)
        sealed = [region.engine._seals.read(plan.run_id, 1).arrays for region in regions.values()]
        total = sum_of_shares(sealed, plan, 1)
        federate("inprocess", folder, plan, channels)
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    from safetensors.numpy import load_file

    model = load_file(folder.root / "model.safetensors")
    assert np.array_equal(model["popularity"], total.values("popularity").astype(np.float32))


def test_below_k_min_nothing_is_published_and_a_later_attempt_pays_anew(tmp_path: Path) -> None:
    def with_room(**arguments: object) -> RunPlan:
        plan = default_plan(**arguments)  # type: ignore[arg-type]
        return RunPlan.from_record({**plan.to_record(), "epsilon": "12"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_federation, "default_plan", with_room)
        folder, plan, set_ups = _federation(tmp_path / "run", epsilon_cap="12")
    with open_regions(folder, set_ups) as regions:
        channels: dict[str, Any] = {name: region.channel for name, region in regions.items()}
        channels |= {name: LostAt(regions[name], "agree", times=1) for name in (R3, R4)}
        # All four have masked; two of four cannot open what they sent.
        with pytest.raises(FederationError, match="Round 2"):
            federate("inprocess", folder, plan, channels)
        assert len(_entries(folder, "server", "aggregate")) == 1
        assert not [e for e in _entries(folder, R1, "unmask") if e["round"] == 2]
        federate("inprocess", folder, plan, channels)
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    charged = [(c["round"], c["attempt"]) for c in _entries(folder, R1, "charge")]
    assert charged == [(1, 1), (2, 1), (2, 2), (3, 1)]
    assert float(str(_entries(folder, R1, "charge")[-1]["epsilon_run"])) > 8


def test_without_room_in_the_plan_a_dead_round_ends_the_run(tmp_path: Path) -> None:
    folder, plan, set_ups = _federation(tmp_path / "run")
    with open_regions(folder, set_ups) as regions:
        channels: dict[str, Any] = {name: region.channel for name, region in regions.items()}
        channels |= {name: LostAt(regions[name], "agree", times=1) for name in (R3, R4)}
        for _ in range(2):
            with pytest.raises(FederationError, match="Round 2"):
                federate("inprocess", folder, plan, channels)
    assert [c["round"] for c in _entries(folder, R1, "charge")] == [1, 2]
