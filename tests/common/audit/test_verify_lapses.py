"""Consents that end by rule: minors without a guardian, superseded notices, discarded rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.audit.verify import Verdict, verify_bundle
from common.audit.verify.records import check_record
from common.errors import FormatError
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    DISCARDED,
    EPOCH_MS,
    REGIONS,
    Federation,
    JsonRecord,
    bucket,
    eligible_root,
    record_of,
)

R1, R2 = REGIONS
GIVEN, WITHDRAWN, REFUSED = "dpv:ConsentGiven", "dpv:ConsentWithdrawn", "dpv:ConsentRefused"


def judge(federation: Federation, run: Path) -> Verdict:
    return verify_bundle(federation.write(run))


def found(verdict: Verdict) -> set[tuple[int, str, str | None, int | None]]:
    return {(f.step, f.code, f.party, f.index) for f in verdict.failures}


# -- minors ----------------------------------------------------------------------------------------


def guardian(state: str, evidence: str | None = None) -> JsonRecord:
    return {"state": state, "evidence": evidence}


@pytest.mark.parametrize(
    ("state", "minor", "decided", "holds"),
    [
        (GIVEN, True, guardian(GIVEN), True),
        (GIVEN, True, guardian(GIVEN, "a" * 64), True),
        (GIVEN, True, guardian(WITHDRAWN), False),
        (GIVEN, True, guardian(REFUSED), False),
        (GIVEN, True, None, False),
        (GIVEN, False, guardian(GIVEN), False),
        (WITHDRAWN, True, None, True),
        (WITHDRAWN, True, guardian(WITHDRAWN), True),
        (WITHDRAWN, True, guardian(GIVEN), True),
        (REFUSED, True, None, True),
        (REFUSED, False, guardian(REFUSED), False),
    ],
)
def test_a_minors_consent_needs_a_guardians(
    state: str, minor: bool, decided: JsonRecord | None, holds: bool
) -> None:
    federation = Federation(customers=0, rounds=0).run()
    record = federation.consent_record(R1, 1, state) | {"minor": minor, "guardian": decided}
    if holds:
        check_record("consent", record)
    else:
        with pytest.raises(FormatError, match="guardian"):
            check_record("consent", record)


def test_a_round_that_counts_a_minor_without_guardian_is_caught(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record.get("sid")) == (R1, federation.sid(R1, 0)):
            record["minor"] = True

    federation = Federation(alter=alter)
    verdict = judge(federation.run(), tmp_path)
    assert (3, "record", R1, federation.find(R1, "consent", 0)) in found(verdict)
    assert (5, "eligible-set", R1, federation.find(R1, "round", 0)) in found(verdict)


def test_a_minor_whose_guardian_consents_takes_part(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record.get("state") == GIVEN:
            record.update(minor=True, guardian=guardian(GIVEN))

    assert judge(Federation(alter=alter).run(), tmp_path).verified


# -- notices ---------------------------------------------------------------------------------------


def renewing(federation: Federation, number: int) -> None:
    """Before round 2: a new notice; customer 0 consents again, customer 1 does not."""
    if number == 2:
        federation.notice(R1)
        federation.consent(R1, 0, GIVEN)
        federation.tick(20_000)


def rounds_eligible(verdict: Verdict) -> int:
    return verdict.steps[5].counts["eligible customers"]


def test_consents_to_a_superseded_notice_lapse(tmp_path: Path) -> None:
    # Of five customers a region, 0, 1, 2 and 4 consent, and 2 withdraws after round 1.
    federation = Federation(customers=5, before_round=renewing, notice_grace_s=10).run()
    verdict = judge(federation, tmp_path)
    assert verdict.failures == ()
    assert rounds_eligible(verdict) == (4 + 1) + (4 + 3)


def test_they_stay_in_force_within_the_policys_grace(tmp_path: Path) -> None:
    federation = Federation(customers=5, before_round=renewing, notice_grace_s=3600).run()
    verdict = judge(federation, tmp_path)
    assert verdict.failures == ()
    assert rounds_eligible(verdict) == (4 + 3) + (4 + 3)


def retrain_on(*customers: int) -> Any:
    """Has region-1 train round 2 on these."""

    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-round/1") and record["round"] == 2:
            sids = [Federation().sid(R1, customer) for customer in customers]
            record["train"] |= {
                "root": eligible_root(record["train"]["nonce"], sids),
                "n_bucket": bucket(len(sids)),
            }

    return alter


@pytest.mark.parametrize(
    ("grace_s", "customers"), [(10, (0, 1, 4)), (3600, (0,))], ids=["lapsed", "still in force"]
)
def test_a_round_that_judges_the_lapse_otherwise_is_caught(
    tmp_path: Path, grace_s: int, customers: tuple[int, ...]
) -> None:
    federation = Federation(
        customers=5, before_round=renewing, notice_grace_s=grace_s, alter=retrain_on(*customers)
    ).run()
    index = federation.find(R1, "round", 1)
    codes = {code for _, code, party, where in found(judge(federation, tmp_path))}
    assert codes <= {"eligible-set", "size-bucket"}
    assert (5, "eligible-set", R1, index) in found(judge(federation, tmp_path))


@pytest.mark.parametrize(("offset_ms", "lapsed"), [(0, True), (1, False)])
def test_the_moment_of_the_lapse(tmp_path: Path, offset_ms: int, lapsed: bool) -> None:
    """They lapse at the new notice's in_force_from plus the grace, judged at train.at."""
    at_ms: list[int] = []

    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-notice/1" and record["supersedes"]:
            in_force_ms = (at_ms[0] if at_ms else EPOCH_MS) - 10_000 + offset_ms
            record["in_force_from"] = format_time(in_force_ms)

    def build() -> Federation:
        return Federation(customers=5, before_round=renewing, notice_grace_s=10, alter=alter).run()

    # The builder itself follows the altered record, so the verifier's rule is tried by its set.
    first = build()
    entry = first.logs[R1][first.find(R1, "round", 1)]
    at_ms.append(parse_time(record_of(entry)["train"]["at"]))
    verdict = judge(build(), tmp_path)
    assert verdict.failures == ()
    assert rounds_eligible(verdict) == (4 + (1 if lapsed else 3)) + (4 + 3)


def test_a_notice_logged_after_the_snapshot_ends_nothing_in_it(tmp_path: Path) -> None:
    def late(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.notice(R1)

    federation = Federation(notice_grace_s=0, in_round=late)

    def alter(party: str, record: JsonRecord) -> None:
        if record.get("supersedes"):
            record["in_force_from"] = format_time(EPOCH_MS)

    federation.alter = alter
    verdict = judge(federation.run(), tmp_path)
    assert verdict.failures == ()
    assert rounds_eligible(verdict) == 3 + 3 + 2 + 2


def test_the_grace_is_that_of_the_policy_at_the_snapshot(tmp_path: Path) -> None:
    """A policy logged only after the snapshot cannot lengthen what had lapsed at it."""

    def later_policy(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.notice_grace_s = 86_400
            federation.policy(R1)

    federation = Federation(
        customers=5, before_round=renewing, notice_grace_s=10, in_round=later_policy
    ).run()
    verdict = judge(federation, tmp_path)
    assert verdict.failures == ()
    assert rounds_eligible(verdict) == (4 + 1) + (4 + 3)


# -- withdrawals in a round ------------------------------------------------------------------------


def withdrawing(customer: int, state: str = WITHDRAWN) -> Any:
    def act(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.consent(R1, customer, state)

    return act


def test_finish_is_the_default_and_lawful(tmp_path: Path) -> None:
    federation = Federation(in_round=withdrawing(0)).run()
    assert judge(federation, tmp_path).verified


def test_a_discarded_round_is_whole_and_told(tmp_path: Path) -> None:
    federation = Federation(withdrawal_in_round="discard", in_round=withdrawing(0), quorum=1).run()
    verdict = judge(federation, tmp_path)
    assert verdict.failures == ()
    assert verdict.steps[5].counts["discarded rounds"] == 1
    assert any(f"{R1} discarded 1 rounds" in note for note in verdict.notes)
    assert not any("does not say why" in note for note in verdict.notes)


@pytest.mark.parametrize("state", [WITHDRAWN, REFUSED])
def test_a_round_that_had_to_be_discarded_is_caught(tmp_path: Path, state: str) -> None:
    federation = Federation(
        withdrawal_in_round="discard", in_round=withdrawing(0, state), sends_anyway=True
    ).run()
    index = federation.find(R1, "round", 1)
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(5, "withdrawal-not-discarded", R1, index)}
    assert f"entry {index - 1} ended" in verdict.failures[0].message


def test_one_who_withdrew_and_consented_again_in_the_round_counts_too(tmp_path: Path) -> None:
    def act(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.consent(R1, 0, WITHDRAWN)
            federation.consent(R1, 0, GIVEN)

    federation = Federation(withdrawal_in_round="discard", in_round=act, sends_anyway=True).run()
    assert found(judge(federation, tmp_path)) == {
        (5, "withdrawal-not-discarded", R1, federation.find(R1, "round", 1))
    }


@pytest.mark.parametrize("customer", [3, 2, 77], ids=["refused", "withdrew before", "stranger"])
def test_withdrawals_of_those_not_in_the_round_discard_nothing(
    tmp_path: Path, customer: int
) -> None:
    federation = Federation(withdrawal_in_round="discard", in_round=withdrawing(customer)).run()
    assert judge(federation, tmp_path).verified


def test_what_counts_is_the_policy_at_the_snapshot(tmp_path: Path) -> None:
    """A region cannot change its mind once the withdrawal is there."""

    def act(federation: Federation, region: str, number: int) -> None:
        withdrawing(0)(federation, region, number)
        if (region, number) == (R1, 2):
            federation.withdrawal_in_round = "finish"
            federation.policy(R1)

    federation = Federation(withdrawal_in_round="discard", in_round=act).run()
    assert found(judge(federation, tmp_path)) == {
        (5, "withdrawal-not-discarded", R1, federation.find(R1, "round", 1))
    }


def test_a_round_sent_after_its_discard_is_caught(tmp_path: Path) -> None:
    def act(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.incident(R1, 2, DISCARDED)

    federation = Federation(in_round=act).run()
    assert found(judge(federation, tmp_path)) == {
        (5, "round-after-discard", R1, federation.find(R1, "round", 1))
    }


def test_a_charge_without_a_round_or_a_reason_is_told(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-incident/1":
            record["reason"] = "timed-out"

    federation = Federation(
        withdrawal_in_round="discard", in_round=withdrawing(0), quorum=1, alter=alter
    ).run()
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    assert any("charged 1 rounds that it does not log" in note for note in verdict.notes)
