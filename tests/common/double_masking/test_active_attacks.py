"""Twelve attacks on one execution by the coordinator, or by a region: each ends it, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from common.double_masking.messages import Reveal
from common.double_masking.records import KEYS, SHARES, SURVIVORS, Execution, sign
from common.double_masking.region import RegionExecution
from common.double_masking.sharing import Delivery
from common.secure_aggregation import MaskingKey, SecureSumRefusedError
from tests.support.masking_execution import (
    Federation,
    altered,
    execution_of,
    region_names,
    signer_of,
)

COUNT = 6


@pytest.fixture
def federation() -> Federation:
    return Federation(COUNT)


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(SecureSumRefusedError) as refused:
        step()
    return refused.value.reason


def _keys_by(
    signer: str, region: str, execution: Execution, *, masking: bytes | None = None
) -> bytes:
    """Keys of a region, as somebody else would sign them."""
    own = {
        "round_entry": "c" * 64,
        "masking_key": (masking or MaskingKey.generate().public).hex(),
        "sharing_key": MaskingKey.generate().public.hex(),
    }
    return sign(KEYS, execution, region, dict(own), signer_of(signer)).envelope


def _victim(federation: Federation) -> RegionExecution:
    return federation.parties[federation.regions[0]].run


def _nothing_more_is_given(run: RegionExecution) -> None:
    assert _refused(lambda: run.unmask([])) in ("execution-over", "unmasked-already")


def test_1_man_in_the_middle(federation: Federation) -> None:
    keys, threshold = federation.pin()
    # The coordinator puts its own keys in a peer's place: it cannot sign as that peer.
    keys[1] = _keys_by("the coordinator", federation.regions[1], federation.execution)
    victim = _victim(federation)
    assert _refused(lambda: victim.share(keys, threshold=threshold)) == "wrong-signer"
    _nothing_more_is_given(victim)


def test_1_man_in_the_middle_with_another_region_s_help(federation: Federation) -> None:
    keys, threshold = federation.pin()
    # A region that colludes signs for itself only.
    keys[1] = _keys_by(federation.regions[2], federation.regions[1], federation.execution)
    assert _refused(lambda: _victim(federation).share(keys, threshold=threshold)) == "wrong-signer"


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        (execution_of(region_names(COUNT), server_round=1), "other-round"),
        (execution_of(region_names(COUNT), attempt=2), "other-attempt"),
        (
            altered(execution_of(region_names(COUNT)), lambda each: replace(each, run="run-0")),
            "other-run",
        ),
        (
            altered(execution_of(region_names(COUNT)), lambda each: replace(each, plan="e" * 64)),
            "other-plan",
        ),
    ],
)
def test_2_stale_keys(federation: Federation, earlier: Execution, reason: str) -> None:
    keys, threshold = federation.pin()
    # A peer's own, rightly signed keys, of another execution: their secret may be known by now.
    keys[1] = _keys_by(federation.regions[1], federation.regions[1], earlier)
    victim = _victim(federation)
    assert _refused(lambda: victim.share(keys, threshold=threshold)) == reason
    _nothing_more_is_given(victim)


def test_2_the_victim_s_own_stale_keys(federation: Federation) -> None:
    keys, threshold = federation.pin()
    keys[0] = _keys_by(federation.regions[0], federation.regions[0], federation.execution)
    assert (
        _refused(lambda: _victim(federation).share(keys, threshold=threshold)) == "own-keys-differ"
    )


def test_3_round_replay(federation: Federation) -> None:
    federation.to_agreement()
    region = federation.regions[0]
    # The whole round again: keys are made once for each run, round and attempt.
    assert _refused(lambda: federation.region(region)) == "context-used"


def test_3_replay_of_shares_from_another_roster(federation: Federation) -> None:
    everybody = federation.pin()
    federation.share(everybody, federation.regions)
    deliveries = federation.coordinator.deliveries(federation.regions[0])
    other = Federation(COUNT)
    other.share(other.pin(), other.regions)
    victim = other.regions[0]
    own = other.coordinator.deliveries(victim)[victim]
    run = other.parties[victim].run
    vector = other.parties[victim].vector
    assert _refused(lambda: run.mask({**deliveries, victim: own}, vector)) == "rosters-differ"


@pytest.mark.parametrize("threshold", [1, 4, 6])
def test_4_lowered_threshold(federation: Federation, threshold: int) -> None:
    keys, right = federation.pin()
    assert right == 5
    victim = _victim(federation)
    assert _refused(lambda: victim.share(keys, threshold=threshold)) == "threshold-differs"
    _nothing_more_is_given(victim)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_4_lowered_threshold_by_a_small_roster(kept: int) -> None:
    federation = Federation(COUNT, least=4)
    keys, _ = federation.pin()
    victim = _victim(federation)
    assert _refused(lambda: victim.share(keys[:kept], threshold=1)) == "too-few-survivors"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_5_single_survivor(federation: Federation, count: int) -> None:
    federation.share(federation.pin(), federation.regions)
    federation.mask(federation.regions)
    victim = _victim(federation)
    assert _refused(lambda: victim.agree(federation.regions[:count])) == "too-few-survivors"
    _nothing_more_is_given(victim)


def test_5_fewer_survivors_than_the_noise_is_calibrated_to() -> None:
    federation = Federation(COUNT, least=COUNT)
    federation.share(federation.pin(), federation.regions)
    federation.mask(federation.regions)
    # Five of six would do for the threshold, not for K_min.
    told = federation.regions[:5]
    assert _refused(lambda: _victim(federation).agree(told)) == "too-few-survivors"


def test_5_single_sharer(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region = federation.regions[0]
    alone = {region: federation.coordinator.deliveries(region)[region]}
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(alone, party.vector)) == "too-few-survivors"


def test_6_split_view_of_the_survivors(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    everybody = federation.mask(federation.regions)
    fewer = everybody[:-1]
    # Half are told that one region was lost; with both kinds of shares its masks would be open.
    agreements = [
        federation.parties[region].run.agree(fewer if number % 2 else everybody)
        for number, region in enumerate(fewer)
    ]
    for region in fewer:
        run = federation.parties[region].run
        assert _refused(lambda run=run: run.unmask(agreements)) == "survivors-differ"
        _nothing_more_is_given(run)


def test_6_each_half_alone_is_too_small(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    everybody = federation.mask(federation.regions)
    agreements = [federation.parties[region].run.agree(everybody) for region in everybody[:4]]
    # Four of six believe the same; five must.
    assert _refused(lambda: _victim(federation).unmask(agreements)) == "too-few-agree"


def test_6_agreements_that_nobody_signed(federation: Federation) -> None:
    agreements = federation.to_agreement()
    forged = sign(
        SURVIVORS,
        federation.execution,
        federation.regions[1],
        {"share_roster": "0" * 64, "survivors": list(federation.regions)},
        signer_of("the coordinator"),
    )
    run = _victim(federation)
    assert _refused(lambda: run.unmask([*agreements[2:], forged.envelope])) == "wrong-signer"


def test_7_unmasking_twice(federation: Federation) -> None:
    agreements = federation.to_agreement()
    victim = _victim(federation)
    revealed = victim.unmask(agreements)
    assert set(revealed.seed_shares) == set(federation.regions)
    assert not revealed.key_shares
    assert _refused(lambda: victim.unmask(agreements)) == "unmasked-already"
    assert not victim._held


def test_7_of_nobody_both_shares(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    there = federation.regions[1:]
    survivors = federation.mask(there)
    agreements = federation.agree(survivors, there)
    for region in there:
        revealed = federation.parties[region].run.unmask(agreements)
        assert not set(revealed.seed_shares) & set(revealed.key_shares)
        assert set(revealed.key_shares) == {federation.regions[0]}


def test_8_resending_under_another_roster(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region = federation.regions[0]
    party, deliveries = federation.parties[region], federation.coordinator.deliveries(region)
    party.run.mask(deliveries, party.vector)
    del deliveries[federation.regions[-1]]
    # The same values under other masks would differ by one region's masks only.
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "masked-already"


def test_9_corrupted_share_on_its_way(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region, owner = federation.regions[:2]
    deliveries = federation.coordinator.deliveries(region)
    ciphertext = bytearray(deliveries[owner].ciphertext or b"")
    ciphertext[3] ^= 1
    deliveries[owner] = replace(deliveries[owner], ciphertext=bytes(ciphertext))
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "share-corrupt"
    _nothing_more_is_given(party.run)


@pytest.mark.parametrize("stolen", ["another owner's", "another holder's", "none"])
def test_9_share_of_another_owner_or_for_another_holder(
    federation: Federation, stolen: str
) -> None:
    federation.share(federation.pin(), federation.regions)
    region, first, second = federation.regions[:3]
    deliveries = federation.coordinator.deliveries(region)
    ciphertext = {
        "another owner's": deliveries[second].ciphertext,
        "another holder's": federation.coordinator.deliveries(second)[first].ciphertext,
        "none": None,
    }[stolen]
    deliveries[first] = replace(deliveries[first], ciphertext=ciphertext)
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "share-corrupt"


def test_9_owner_that_commits_to_other_shares(federation: Federation) -> None:
    keys = federation.pin()
    federation.share(keys, federation.regions)
    region, owner = federation.regions[:2]
    deliveries = federation.coordinator.deliveries(region)
    # A proof of some other place: the commitment is not to what was decrypted.
    wrong = federation.coordinator.deliveries(federation.regions[2])[owner].proof
    deliveries[owner] = replace(deliveries[owner], proof=wrong)
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "share-corrupt"


def test_9_corrupted_share_given_up(federation: Federation) -> None:
    agreements = federation.to_agreement()
    region, owner = federation.regions[:2]
    revealed = federation.parties[region].run.unmask(agreements)
    forged = Reveal({**revealed.seed_shares, owner: bytes(66)}, revealed.key_shares)
    with pytest.raises(SecureSumRefusedError, match=region) as refused:
        federation.coordinator.accept_reveal(region, forged)
    assert refused.value.reason == "share-corrupt"
    # The region counts as lost; five of six suffice, and the sum is still exact.
    total = federation.unmask(agreements, federation.regions[1:])
    assert np.array_equal(total, federation.expected(federation.regions))


def test_10_reflection_of_keys(federation: Federation) -> None:
    keys, threshold = federation.pin()
    victim = _victim(federation)
    own = victim._secrets
    assert own is not None
    # A peer that colludes signs the victim's own public key as its own.
    keys[1] = _keys_by(
        federation.regions[1],
        federation.regions[1],
        federation.execution,
        masking=own.masking.public,
    )
    assert _refused(lambda: victim.share(keys, threshold=threshold)) == "key-shared"


def test_10_reflection_of_the_victim_s_own_shares(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region, owner = federation.regions[:2]
    deliveries = federation.coordinator.deliveries(region)
    # What the victim encrypted for the owner comes back as what the owner encrypted for it.
    returned = federation.coordinator.deliveries(owner)[region].ciphertext
    deliveries[owner] = replace(deliveries[owner], ciphertext=returned)
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "share-corrupt"


def test_11_sybil_regions(federation: Federation) -> None:
    keys, threshold = federation.pin()
    # Regions of the coordinator's making would make up a sum of one victim and themselves.
    invented = _keys_by("the coordinator", "region-99", federation.execution)
    assert (
        _refused(lambda: _victim(federation).share([*keys, invented], threshold=threshold))
        == "unknown-region"
    )


def test_11_one_region_under_two_names(federation: Federation) -> None:
    keys, threshold = federation.pin()
    twice = _keys_by(federation.regions[1], federation.regions[1], federation.execution)
    assert (
        _refused(lambda: _victim(federation).share([*keys, twice], threshold=threshold))
        == "region-twice"
    )


def test_11_two_names_for_one_key(federation: Federation) -> None:
    keys, threshold = federation.pin()
    shared = MaskingKey.generate().public
    for place in (1, 2):
        region = federation.regions[place]
        keys[place] = _keys_by(region, region, federation.execution, masking=shared)
    assert _refused(lambda: _victim(federation).share(keys, threshold=threshold)) == "key-shared"


def test_12_model_inconsistency(federation: Federation) -> None:
    keys, threshold = federation.pin()
    # Others were sent a model whose updates vanish, so that the sum would be the victim's alone.
    elsewhere = altered(federation.execution, lambda each: replace(each, model_in="d" * 64))
    region = federation.regions[1]
    keys[1] = _keys_by(region, region, elsewhere)
    victim = _victim(federation)
    assert _refused(lambda: victim.share(keys, threshold=threshold)) == "other-model"
    _nothing_more_is_given(victim)


def test_keys_of_another_encoding_are_refused(federation: Federation) -> None:
    keys, threshold = federation.pin()
    region = federation.regions[1]
    beyond = (2**255 - 19 + 9).to_bytes(32, "little")
    keys[1] = _keys_by(region, region, federation.execution, masking=beyond)
    assert _refused(lambda: _victim(federation).share(keys, threshold=threshold)) == "key-weak"


def test_keys_of_small_order_are_refused(federation: Federation) -> None:
    keys, threshold = federation.pin()
    region = federation.regions[1]
    own = {"round_entry": "c" * 64, "masking_key": "0" * 64, "sharing_key": f"01{'0' * 62}"}
    keys[1] = sign(KEYS, federation.execution, region, dict(own), signer_of(region)).envelope
    assert _refused(lambda: _victim(federation).share(keys, threshold=threshold)) == "key-weak"


def test_an_owner_that_shares_another_secret_is_named(federation: Federation) -> None:
    agreements = federation.to_agreement()
    coordinator, owner = federation.coordinator, federation.regions[1]
    statement, given, leaves = coordinator._shares[owner]
    statement.record["seed_commitment"] = "f" * 64
    coordinator._shares[owner] = (statement, given, leaves)
    for region in federation.regions:
        coordinator.accept_reveal(region, federation.parties[region].run.unmask(agreements))
    with pytest.raises(SecureSumRefusedError, match=owner) as refused:
        coordinator._seed_of(owner, coordinator._known_roster())
    assert refused.value.reason == "secret-differs"


def test_a_delivery_without_this_region_s_own_shares_is_refused(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region = federation.regions[0]
    deliveries: dict[str, Delivery] = federation.coordinator.deliveries(region)
    del deliveries[region]
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "own-shares-differ"


def test_own_shares_that_it_never_gave_are_refused(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region = federation.regions[0]
    deliveries = federation.coordinator.deliveries(region)
    own = {
        "key_roster": federation.coordinator._known_roster().digest,
        "root": "0" * 64,
        "seed_commitment": "0" * 64,
    }
    other = sign(SHARES, federation.execution, region, dict(own), signer_of(region)).envelope
    deliveries[region] = replace(deliveries[region], statement=other)
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "own-shares-differ"


def test_shares_under_another_owner_s_name_are_refused(federation: Federation) -> None:
    federation.share(federation.pin(), federation.regions)
    region, first, second = federation.regions[:3]
    deliveries = federation.coordinator.deliveries(region)
    deliveries[first] = deliveries[second]
    party = federation.parties[region]
    assert _refused(lambda: party.run.mask(deliveries, party.vector)) == "wrong-signer"


@pytest.mark.parametrize("change", ["without the victim", "with a stranger"])
def test_survivors_of_another_execution_are_refused(federation: Federation, change: str) -> None:
    federation.share(federation.pin(), federation.regions)
    federation.mask(federation.regions)
    told = {
        "without the victim": federation.regions[1:],
        "with a stranger": [*federation.regions, "region-99"],
    }[change]
    assert _refused(lambda: _victim(federation).agree(told)) == "survivors-unknown"
