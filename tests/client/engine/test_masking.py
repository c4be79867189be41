"""A region in a secure sum: exact sums, and each attack on it refused by name.

Every attack is the coordinator's: it makes the rosters and relays everything. Those on rosters as
such are in `tests/common/secure_aggregation/test_roster.py` too; here a real engine is attacked.
"""

from __future__ import annotations

import copy
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from client.engine import masking as module
from client.engine.backup import make_backup
from client.engine.masking_keys import MaskingKeyStore
from client.engine.service import open_engine
from common import failpoints
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash
from common.envelope import Envelope
from common.errors import StorageError
from common.failpoints import Point
from common.keys import Signer
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.secure_aggregation import (
    MaskingKey,
    MaskingStatement,
    Roster,
    decode_roster,
    encode_roster,
    make_statement,
    open_statement,
)
from common.timestamps import now_ms
from server.aggregation import first_model
from simulations.provision import RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import publish, witnessed
from tests.support.memory_signer import MemorySigner
from tests.support.secure_regions import (
    SecureRegions,
    flattened,
    keys_in,
    secure_regions,
    train_header,
)
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
R1, R2, R3, R4 = (f"region-{number}" for number in range(1, 5))


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("secure") / "run"
    return make_federation(root, regions=4, quorum=3, rule="secure-sum")


@pytest.fixture
def federation(provisioned: Federation, tmp_path: Path) -> Federation:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    return RunFolder(tmp_path / "run"), plan, set_ups


@pytest.fixture
def regions(federation: Federation) -> Iterator[SecureRegions]:
    folder, plan, _ = federation
    with secure_regions(folder, plan) as opened:
        yield opened


def trainer(regions: SecureRegions, region: str) -> Signer:
    return home_of(regions.folder, region).signer("trainer")


def restated(
    regions: SecureRegions, whose: str, signer: Signer | None = None, **changes: Any
) -> Envelope:
    """A region's statement with other content, signed by it if by nobody else."""
    said = open_statement(regions.statements[whose])
    record = MaskingStatement(**{**vars(said), **changes})
    return Envelope.decode(make_statement(record, signer or trainer(regions, whose)))


def with_statement(regions: SecureRegions, region: str, envelope: Envelope) -> Roster:
    return Roster.of([*(e for r, e in regions.statements.items() if r != region), envelope])


def test_the_sum_is_exact_and_nothing_else_leaves(regions: SecureRegions) -> None:
    regions.train()
    roster = regions.roster()
    np.testing.assert_array_equal(regions.sum(roster), regions.plain_sum(roster.regions))
    # What one region sent is no update of anyone's.
    _, arrays = regions.mask(R1, roster)
    seal = regions.engines[R1]._seals.read(regions.plan.run_id, 1)
    assert seal is not None
    steps = np.ldexp(seal.arrays["popularity"].astype(np.float64), 12).astype(np.int32)
    assert (arrays["popularity"] != steps).mean() > 0.9


def test_a_mask_is_logged_before_it_leaves_with_all_that_it_is_of(regions: SecureRegions) -> None:
    regions.train()
    roster = regions.roster()
    reply, arrays = regions.mask(R2, roster)
    (entry,) = regions.entries(R2, "mask")
    assert entry["masked"] == reply["masked"] == arrays_digest(arrays)
    assert entry["roster"] == reply["roster"]
    assert entry["attempt"] == 1
    assert entry["bytes"] == sum(array.nbytes for array in arrays.values())
    assert [each["region"] for each in entry["members"]] == list(roster.regions)
    seal = regions.engines[R2]._seals.read(regions.plan.run_id, 1)
    assert seal is not None
    assert entry["members"][1]["round_entry"] == leaf_hash(seal.round_entry).hex()
    # The public bound that the region has held its update's norm to.
    norm = float(np.linalg.norm(seal.arrays["popularity"]))
    assert norm <= float(str(entry["norm_bound"]))
    logged = dict(regions.engines[R2].log.entries())[reply["leaf_index"]]
    assert Envelope.decode(logged).kind == "mask"


def test_survivors_mask_the_same_sealed_bytes_anew(regions: SecureRegions) -> None:
    regions.train()
    whole = regions.roster()
    first = {region: regions.mask(region, whole)[1] for region in (R1, R2, R3)}
    rest = regions.roster([R1, R2, R3])
    np.testing.assert_array_equal(regions.sum(rest, attempt=2), regions.plain_sum([R1, R2, R3]))
    for region, arrays in first.items():
        again = regions.mask(region, rest, attempt=2)[1]
        assert not np.array_equal(flattened(again), flattened(arrays))
    assert len(regions.engines[R1].ledger.charges) == 1


def test_a_repeated_request_gets_the_same_bytes_and_no_second_entry(
    regions: SecureRegions,
) -> None:
    regions.train()
    roster = regions.roster()
    first = regions.mask(R1, roster)
    second = regions.mask(R1, roster)
    np.testing.assert_array_equal(flattened(first[1]), flattened(second[1]))
    assert first[0]["mask_entry"] == second[0]["mask_entry"]
    assert len(regions.entries(R1, "mask")) == 1


def test_one_attempt_is_for_one_roster(regions: SecureRegions) -> None:
    regions.train()
    regions.mask(R1, regions.roster(), attempt=2)
    fewer = regions.roster([R1, R2, R3])
    assert regions.refusal(R1, fewer, attempt=2) == "attempt-used"
    assert regions.refusal(R1, fewer, attempt=1) == "attempt-used"
    assert regions.refusal(R1, regions.roster(), attempt=1) == "attempt-used"
    assert regions.mask(R1, fewer, attempt=3)[0]["status"] == "ok"


def test_whoever_was_left_out_stays_out(regions: SecureRegions) -> None:
    """Otherwise a coordinator solves for each region's update with enough rosters."""
    regions.train()
    regions.mask(R1, regions.roster([R1, R2, R3]))
    for others in ([R1, R2, R4], [R1, R2, R3, R4], [R1, R3, R4]):
        assert regions.refusal(R1, regions.roster(others), attempt=2) == "not-survivors"


def test_attempts_outlast_the_engine(federation: Federation) -> None:
    """A crash does not let one attempt be for two rosters, and a restart goes on."""
    folder, plan, _ = federation
    with secure_regions(folder, plan) as regions:
        regions.train()
        roster = regions.roster()
        before = regions.mask(R1, roster)
        statements = dict(regions.statements)
    with secure_regions(folder, plan) as regions:
        regions.train()
        assert regions.statements == statements
        assert regions.hints[R1] == {"attempt": 1, "regions": [R1, R2, R3, R4]}
        assert regions.hints[R2] is None
        assert regions.refusal(R1, regions.roster([R1, R2, R3])) == "attempt-used"
        after = regions.mask(R1, roster)
        np.testing.assert_array_equal(flattened(before[1]), flattened(after[1]))
        np.testing.assert_array_equal(regions.sum(roster), regions.plain_sum(roster.regions))


class KilledError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize(
    "point",
    [
        Point.MASKING_KEY_KEPT,
        Point.FILE_WRITTEN,
        Point.FILE_RENAMED,
        Point.LOG_WRITTEN,
        Point.LOG_COMMITTED,
        Point.MASK_LOGGED,
    ],
)
def test_a_region_killed_at_any_place_goes_on_and_never_contradicts_itself(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, point: Point
) -> None:
    """Killed while it states its key, masks, or removes keys: first of all at this place."""
    folder, plan, _ = federation
    left: list[tuple[int, str, bytes]] = []

    def live(kill: bool) -> None:
        with secure_regions(folder, plan) as regions:
            regions.train(regions=[R2, R3])
            with monkeypatch.context() as patch:
                if kill:
                    patch.setattr(failpoints, "hook", killer(point, regions))
                regions.train(regions=[R1])
                roster = regions.roster([R1, R2, R3])
                attempt = 1 + max(
                    (hint["attempt"] for hint in regions.hints.values() if isinstance(hint, dict)),
                    default=0,
                )
                reply, arrays = regions.mask(R1, roster, attempt=attempt)
                left.append((attempt, str(reply["roster"]), flattened(arrays).tobytes()))
                total = regions.sum(roster, attempt=attempt)
                np.testing.assert_array_equal(total, regions.plain_sum(roster.regions))
                regions.train(2, first_model(total, plan), [R1])
            assert keys_in(folder, R1)[-1].name == "run-1-0002.masking-key"
            assert len(keys_in(folder, R1)) == 1

    with pytest.raises(KilledError):
        live(kill=True)
    live(kill=False)
    rosters: dict[int, set[str]] = {}
    with AuditLog.open_read_only(home_of(folder, R1).log) as log:
        for _, data in log.entries():
            if (envelope := Envelope.decode(data)).kind == "mask":
                record = envelope.record()
                rosters.setdefault(int(str(record["attempt"])), set()).add(str(record["roster"]))
    assert rosters
    assert all(len(each) == 1 for each in rosters.values())
    assert {(attempt, roster) for attempt, roster, _ in left} <= {
        (attempt, roster) for attempt, each in rosters.items() for roster in each
    }


def test_a_region_killed_while_it_removes_keys_goes_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = federation
    with secure_regions(folder, plan) as regions:
        regions.train()
        model = first_model(regions.sum(regions.roster()), plan)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hook", killer(Point.MASKING_KEYS_REMOVED, regions))
            with pytest.raises(KilledError):
                regions.train(2, model)
    with secure_regions(folder, plan) as regions:
        regions.train(2, model)
        total = regions.sum(regions.roster(), server_round=2)
        np.testing.assert_array_equal(total, regions.plain_sum([R1, R2, R3, R4], 2))
        assert [path.name for path in keys_in(folder, R1)] == ["run-1-0002.masking-key"]


def killer(point: Point, regions: SecureRegions) -> Any:
    """Ends the process, as it were, at the first such place where masks are concerned."""

    def hook(at: object) -> None:
        own = (Point.MASKING_KEY_KEPT, Point.MASKING_KEYS_REMOVED)
        concerns = at in own or keys_in(regions.folder, R1)
        if at is point and concerns:
            raise KilledError

    return hook


def test_nothing_leaves_whose_entry_the_log_did_not_take(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()

    def full(*_: object, **__: object) -> range:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", full)
        assert regions.refusal(R1, regions.roster()) == "storage-failure"
    assert regions.entries(R1, "mask") == []
    assert regions.mask(R1, regions.roster([R1, R2, R3]))[0]["status"] == "ok"


def test_a_man_in_the_middle_is_refused(regions: SecureRegions) -> None:
    """The coordinator gives its own key out as another region's."""
    regions.train()
    its_own = MaskingKey.generate().public
    wire = copy.deepcopy(encode_roster(regions.roster()))
    wire["members"][1]["statement"]["public_key"] = its_own.hex()  # type: ignore[index]
    assert regions.refusal(R1, decode_roster(wire)) == "wrong-signer"
    for signer in (MemorySigner("coordinator"), trainer(regions, R3)):
        forged = restated(regions, R2, signer, public_key=its_own)
        assert regions.refusal(R1, with_statement(regions, R2, forged)) == "wrong-signer"
    assert regions.entries(R1, "mask") == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run": "an-earlier-run"}, "other-run"),
        ({"plan": "0" * 64}, "other-plan"),
        ({"server_round": 2}, "other-round"),
        ({"mechanism": "factors"}, "other-mechanism"),
        ({"model_in": "0" * 64}, "other-model"),
    ],
    ids=lambda value: str(value),
)
def test_keys_and_models_of_another_sum_are_refused(
    regions: SecureRegions, changes: dict[str, Any], expected: str
) -> None:
    """Stale keys; a replayed round; one region sent another model than the rest."""
    regions.train()
    said = open_statement(regions.statements[R2])
    other = restated(regions, R2, context=type(said.context)(**{**vars(said.context), **changes}))
    assert regions.refusal(R1, with_statement(regions, R2, other)) == expected


def test_fewer_than_three_or_than_the_quorum_are_refused(regions: SecureRegions) -> None:
    regions.train()
    for few in ([R1], [R1, R2]):
        assert regions.refusal(R1, regions.roster(few)) == "too-few"


def test_fewer_than_the_policy_wants_are_refused(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()
    engine = regions.engines[R1]
    strict = engine.policy.model_copy(update={"quorum_min": 4})
    monkeypatch.setattr(engine._secure.masking, "_policy", strict)
    assert regions.refusal(R1, regions.roster([R1, R2, R3])) == "too-few"


def test_sybils_are_refused(regions: SecureRegions) -> None:
    """A region that nobody registered, and one that is there twice."""
    regions.train()
    sybil = restated(regions, R2, MemorySigner("sybil"), region="region-9")
    roster = Roster.of([*regions.statements.values(), sybil])
    assert regions.refusal(R1, roster) == "unknown-region"
    twin = restated(regions, R2, public_key=MaskingKey.generate().public)
    roster = Roster.of([*regions.statements.values(), twin])
    assert regions.refusal(R1, roster) == "region-twice"


def test_the_own_key_given_back_is_refused(regions: SecureRegions) -> None:
    """Reflection, with a region that has signed for it."""
    regions.train()
    own = open_statement(regions.statements[R1]).public_key
    reflected = restated(regions, R2, public_key=own)
    roster = with_statement(regions, R2, reflected)
    assert regions.refusal(R1, roster) == "key-shared"
    with pytest.MonkeyPatch.context() as patch:
        # Where rosters are not looked at so closely, the agreement itself refuses.
        patch.setattr(Roster, "check", lambda *_, **__: None)
        assert regions.refusal(R1, roster) == "key-reflected"


def test_a_key_of_small_order_is_refused(regions: SecureRegions) -> None:
    regions.train()
    weak = restated(regions, R2, public_key=bytes(32))
    assert regions.refusal(R1, with_statement(regions, R2, weak)) == "key-weak"


def test_a_roster_that_is_not_this_regions_is_refused(regions: SecureRegions) -> None:
    regions.train()
    assert regions.refusal(R4, regions.roster([R1, R2, R3])) == "not-in-roster"
    own = restated(regions, R1, round_entry="0" * 64)
    assert regions.refusal(R1, with_statement(regions, R1, own)) == "own-statement"


def test_a_tampered_roster_is_refused(regions: SecureRegions) -> None:
    regions.train()
    for name in ("round_entry", "region"):
        wire = copy.deepcopy(encode_roster(regions.roster()))
        statement = wire["members"][2]["statement"]  # type: ignore[index]
        statement[name] = "0" * 64 if name == "round_entry" else "region-30"
        header = {"run": regions.plan.run_id, "round": 1, "attempt": 1, "roster": wire}
        reply, arrays = regions.engines[R1].call("mask", header, {})
        assert (reply["reason"] in {"wrong-signer", "unknown-region"}, arrays) == (True, {})


def test_a_round_that_is_over_or_was_never_trained_is_refused(regions: SecureRegions) -> None:
    """A round replayed, and a masked reply sent again in another round."""
    regions.train()
    roster = regions.roster()
    assert regions.refusal(R1, roster, server_round=2) == "round-not-sealed"
    total = regions.sum(roster)
    model = first_model(total, regions.plan)
    statements = dict(regions.statements)
    regions.train(2, model)
    assert regions.statements != statements
    # The keys of the round that is over are gone; what they masked stays masked.
    assert [path.name for path in keys_in(regions.folder, R1)] == ["run-1-0002.masking-key"]
    assert regions.refusal(R1, roster) == "round-over"
    assert regions.refusal(R1, roster, server_round=2) == "other-round"
    reply, _ = regions.engines[R1].call(
        "train", witnessed(regions.engines[R1], train_header(regions.plan)), {}
    )
    assert reply["reason"] == "round-over"
    assert len(regions.sum(regions.roster(), server_round=2)) == model["item_factors"].size


def test_an_open_run_is_not_masked_and_a_secure_one_not_sent_openly(
    regions: SecureRegions, tmp_path: Path
) -> None:
    regions.train()
    folder, plan, _ = make_federation(tmp_path / "open", regions=3, quorum=3)
    roster = encode_roster(regions.roster())
    with open_engine(home_of(folder)) as engine:
        header = {"run": plan.run_id, "round": 1, "attempt": 1, "roster": roster}
        assert engine.call("mask", header, {})[0]["reason"] == "not-permitted"


@pytest.mark.parametrize(
    "changes",
    [{"attempt": 0}, {"attempt": True}, {"round": 0}, {"roster": None}, {"roster": {}}, {"x": 1}],
    ids=str,
)
def test_a_malformed_request_is_refused(regions: SecureRegions, changes: dict[str, Any]) -> None:
    regions.train(regions=[R1, R2, R3])
    roster = encode_roster(regions.roster([R1, R2, R3]))
    header = {"run": regions.plan.run_id, "round": 1, "attempt": 1, "roster": roster, **changes}
    reply, arrays = regions.engines[R1].call("mask", header, {})
    assert (reply["reason"], arrays) == ("malformed-request", {})


def test_refusals_are_incidents_with_their_reason(regions: SecureRegions) -> None:
    regions.train()
    regions.refusal(R1, regions.roster([R1, R2]))
    assert [each["reason"] for each in regions.entries(R1, "incident")] == ["too-few"]


def test_an_update_over_the_public_bound_is_not_masked(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()
    monkeypatch.setattr(module, "release_norm_bound", lambda *_: 1e-3)
    assert regions.refusal(R1, regions.roster()) == "norm-too-large"


def test_a_coordinator_that_asks_for_ever_does_not_fill_the_log(
    regions: SecureRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.train()
    monkeypatch.setattr(module, "MAX_MASKS_A_ROUND", 3)
    for attempt in (1, 2, 3):
        assert regions.mask(R1, regions.roster(), attempt=attempt)[0]["status"] == "ok"
    assert regions.refusal(R1, regions.roster(), attempt=4) == "too-many-attempts"


def test_keys_are_for_their_owner_alone_and_in_no_backup(
    federation: Federation, tmp_path: Path
) -> None:
    folder, plan, _ = federation
    with secure_regions(folder, plan) as regions:
        regions.train()
        (path,) = keys_in(folder, R1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        backup = make_backup(home_of(folder, R1), tmp_path / "backup")
        assert not any("masking" in name for name in backup.files)
        private = MaskingKeyStore(path.parent).read(plan.run_id, 1)
        assert private is not None
        secret = private.key.private.hex().encode()
        assert not any(
            secret in file.read_bytes()
            for file in (tmp_path / "backup").rglob("*")
            if file.is_file()
        )


def test_a_region_that_lost_its_key_states_a_new_one(regions: SecureRegions) -> None:
    """As after a restore: what the others had masked for the old one is masked anew."""
    regions.train()
    old = regions.roster()
    regions.mask(R1, old)
    keys_in(regions.folder, R2)[0].unlink()
    assert regions.refusal(R2, old) == "round-not-sealed"
    regions.train(regions=[R2])
    assert regions.refusal(R2, old) == "own-statement"
    np.testing.assert_array_equal(
        regions.sum(regions.roster(), attempt=2), regions.plain_sum([R1, R2, R3, R4])
    )


def test_a_damaged_key_is_reported_and_not_replaced_in_silence(regions: SecureRegions) -> None:
    regions.train()
    keys_in(regions.folder, R1)[0].write_bytes(b"{}")
    assert regions.refusal(R1, regions.roster()) == "storage-failure"


def test_keys_are_removed_when_the_run_has_ended(regions: SecureRegions) -> None:
    regions.train()
    publish(regions.engines[R1], {"run": regions.plan.run_id, "round": None})
    assert keys_in(regions.folder, R1) == []
    assert len(keys_in(regions.folder, R2)) == 1


def test_keys_of_expired_permits_are_removed_when_the_engine_opens(
    federation: Federation,
) -> None:
    folder, plan, _ = federation
    with secure_regions(folder, plan) as regions:
        regions.train()
    late = now_ms() + 30 * 24 * 3600 * 1000
    with open_engine(home_of(folder, R1), clock_ms=lambda: late):
        assert keys_in(folder, R1) == []
    with open_engine(home_of(folder, R2)):
        assert len(keys_in(folder, R2)) == 1
    (home_of(folder, R2).permits / f"{plan.run_id}.json").unlink()
    with open_engine(home_of(folder, R2)):
        assert keys_in(folder, R2) == []


@pytest.mark.parametrize("policy", ["discard", "finish"])
def test_a_withdrawal_before_the_mask_is_treated_as_the_policy_says(
    tmp_path: Path, policy: Any
) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run", regions=3, quorum=3, rule="secure-sum", withdrawal_in_round=policy
    )
    with secure_regions(folder, plan) as regions:
        regions.train()
        roster = regions.roster()
    with open_region(home_of(folder, R1), set_ups[0]) as opened:
        leaving = next(each for each in opened.customers if opened.registrar.consents(each))
        opened.registrar.record([Choice.withdraw(leaving)])
        header = {"run": plan.run_id, "round": 1, "attempt": 1, "roster": encode_roster(roster)}
        reply, arrays = opened.engine.call("mask", header, {})
        if policy == "finish":
            assert (reply["status"], set(arrays)) == ("ok", {"popularity"})
        else:
            assert (reply["reason"], arrays) == ("discarded-for-withdrawal", {})
