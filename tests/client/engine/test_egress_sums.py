"""The egress guard in secure sums: nothing leaves unmasked, twice, or for too few."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import executions as executions_module
from client.engine import masking as masking_module
from client.engine.executions import Executions
from client.engine.masking import Masking
from client.engine.secure_sums import SecureSums
from common.canonical_json import JsonValue
from common.double_masking.messages import Reveal
from common.double_masking.region import RegionExecution
from common.egress_form import EgressRefusedError
from common.plan import RunPlan
from simulations.provision import RegionSetUp
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask
from tests.support.secure_regions import SecureRegions, secure_regions, train_header
from tests.support.shared_regions import SharedRegions, shared_regions
from tests.support.small_federation import make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
R1 = "region-1"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("secure") / "run"
    return make_federation(root, regions=3, quorum=3, rule="secure-sum")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("shared") / "run"
    return make_federation(
        root,
        regions=3,
        quorum=3,
        rule="secure-sum",
        mode="distributed",
        honest_survivors_min=3,
    )


@pytest.fixture
def regions(secure: Federation, tmp_path: Path) -> Iterator[SecureRegions]:
    shutil.copytree(secure[0].root, tmp_path / "run", symlinks=True)
    with secure_regions(RunFolder(tmp_path / "run"), secure[1]) as opened:
        yield opened


@pytest.fixture
def sharing(shared: Federation, tmp_path: Path) -> Iterator[SharedRegions]:
    shutil.copytree(shared[0].root, tmp_path / "run", symlinks=True)
    with shared_regions(RunFolder(tmp_path / "run"), shared[1]) as opened:
        yield opened


def kept_back(regions: SecureRegions | SharedRegions, why: str) -> None:
    error = regions.engines[R1].last_refusal
    assert isinstance(error, EgressRefusedError), error
    assert why in str(error)


def test_an_update_does_not_come_along_with_its_key(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offer is lost on the way, and with it what keeps the arrays back."""
    offer = SecureSums.offer
    monkeypatch.setattr(SecureSums, "offer", lambda *_: None)
    reply, arrays = ask(regions.engines[R1], train_header(regions.plan), {})
    assert (reply["reason"], arrays) == ("egress-refused", {})
    kept_back(regions, "no update leaves as it is")
    monkeypatch.setattr(SecureSums, "offer", offer)
    assert ask(regions.engines[R1], train_header(regions.plan), {})[0]["status"] == "ok"


def test_values_without_a_mask_stay(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()
    roster = regions.roster()
    monkeypatch.setattr(masking_module, "add_pairwise_masks", lambda *_: None)
    assert regions.refusal(R1, roster) == "egress-refused"
    kept_back(regions, "without a mask")


def test_masks_that_do_not_look_drawn_by_chance_stay(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weak(vector: np.ndarray, *_: Any) -> None:
        vector += np.arange(1, vector.size + 1, dtype=np.uint32)

    regions.train()
    roster = regions.roster()
    monkeypatch.setattr(masking_module, "add_pairwise_masks", weak)
    # Of the 40 values of these plans chance could do almost anything; of a model's it could not.
    monkeypatch.setattr("client.engine.egress_sums._DEVIATIONS", 3.0)
    assert regions.refusal(R1, roster) == "egress-refused"
    kept_back(regions, "by chance")


def test_other_values_than_the_log_has_stay(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = Masking.mask

    def altered(self: Masking, *given: Any) -> tuple[Header, Arrays]:
        header, arrays = mask(self, *given)
        return header, {name: values + 1 for name, values in arrays.items()}

    regions.train()
    roster = regions.roster()
    monkeypatch.setattr(Masking, "mask", altered)
    assert regions.refusal(R1, roster) == "egress-refused"
    kept_back(regions, "digest")


def test_a_mask_for_too_few_regions_stays(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()
    pair = regions.roster([R1, "region-2"])
    assert regions.refusal(R1, pair) == "too-few"
    monkeypatch.setattr(Masking, "_check_roster", lambda *_: None)
    assert regions.refusal(R1, pair) == "egress-refused"
    kept_back(regions, "too few")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("masking_key", "e30=", "record"),
        ("masked", {"attempt": 1, "regions": ["nobody"]}, "plan does not have"),
        ("update", "0" * 64, "update"),
    ],
)
def test_a_key_that_is_not_this_rounds_stays(
    regions: SecureRegions,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    value: JsonValue,
    why: str,
) -> None:
    from client.engine.round_training import RoundTraining

    train = RoundTraining.train

    def altered(self: RoundTraining, *given: Any) -> tuple[Header, Arrays]:
        header, arrays = train(self, *given)
        return {**header, field: value}, arrays

    monkeypatch.setattr(RoundTraining, "train", altered)
    reply, _ = ask(regions.engines[R1], train_header(regions.plan), {})
    assert reply["reason"] == "egress-refused"
    kept_back(regions, why)


def test_an_honest_execution_passes_and_its_sum_is_exact(sharing: SharedRegions) -> None:
    sharing.train()
    coordinator = sharing.coordinator()
    sharing.to_shares(coordinator)
    total = sharing.to_sum(coordinator)
    np.testing.assert_array_equal(total, sharing.sealed_sum(list(sharing.engines)))


def test_shares_of_noise_do_not_leave_in_the_open(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SecureSums, "offer", lambda *_: None)
    reply, arrays = ask(sharing.engines[R1], train_header(sharing.plan), {})
    assert (reply["reason"], arrays) == ("egress-refused", {})


def test_a_share_of_noise_without_masks_stays(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing.train()
    coordinator = sharing.coordinator()
    sharing.to_shares(coordinator)
    monkeypatch.setattr(
        RegionExecution, "_masked", lambda self, roster, vector: np.array(vector, np.uint32)
    )
    with pytest.raises(AssertionError):
        sharing.mask(coordinator, R1)
    kept_back(sharing, "without a mask")


def test_what_left_under_masks_once_does_not_leave_again(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sums of one seal would differ by others' shares of noise, down to one."""
    sharing.train()
    first = sharing.coordinator()
    sharing.to_shares(first)
    sharing.mask(first, R1)
    second = sharing.coordinator(attempt=2)
    # The engine has forgotten that the seal is dead.
    monkeypatch.setattr(Executions, "is_dead", lambda *_: False)
    sharing.to_shares(second)
    with pytest.raises(AssertionError):
        sharing.mask(second, R1)
    kept_back(sharing, "under masks before")


def _opened(sharing: SharedRegions) -> tuple[list[str], JsonValue]:
    """An execution up to its last step."""
    from common.double_masking.codec import bytes_from_json, envelopes_to_json
    from tests.support.secure_regions import flattened

    sharing.train()
    coordinator = sharing.coordinator()
    sharing.to_shares(coordinator)
    for region in sharing.engines:
        coordinator.accept_masked(region, flattened(sharing.mask(coordinator, region)[1]))
    survivors = coordinator.close_masked()
    for region in survivors:
        reply, _ = sharing.done(region, "agree", [*survivors])
        coordinator.accept_agreement(region, bytes_from_json(reply["agreement"]))
    return [*survivors], envelopes_to_json(coordinator.close_agreement())


def _changed(reveal: Reveal, survivors: list[str], how: str) -> Reveal:
    seeds, share = dict(reveal.seed_shares), next(iter(reveal.seed_shares.values()))
    keys: Mapping[str, bytes] = reveal.key_shares
    if how == "both":
        keys = {survivors[0]: share}
    elif how == "fewer":
        del seeds[survivors[0]]
    else:
        keys = {"region-9": share}
    return Reveal(seed_shares=seeds, key_shares=dict(keys))


@pytest.mark.parametrize(
    ("how", "why"), [("both", "both secrets"), ("fewer", "not logged"), ("other", "plan")]
)
def test_shares_are_given_up_of_those_who_were_summed_and_of_nobody_both(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch, how: str, why: str
) -> None:
    survivors, agreements = _opened(sharing)
    unmask = RegionExecution.unmask
    monkeypatch.setattr(
        RegionExecution,
        "unmask",
        lambda self, given: _changed(unmask(self, given), survivors, how),
    )
    assert sharing.refusal(R1, "unmask", agreements) == "egress-refused"
    kept_back(sharing, why)


def test_shares_whose_giving_up_was_not_logged_stay(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, agreements = _opened(sharing)
    log = sharing.engines[R1].log
    append = type(log).append

    def forgetful(self: Any, entries: Any, **named: Any) -> range:
        if self is log and b"unmask+json" in entries[0]:
            return range(0)
        return append(self, entries, **named)

    monkeypatch.setattr(type(log), "append", forgetful)
    assert sharing.refusal(R1, "unmask", agreements) == "egress-refused"
    kept_back(sharing, "not logged")


def test_an_execution_is_opened_once(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, agreements = _opened(sharing)
    reply, _ = sharing.done(R1, "unmask", agreements)
    monkeypatch.setattr(executions_module.Executions, "take", lambda *_: ({**reply}, {}))
    assert sharing.refusal(R1, "unmask", agreements) == "egress-refused"
    kept_back(sharing, "opened before")


def test_ones_own_share_does_not_leave(
    sharing: SharedRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing.train()
    give = RegionExecution._give_shares

    def lavish(self: RegionExecution, roster: Any) -> Any:
        given = give(self, roster)
        given.ciphertexts[R1] = next(iter(given.ciphertexts.values()))
        return given

    monkeypatch.setattr(RegionExecution, "_give_shares", lavish)
    with pytest.raises(AssertionError):
        sharing.to_shares(sharing.coordinator())
    kept_back(sharing, "others than it commits to")
