"""A region's engine in a double-masked sum: its seal leaves once, and what it opens is logged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from client.engine.charging import Charging
from client.engine.service import open_engine
from common.discrete_gaussian import SharedNoise
from common.double_masking.codec import deliveries_to_json, envelopes_to_json
from common.errors import BudgetError
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.plan_defaults import default_plan
from simulations.provision import RegionSetUp
from simulations.run_folder import RunFolder
from tests.support import small_federation
from tests.support.secure_regions import flattened
from tests.support.shared_regions import SharedRegions, shared_regions
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
R1, R2, R3, R4 = (f"region-{number}" for number in range(1, 5))


def _provisioned(root: Path, **changes: object) -> Federation:
    return make_federation(
        root,
        regions=4,
        quorum=3,
        rule="secure-sum",
        mode="distributed",
        honest_survivors_min=3,
        **changes,
    )


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return _provisioned(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation whose plan states more ε than its mechanisms spend."""

    def with_room(**arguments: object) -> RunPlan:
        plan = default_plan(**arguments)  # type: ignore[arg-type]
        return RunPlan.from_record({**plan.to_record(), "epsilon": "12"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_federation, "default_plan", with_room)
        return _provisioned(tmp_path_factory.mktemp("spare") / "run", epsilon_cap="12")


def _copied(source: Federation, to: Path) -> Federation:
    folder, plan, set_ups = source
    shutil.copytree(folder.root, to, symlinks=True)
    return RunFolder(to), plan, set_ups


@pytest.fixture
def regions(provisioned: Federation, tmp_path: Path) -> Iterator[SharedRegions]:
    folder, plan, _ = _copied(provisioned, tmp_path / "run")
    with shared_regions(folder, plan) as opened:
        yield opened


@pytest.fixture
def regions_with_spare(spare: Federation, tmp_path: Path) -> Iterator[SharedRegions]:
    folder, plan, _ = _copied(spare, tmp_path / "run")
    with shared_regions(folder, plan) as opened:
        yield opened


def test_the_sum_is_exact_and_nothing_else_leaves(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    total = regions.to_sum(coordinator)
    assert np.array_equal(total, regions.sealed_sum([R1, R2, R3, R4]))


def test_a_region_that_is_lost_after_masks_were_made_is_not_missed(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    total = regions.to_sum(coordinator, [R1, R2, R3])
    assert np.array_equal(total, regions.sealed_sum([R1, R2, R3]))


def test_charge_and_round_name_the_survivors_that_they_hold_with(regions: SharedRegions) -> None:
    regions.train()
    (charge,) = regions.entries(R1, "charge")
    (entry,) = regions.entries(R1, "round")
    assert charge["honest_survivors_min"] == entry["dp"]["honest_survivors_min"] == 3
    assert entry["dp"]["mode"] == "distributed"
    mechanism = regions.plan.mechanism_of(1)
    shared: SharedNoise = regions.plan.shared_noise(mechanism)
    assert Decimal(entry["dp"]["share_stddev"]) == Decimal(shared.share.value)
    assert charge["noise_multiplier"] == mechanism.noise_multiplier
    (release,) = regions.entries(R1, "release")
    assert {array["dtype"] for array in release["arrays"]} == {"<i4"}


def test_masks_and_openings_are_logged_before_they_leave(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    reply, arrays = regions.mask(coordinator, R1)
    (mask,) = regions.entries(R1, "mask")
    assert mask["masked"] == reply["masked"] == arrays_digest(arrays)
    assert [member["region"] for member in mask["members"]] == [R1, R2, R3, R4]
    coordinator.accept_masked(R1, flattened(arrays))
    regions.to_sum(coordinator, [R2, R3])
    (unmask,) = regions.entries(R1, "unmask")
    assert unmask["survivors"] == [R1, R2, R3]
    assert not regions.entries(R4, "unmask")


def test_sealed_values_leave_once_whoever_asks(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    content = deliveries_to_json(coordinator.deliveries(R1))
    regions.mask(coordinator, R1)
    assert regions.refusal(R1, "mask", content) == "seal-dead"
    assert regions.refusal(R1, "pin", attempt=2) == "seal-dead"
    reply = regions.ask_to_train(R1)
    assert (reply["status"], reply["reason"]) == ("refused", "seal-dead")
    assert len(regions.entries(R1, "mask")) == 1


def test_a_seal_stays_dead_over_a_restart(provisioned: Federation, tmp_path: Path) -> None:
    folder, plan, _ = _copied(provisioned, tmp_path / "run")
    with shared_regions(folder, plan) as regions:
        regions.train()
        coordinator = regions.coordinator()
        regions.to_shares(coordinator)
        content = deliveries_to_json(coordinator.deliveries(R1))
        regions.mask(coordinator, R1)
    with open_engine(home_of(folder, R1)) as engine:
        again = SharedRegions(folder, plan, {R1: engine})
        # Its keys went with the process, and what was sealed is dead.
        assert again.refusal(R1, "mask", content) == "no-execution"
        assert again.refusal(R1, "pin", attempt=2) == "seal-dead"
        assert again.ask_to_train(R1)["reason"] == "seal-dead"


def test_before_masks_an_execution_may_begin_again(regions: SharedRegions) -> None:
    regions.train()
    regions.to_shares(regions.coordinator())
    assert regions.refusal(R1, "pin", attempt=1) == "context-used"
    reply = regions.ask_to_train(R1)
    assert (reply["status"], reply["attempted"]) == ("ok", 1)
    coordinator = regions.coordinator(attempt=2)
    regions.to_shares(coordinator)
    total = regions.to_sum(coordinator)
    assert np.array_equal(total, regions.sealed_sum([R1, R2, R3, R4]))
    assert all(len(engine.ledger.charges) == 1 for engine in regions.engines.values())
    # Keys of the execution that was given up open nothing any more.
    assert regions.refusal(R1, "share", {"keys": [], "threshold": 3}, attempt=1) == "no-execution"


def test_unmasking_twice_is_refused(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    regions.to_sum(coordinator)
    agreements = envelopes_to_json(coordinator.close_agreement())
    assert regions.refusal(R1, "unmask", agreements) == "unmasked-already"
    assert len(regions.entries(R1, "unmask")) == 1


def test_fewer_survivors_than_the_policy_or_k_min_are_refused(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    for region in (R1, R2):
        regions.mask(coordinator, region)
    assert regions.refusal(R1, "agree", [R1, R2]) == "too-few-survivors"
    assert regions.refusal(R1, "unmask", []) == "execution-over"


def test_another_attempt_is_another_mechanism_and_costs_as_much(
    regions_with_spare: SharedRegions,
) -> None:
    regions = regions_with_spare
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    for region in (R1, R2, R3, R4):
        regions.mask(coordinator, region)
    first = regions.sealed_sum([R1])
    # The coordinator lost what it had; all four seals are dead.
    regions.train(attempt=2)
    assert [c.request.attempt for c in regions.engines[R1].ledger.charges] == [1, 2]
    assert (regions.sealed_sum([R1]) != first).mean() > 0.9
    coordinator = regions.coordinator(attempt=2)
    regions.to_shares(coordinator)
    total = regions.to_sum(coordinator)
    assert np.array_equal(total, regions.sealed_sum([R1, R2, R3, R4]))
    rounds = regions.entries(R1, "round")
    assert [entry["attempt"] for entry in rounds] == [1, 2]
    assert rounds[0]["charge_id"] != rounds[1]["charge_id"]


def test_a_living_seal_is_not_drawn_again_for_a_higher_attempt(
    regions_with_spare: SharedRegions,
) -> None:
    regions = regions_with_spare
    regions.train()
    before = regions.sealed_sum([R1])
    assert regions.ask_to_train(R1, attempt=7)["status"] == "ok"
    assert np.array_equal(regions.sealed_sum([R1]), before)
    assert len(regions.engines[R1].ledger.charges) == 1


def test_a_plan_without_room_pays_for_no_second_attempt(regions: SharedRegions) -> None:
    regions.train()
    coordinator = regions.coordinator()
    regions.to_shares(coordinator)
    regions.mask(coordinator, R1)
    reply = regions.ask_to_train(R1, attempt=2)
    assert (reply["status"], reply["reason"]) == ("refused", "budget-exhausted")
    error = regions.engines[R1].last_refusal
    assert isinstance(error, BudgetError)
    assert "Another attempt" in error.message
    assert len(regions.engines[R1].ledger.charges) == 1


def test_other_plans_have_no_executions(tmp_path: Path) -> None:
    folder, plan, _ = make_federation(tmp_path / "run", regions=3, quorum=3, rule="secure-sum")
    with open_engine(home_of(folder, R1)) as engine:
        reply, _ = SharedRegions(folder, plan, {R1: engine}).step(R1, "pin")
        assert reply["status"] == "refused"
        assert "distributed noise" in str(engine.last_refusal)


def test_tier_a_masks_are_refused_under_distributed_noise(regions: SharedRegions) -> None:
    # Its masks come off for survivors again and again: with shares of noise that would be fatal.
    regions.train()
    header = {"run": regions.plan.run_id, "round": 1, "attempt": 1, "roster": {}}
    reply, arrays = regions.engines[R1].call("mask", header, {})
    assert (reply["status"], arrays) == ("refused", {})


@pytest.mark.parametrize(
    "header",
    [
        {"step": "steal"},
        {"attempt": 0},
        {"round": "1"},
        {"run": "../x"},
        {"step": ["pin"]},
        {"more": 1},
    ],
)
def test_malformed_requests_are_refused(regions: SharedRegions, header: dict[str, object]) -> None:
    request = {"run": regions.plan.run_id, "round": 1, "attempt": 1, "step": "pin", "content": None}
    reply, _ = regions.engines[R1].call("execute", {**request, **header}, {})
    assert reply["status"] == "refused"


def test_a_charge_without_its_plan_is_not_logged_wrongly(regions: SharedRegions) -> None:
    charging: Charging = regions.engines[R1]._charging
    (home_of(regions.folder, R1).permits / f"{regions.plan.run_id}.plan.json").unlink()
    with pytest.raises(Exception, match="cannot be read"):
        charging._plan_of(regions.plan.run_id)
