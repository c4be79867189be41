from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.double_masking.messages import Reveal, Step
from common.double_masking.records import threshold_of
from common.errors import FormatError
from common.secure_aggregation import (
    MaskContext,
    SecureSumRefusedError,
    add_pairwise_masks,
    shared_secret,
)
from tests.support.masking_execution import Federation

TOO_FEW = {"too-few-survivors", "too-few-agree", "too-few-reveal"}


def _whole(federation: Federation, lost: dict[str, list[str]]) -> tuple[np.ndarray, list[str]]:
    """An execution in which regions are lost before each of the steps named."""
    there = list(federation.regions)

    def without(step: str) -> list[str]:
        nonlocal there
        there = [region for region in there if region not in lost.get(step, [])]
        return there

    keys = federation.pin(without("pin"))
    federation.share(keys, without("share"))
    survivors = federation.mask(without("mask"))
    agreements = federation.agree(survivors, without("agree"))
    return federation.unmask(agreements, without("unmask")), list(survivors)


@pytest.mark.parametrize("count", [4, 16, 50])
def test_sums_are_exact_to_the_bit(count: int) -> None:
    federation = Federation(count)
    total, survivors = _whole(federation, {})
    assert survivors == federation.regions
    assert np.array_equal(total, federation.expected(federation.regions))


@pytest.mark.parametrize("count", [4, 16, 50])
@pytest.mark.parametrize("step", ["share", "mask", "agree", "unmask"])
def test_sums_are_exact_whatever_step_regions_are_lost_at(count: int, step: str) -> None:
    federation = Federation(count)
    spare = count - threshold_of(count)
    lost = federation.regions[1 : 1 + spare]
    assert lost
    total, survivors = _whole(federation, {step: lost})
    gone = lost if step in ("share", "mask") else []
    assert survivors == [region for region in federation.regions if region not in gone]
    assert np.array_equal(total, federation.expected(survivors))


def test_sums_are_exact_with_losses_at_every_step_at_once() -> None:
    federation = Federation(16)
    names = federation.regions
    lost = {"share": [names[0]], "mask": names[1:3], "agree": [names[3]], "unmask": [names[4]]}
    total, survivors = _whole(federation, lost)
    assert survivors == names[3:]
    assert np.array_equal(total, federation.expected(survivors))


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 9), st.data())
def test_either_the_sum_of_the_survivors_or_nothing(count: int, data: st.DataObject) -> None:
    federation = Federation(count)
    steps = ["pin", "share", "mask", "agree", "unmask"]
    fates = data.draw(
        st.lists(st.sampled_from([*steps, *["never"] * 12]), min_size=count, max_size=count)
    )
    lost = {step: [] for step in [*steps, "never"]}
    for region, fate in zip(federation.regions, fates, strict=True):
        lost[fate].append(region)
    del lost["never"]
    # How many are left at the end decides, whoever they are.
    pinned = count - len(lost["pin"])
    least, left = max(3, threshold_of(pinned)), pinned
    for step in steps[1:]:
        left -= len(lost[step])
    if left < least:
        with pytest.raises(SecureSumRefusedError) as refused:
            _whole(federation, lost)
        assert refused.value.reason in TOO_FEW
        return
    total, survivors = _whole(federation, lost)
    assert np.array_equal(total, federation.expected(survivors))
    assert len(survivors) >= least


def test_values_that_wrap_around_are_summed_in_the_ring() -> None:
    federation = Federation(4)
    for party in federation.parties.values():
        party.vector[:] = 2**31 + 5
    total, _ = _whole(federation, {})
    assert (total == 20).all()


def test_masked_values_look_random_and_leave_the_vector_alone() -> None:
    federation = Federation(4)
    federation.share(federation.pin(), federation.regions)
    party = federation.parties[federation.regions[0]]
    before = party.vector.copy()
    masked = party.run.mask(federation.coordinator.deliveries(party.region), party.vector)
    assert np.array_equal(party.vector, before)
    assert abs(np.corrcoef(masked.astype(float), party.vector.astype(float))[0, 1]) < 0.2
    # Bits of a uniform 32-bit number, within 6.5 of their standard deviations.
    ones = np.unpackbits(masked.view(np.uint8)).sum()
    assert abs(int(ones) - 16_000) < 6.5 * np.sqrt(8_000)


def test_a_lone_masked_vector_stays_hidden_with_all_but_one_of_its_secrets() -> None:
    # Without its self-mask, a late vector of a region whose key was given up would be open.
    federation = Federation(4)
    federation.share(federation.pin(), federation.regions)
    late, *others = federation.regions
    deliveries = federation.coordinator.deliveries(late)
    late_vector = federation.parties[late].run.mask(deliveries, federation.parties[late].vector)
    survivors = federation.mask(others)
    federation.unmask(federation.agree(survivors, others), others)
    roster = federation.coordinator._known_roster()
    key = federation.coordinator._key_of(late, roster)
    secrets = {peer: shared_secret(key, roster.key(peer, "masking_key")) for peer in others}
    pairwise = np.zeros_like(late_vector)
    context = MaskContext(1, federation.coordinator._share_roster)
    add_pairwise_masks(pairwise, late, secrets, context)
    assert (late_vector - pairwise != federation.parties[late].vector).mean() > 0.99


@pytest.mark.parametrize("n", range(1, 60))
def test_two_sets_of_the_threshold_share_more_than_a_third(n: int) -> None:
    assert 2 * threshold_of(n) - n > n / 3


def test_two_executions_never_share_a_key_or_a_mask() -> None:
    first, second = Federation(4), Federation(4)
    region = first.regions[0]
    first.share(first.pin(), first.regions)
    second.share(second.pin(), second.regions)
    masked = [
        each.parties[region].run.mask(
            each.coordinator.deliveries(region), each.parties[region].vector
        )
        for each in (first, second)
    ]
    assert (masked[0] != masked[1]).mean() > 0.99


def test_after_a_step_that_was_refused_nothing_more_is_given() -> None:
    federation = Federation(4)
    keys, threshold = federation.pin()
    run = federation.parties[federation.regions[0]].run
    with pytest.raises(SecureSumRefusedError) as refused:
        run.share(keys, threshold=threshold - 1)
    assert refused.value.reason == "threshold-differs"
    with pytest.raises(SecureSumRefusedError) as refused:
        run.share(keys, threshold=threshold)
    assert refused.value.reason == "execution-over"
    assert run.step is Step.PINNED


@pytest.mark.parametrize("skip", ["share", "mask", "agree", "unmask"])
def test_steps_out_of_their_order_are_refused(skip: str) -> None:
    federation = Federation(4)
    run = federation.parties[federation.regions[0]].run
    vector = federation.parties[federation.regions[0]].vector
    steps = {
        "share": lambda: run.share([], threshold=3),
        "mask": lambda: run.mask({}, vector),
        "agree": lambda: run.agree(federation.regions),
        "unmask": lambda: run.unmask([]),
    }
    with pytest.raises(SecureSumRefusedError) as refused:
        steps[skip]()
    assert refused.value.reason == "out-of-order"


def test_every_step_is_taken_once() -> None:
    federation = Federation(4)
    agreements = federation.to_agreement()
    region = federation.regions[0]
    run = federation.parties[region].run
    with pytest.raises(SecureSumRefusedError) as refused:
        run.agree(federation.regions)
    assert refused.value.reason == "step-repeated"
    run.unmask(agreements)
    for step in (run.pin_keys, lambda: run.share([], threshold=3)):
        with pytest.raises(SecureSumRefusedError) as refused:
            step()
        assert refused.value.reason == "step-repeated"


def test_the_coordinator_takes_nothing_out_of_turn_or_form() -> None:
    federation = Federation(4)
    coordinator, region = federation.coordinator, federation.regions[0]
    with pytest.raises(SecureSumRefusedError, match="No roster"):
        coordinator.deliveries(region)
    federation.share(federation.pin(), federation.regions)
    with pytest.raises(FormatError, match="another form"):
        coordinator.accept_masked(region, np.zeros(7, np.uint32))
    with pytest.raises(SecureSumRefusedError) as refused:
        coordinator.accept_reveal(region, Reveal({}, {}))
    assert refused.value.reason == "out-of-order"
    vector = np.zeros(1000, np.uint32)
    coordinator.accept_masked(region, vector)
    with pytest.raises(SecureSumRefusedError, match="awaited"):
        coordinator.accept_masked(region, vector)
    with pytest.raises(SecureSumRefusedError, match="1 regions are left of 4"):
        coordinator.close_masked()
