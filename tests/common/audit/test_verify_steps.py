"""One lie at a time, told consistently by everyone who signs: the one check it breaks must fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import canonical_json
from common.audit.sparse_merkle import EMPTY_ROOT
from common.audit.verify import Verdict, verify_bundle
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    EPOCH_MS,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    digest,
    eligible_root,
    ulid,
)

R1, R2 = REGIONS


def verdict_on(federation: Federation, run: Path) -> Verdict:
    return verify_bundle(federation.write(run))


def found(verdict: Verdict) -> set[tuple[int, str]]:
    return {(failure.step, failure.code) for failure in verdict.failures}


def reuse_nonce(record: JsonRecord) -> None:
    nonce = digest(f"nonce {R1} 1")
    sids = [Federation().sid(R1, customer) for customer in (0, 1)]
    record["train"] |= {"nonce": nonce, "root": eligible_root(nonce, sids)}


def age(record: JsonRecord) -> None:
    record["train"]["at"] = format_time(parse_time(record["start"]) - 601_000)


# kind, round (None: every record of the kind), what is changed, the failures it must cause.
LIES: list[tuple[str, str, int | None, Callable[[JsonRecord], Any], set[tuple[int, str]]]] = [
    ("notice named is unknown", "consent", None,
     lambda r: r["notice"].update(id="pn-2"), {(4, "notice-unknown")}),
    ("notice of another digest", "consent", None,
     lambda r: r["notice"].update(sha256=digest("x")), {(4, "notice-unknown")}),
    ("policy of another digest", "policy", None,
     lambda r: r.update(policy_sha256=digest("x")), {(3, "record"), (6, "no-policy")}),
    ("permit for another purpose", "permit", None,
     lambda r: r.update(purpose="dpv:Marketing"),
     {(5, "permit-purpose"), (5, "permit-plan"), (6, "permit-beyond-policy")}),
    ("permit for more epsilon", "permit", None,
     lambda r: r.update(epsilon_cap="9"), {(5, "permit-plan")}),
    ("permit for less epsilon than spent", "permit", None,
     lambda r: r.update(epsilon_cap="2"), {(5, "permit-plan"), (6, "permit-cap")}),
    ("permit without the second round", "permit", None,
     lambda r: r["mechanisms"][1].update(rounds=[3]),
     {(5, "permit-plan"), (5, "round-not-permitted"), (6, "charge-not-permitted")}),
    ("permit for another plan", "permit", None,
     lambda r: r.update(plan=digest("x")), {(5, "plan-mismatch")}),
    ("permit that has expired", "permit", None,
     lambda r: r.update(expires=r["issued_at"]), set()),
    ("permit that had expired a minute before", "permit", None,
     lambda r: r.update(expires=format_time(EPOCH_MS - 60_000)), {(5, "permit-expired")}),
    ("permit that is not yet valid", "permit", None,
     lambda r: r.update(issued_at=format_time(EPOCH_MS + 120_000)),
     {(5, "permit-not-yet-valid"), (5, "clock-rollback")}),
    ("engine not permitted", "round", 2,
     lambda r: r.update(engine=digest("x")), {(5, "permit-mismatch")}),
    ("app not permitted", "round", 2,
     lambda r: r.update(app=digest("x")), {(5, "permit-mismatch")}),
    ("consents of another log", "round", 2,
     lambda r: r["consent"].update(origin=f"test.example/{R2}"), {(5, "consent-origin")}),
    ("more consents than there were", "round", 2,
     lambda r: r["consent"].update(size=99), {(5, "consent-size")}),
    ("consents at a size without checkpoint", "round", 2,
     lambda r: r["consent"].update(size=r["consent"]["size"] - 1), {(5, "consent-checkpoint")}),
    ("another consent root", "round", 2,
     lambda r: r["consent"].update(root=digest("x")), {(5, "consent-root")}),
    ("another number of customers", "round", 2,
     lambda r: r["train"].update(n_bucket="4-7"), {(5, "size-bucket")}),
    ("nonce of the round before", "round", 2, reuse_nonce, {(5, "nonce-reused")}),
    ("snapshot too old", "round", 1, age, {(5, "consent-age"), (5, "clock-rollback")}),
    ("snapshot after the end", "round", 2,
     lambda r: r["train"].update(at=format_time(parse_time(r["end"]) + 60_001)),
     {(5, "consent-age")}),
    ("start after the end", "round", 2,
     lambda r: r.update(start=format_time(parse_time(r["end"]) + 60_001)), {(5, "consent-age")}),
    ("previous round not named", "round", 2,
     lambda r: r.update(prev_round=None), {(5, "round-chain")}),
    ("another previous round named", "round", 2,
     lambda r: r.update(prev_round=digest("x")), {(5, "round-chain")}),
    ("delta that is not the permit's", "round", 2,
     lambda r: r["dp"].update(delta="1e-5"), {(6, "round-delta")}),
    ("smaller delta for the same epsilon", "round", 2,
     lambda r: r["dp"].update(delta="1e-7"), {(6, "round-delta"), (6, "epsilon-understated")}),
    ("another clipping norm", "round", 2,
     lambda r: r["dp"].update(clipping_norm="2.0"), {(6, "round-charge")}),
    ("earlier attempt than the charge", "charge", 2,
     lambda r: r.update(attempt=2), {(6, "round-charge")}),
    ("clipping norm not permitted", "charge", 2,
     lambda r: r.update(clipping_norm="2.0"),
     {(6, "charge-parameters"), (6, "round-charge"), (6, "charge-beyond-policy")}),
    ("above the ledger's cap", "charge", 2,
     lambda r: r.update(epsilon_cap="2"), {(6, "ledger-cap"), (6, "charge-beyond-policy")}),
    ("noise too small to account for", "charge", 2,
     lambda r: r.update(noise_multiplier="0.0001"),
     {(6, "epsilon-parameters"), (6, "charge-parameters"), (6, "round-charge"),
      (6, "charge-beyond-policy")}),
    ("noise of nothing", "charge", 2,
     lambda r: r.update(noise_multiplier="0"),
     {(6, "epsilon-parameters"), (6, "charge-parameters"), (6, "round-charge"),
      (6, "charge-beyond-policy")}),
    ("noise so small that epsilon is past all bounds", "charge", 2,
     lambda r: r.update(noise_multiplier="0.01"),
     {(6, "epsilon-understated"), (6, "charge-parameters"), (6, "round-charge"),
      (6, "permit-cap"), (6, "charge-beyond-policy"), (6, "ledger-cap")}),
    ("delta of one", "charge", 2, lambda r: r.update(delta="1"),
     {(6, "epsilon-parameters"), (6, "round-delta"), (6, "charge-beyond-policy")}),
    ("ledger rows left out", "charge", 2,
     lambda r: r.update(ledger_seq=5), {(8, "ledger-gap")}),
    ("ledger rolled back", "charge", 2,
     lambda r: r.update(ledger_seq=1), {(6, "ledger-order")}),
    ("charge under no permit", "charge", 2,
     lambda r: r.update(permit_id=ulid("x")), {(6, "round-charge"), (8, "no-permit")}),
    ("round under no permit", "round", 2,
     lambda r: r.update(permit_id=ulid("x")), {(6, "round-charge"), (8, "no-permit")}),
    ("round for no charge", "round", 2,
     lambda r: r.update(charge_id=ulid("x")), {(6, "release-without-round"), (8, "no-charge"),
                                               (8, "no-release")}),
    ("charge of the round before", "round", 2,
     lambda r: r.update(charge_id=ulid(f"charge {R1} 1")),
     {(6, "charge-reused"), (6, "round-charge"), (6, "release-without-round")}),
    ("release of another update", "release", 2,
     lambda r: r.update(update=digest("x")), {(6, "release-mismatch")}),
    ("release of another round", "release", 2,
     lambda r: r.update(round=1), {(6, "release-mismatch")}),
    ("release of another array", "release", 2,
     lambda r: r["arrays"][0].update(name="customers"), {(6, "release-arrays")}),
    ("release of one more array", "release", 2,
     lambda r: (r["arrays"].append({"name": "x", "dtype": "<f8", "shape": [1]}),
                r.update(bytes=r["bytes"] + 8)), {(6, "release-arrays")}),
    ("release of more bytes", "release", 2,
     lambda r: r.update(bytes=r["bytes"] + 1), {(6, "release-bytes")}),
    ("release off the grid", "release", 2,
     lambda r: r.update(grid_exponent=-24), {(6, "release-grid")}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "change", "expected"), [row[1:] for row in LIES], ids=[r[0] for r in LIES]
)
def test_a_regions_lie_is_caught(
    tmp_path: Path,
    kind: str,
    number: int | None,
    change: Callable[[JsonRecord], Any],
    expected: set[tuple[int, str]],
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, f"fedpref-{kind}/1") and (
            number is None or record["round"] == number
        ):
            change(record)

    verdict = verdict_on(Federation(alter=alter).run(), tmp_path)
    assert found(verdict) == expected
    assert verdict.verified is not expected
    assert {failure.party for failure in verdict.failures} <= {R1}
    assert all(failure.index is not None for failure in verdict.failures)


SERVERS_LIES: list[tuple[str, str, int | None, Callable[[JsonRecord], Any], set[tuple[int, str]]]]
SERVERS_LIES = [
    ("begins from a model of its own", "aggregate", 1,
     lambda r: r.update(model_in=digest("x")), {(7, "first-model"), (7, "aggregate-mismatch")}),
    ("another quorum than planned", "aggregate", 2,
     lambda r: r.update(quorum=1), {(7, "not-planned")}),
    ("another mechanism than planned", "aggregate", 2,
     lambda r: r.update(mechanism="other"), {(7, "not-planned"), (7, "aggregate-mismatch")}),
    ("a region twice", "aggregate", 2,
     lambda r: r["regions"].append(r["regions"][0]),
     {(7, "region-twice"), (7, "round-entry-reused")}),
    ("a region used and refused", "aggregate", 2,
     lambda r: r["refused"].append({"region": R1, "reason": "x"}), {(7, "region-twice")}),
    ("a region's round under another name", "aggregate", 2,
     lambda r: r["regions"][0].update(region="region-9"),
     {(7, "not-planned"), (7, "round-entry-missing"), (7, "round-not-aggregated"),
      (8, "region-unmentioned")}),
    ("a region passed over in silence", "aggregate", 2,
     lambda r: (r["regions"].pop(), r.update(quorum=1)),
     {(7, "not-planned"), (7, "round-not-aggregated"), (8, "region-unmentioned")}),
    ("below the quorum", "aggregate", 2,
     lambda r: (r["regions"].pop(), r["refused"].append({"region": R2, "reason": "late"})),
     {(7, "quorum")}),
    ("an attempt before the region's", "round", 2, lambda r: r.update(attempt=2),
     {(6, "release-mismatch"), (7, "aggregate-mismatch")}),
    ("a round left out", "aggregate", 2, lambda r: r.update(round=3),
     {(7, "aggregate-order"), (7, "not-planned"), (7, "aggregate-mismatch"), (8, "round-gap"),
      (7, "model-rounds")}),
    ("model of another catalogue", "model", None,
     lambda r: r.update(catalogue=digest("x")), {(7, "model-catalogue")}),
    ("model of another plan", "model", None,
     lambda r: r.update(plan=digest("x")), {(7, "plan-mismatch")}),
    ("model after fewer rounds", "model", None,
     lambda r: r.update(rounds=1), {(7, "model-rounds")}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "change", "expected"),
    [row[1:] for row in SERVERS_LIES],
    ids=[row[0] for row in SERVERS_LIES],
)
def test_the_servers_lie_is_caught(
    tmp_path: Path,
    kind: str,
    number: int | None,
    change: Callable[[JsonRecord], Any],
    expected: set[tuple[int, str]],
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == f"fedpref-{kind}/1" and (number is None or record["round"] == number):
            if kind == "round" and party != R1:
                return
            change(record)

    assert found(verdict_on(Federation(alter=alter).run(), tmp_path)) == expected


def test_training_on_nobody_is_caught(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-consent/1":
            record["state"] = "dpv:ConsentRefused"
        if party == R1 and record["v"] == "fedpref-round/1":
            record["train"]["root"] = EMPTY_ROOT.hex()

    assert found(verdict_on(Federation(alter=alter).run(), tmp_path)) == {(5, "no-consent")}


def test_a_policys_shorter_age_of_consents_is_enforced(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-round/1" and record["round"] == 2:
            record["train"]["at"] = format_time(parse_time(record["start"]) - 2000)

    federation = Federation(alter=alter)
    assert verdict_on(federation.run(), tmp_path).verified
    federation = Federation(alter=alter, consent_age_max_s=1)
    assert found(verdict_on(federation.run(), tmp_path)) == {(5, "consent-age")}


def test_a_policy_cannot_lengthen_the_age_of_consents(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-round/1" and record["round"] == 1:
            age(record)

    federation = Federation(alter=alter, consent_age_max_s=86_400, pause_ms=3_600_000)
    assert found(verdict_on(federation.run(), tmp_path)) == {(5, "consent-age")}


def test_a_run_that_ends_before_its_plan_is_incomplete(tmp_path: Path) -> None:
    verdict = verdict_on(Federation(planned_rounds=3).run(), tmp_path)
    assert found(verdict) == {(8, "rounds-missing")}
    assert verdict.integrity
    assert not verdict.verified


def test_a_run_without_regions_proves_nothing(tmp_path: Path) -> None:
    federation = Federation().run()
    plan = federation.plan_record() | {"regions": []}
    federation.files["plan.json"] = canonical_json.encode(plan)
    assert (8, "parties") in found(verdict_on(federation, tmp_path))


def test_a_run_without_a_published_model_is_incomplete(tmp_path: Path) -> None:
    federation = Federation().run()
    federation.logs[SERVER].pop()
    assert found(verdict_on(federation, tmp_path)) == {(8, "run-unfinished")}


def test_an_aggregate_behind_the_published_model_is_caught(tmp_path: Path) -> None:
    federation = Federation().run()
    log = federation.logs[SERVER]
    log.append(log.pop(-2))
    assert (7, "model-early") in found(verdict_on(federation, tmp_path))


def test_a_round_logged_twice_is_caught(tmp_path: Path) -> None:
    federation = Federation().run()
    federation.logs[R1].append(federation.logs[R1][federation.find(R1, "round", 0)])
    assert {(5, "round-repeated"), (5, "round-order"), (5, "round-chain")} <= found(
        verdict_on(federation, tmp_path)
    )


def test_a_ledger_head_that_does_not_follow_is_caught(tmp_path: Path) -> None:
    federation = Federation().run()
    index = federation.find(R1, "charge", 1)
    federation.resign(R1, index, lambda record: record.update(ledger_head=digest("x")))
    assert found(verdict_on(federation, tmp_path)) == {(6, "ledger-chain")}


def test_a_checkpoint_under_the_wrong_name_is_caught(tmp_path: Path) -> None:
    federation = Federation().run()
    federation.files[f"logs/{R1}/checkpoints/3"] = federation.checkpoint(R1, 4)
    assert found(verdict_on(federation, tmp_path)) == {(2, "checkpoint-name")}


def test_a_log_of_a_stranger_is_caught(tmp_path: Path) -> None:
    federation = Federation().run()
    for name, data in federation.log_files().items():
        if name.startswith(f"logs/{R1}/"):
            federation.files[name.replace(R1, "region-9")] = data
    assert (2, "party") in found(verdict_on(federation, tmp_path))


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x00\x05abc", b"\xff\xff"])
def test_tiles_that_are_no_tiles_are_named(tmp_path: Path, damage: bytes) -> None:
    federation = Federation().run()
    name = next(name for name in federation.log_files() if f"{R1}/tile" in name)
    federation.files[name] = damage
    verdict = verdict_on(federation, tmp_path)
    assert (2, "entries-unreadable") in found(verdict)
    assert verdict.first_failure is not None
    assert (verdict.first_failure.party, verdict.first_failure.index) == (R1, 0)
    assert verdict.first_failure.file == name


def test_what_a_server_could_not_use_is_excused_by_its_incident(tmp_path: Path) -> None:
    """The last round missed its quorum: the regions' entries stand, and the log says why."""
    federation = Federation(planned_rounds=2)
    federation.run()
    log = federation.logs[SERVER]
    del log[federation.find(SERVER, "aggregate", 1) :]
    incident = {
        "v": "fedpref-incident/1", "run": "run-1", "round": 2, "region": None, "party": SERVER,
        "reason": "below-quorum", "detail": "Too few.", "time": federation.tick(),
    }  # fmt: skip
    federation.log(SERVER, incident)
    assert found(verdict_on(federation, tmp_path)) == {(8, "rounds-missing"), (8, "run-unfinished")}


def test_at_most_five_failures_of_a_kind_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-consent/1":
            record["notice"]["id"] = "other"

    verdict = verdict_on(Federation(customers=20, alter=alter).run(), tmp_path)
    assert len(verdict.failures) == 5
    assert verdict.failures_total == 25


def test_foreign_names_cannot_disturb_the_terminal(tmp_path: Path) -> None:
    federation = Federation().run()
    run = federation.write(tmp_path)
    (run / "bundle" / "\x1b[31mred\udcff").write_bytes(b"x")
    verdict = verify_bundle(run)
    assert all(failure.message.isprintable() for failure in verdict.failures)
    assert {failure.file for failure in verdict.failures} == {"\\x1b[31mred\\udcff"}
