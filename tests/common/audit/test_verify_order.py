"""Times are held against the order of the log, and a claim of size against what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.checkpoint import Checkpoint, sign_note
from common.audit.verify import Verdict, verify_bundle
from common.audit.verify.epsilon import composed_epsilon
from common.audit.verify.key_ring import RegisteredKey
from common.envelope import sign_record
from common.errors import VerificationError
from common.identifiers import new_ulid
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    DAY_MS,
    EPOCH_MS,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    record_of,
)

R1 = REGIONS[0]
HOUR_MS = 3_600_000


def found(verdict: Verdict) -> set[tuple[int, str, str | None, int | None]]:
    return {(f.step, f.code, f.party, f.index) for f in verdict.failures}


@pytest.mark.parametrize(("waited_ms", "caught"), [(5 * 60_000, False), (HOUR_MS, True)])
def test_a_round_that_was_logged_long_after_its_stated_end(
    tmp_path: Path, waited_ms: int, caught: bool
) -> None:
    """Withdrawals of hours would otherwise stand before it and not count."""

    def withdraw(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 1):
            federation.clock_ms += waited_ms
            federation.consent(R1, 0, "dpv:ConsentWithdrawn")

    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-round/1"):
            record["end"] = format_time(parse_time(record["start"]) + 3000)

    federation = Federation(rounds=1, in_round=withdraw, alter=alter).run()
    index = federation.find(R1, "round", 0)
    verdict = verify_bundle(federation.write(tmp_path))
    assert ((5, "clock-rollback", R1, index) in found(verdict)) is caught


def test_a_quorum_is_not_chosen_by_a_clock(tmp_path: Path) -> None:
    """The registry that asks for more is logged before the round, which says it began earlier."""

    def publish(federation: Federation, number: int) -> None:
        if number == 2:
            federation.witness_quorum = 9
            federation.issued_ms = EPOCH_MS + 300 * DAY_MS
            federation.publish_registry()
            for party in federation.logs:
                federation.logs[party].append(federation.registry[-1])

    federation = Federation(before_round=publish).run()
    codes = {(f.code, f.index) for f in verify_bundle(federation.write(tmp_path)).failures}
    assert ("not-witnessed", federation.find(R1, "round", 1)) in codes
    assert ("not-witnessed", federation.find(R1, "round", 0)) not in codes


def test_a_charge_on_the_rest_of_an_earlier_year(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-charge/1"):
            record["time"] = "2025-12-31T23:59:00.000Z"

    federation = Federation(rounds=1, alter=alter, clock_ms=EPOCH_MS + DAY_MS).run()
    index = federation.find(R1, "charge", 0)
    assert (6, "clock-rollback", R1, index) in found(verify_bundle(federation.write(tmp_path)))


def test_a_checkpoint_of_a_size_that_nobody_could_read(tmp_path: Path) -> None:
    federation = Federation(rounds=1).run()
    origin = f"test.example/{R1}"
    note = sign_note(
        Checkpoint(origin, 10**13, bytes(32)).body(), origin, federation.keys[R1, "log"]
    )
    federation.files[f"logs/{R1}/checkpoint"] = note.encode()
    run = federation.write(tmp_path)
    verdict = verify_bundle(run)  # it would run out of memory, or never end
    assert (2, "entries-unreadable", R1, None) in found(verdict)


def test_an_aggregate_of_a_round_beyond_counting(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-aggregate/1" and record["round"] == 2:
            record["round"] = 10**12

    verdict = verify_bundle(Federation(alter=alter).run().write(tmp_path))
    gaps = [failure for failure in verdict.failures if failure.code == "round-gap"]
    assert [failure.party for failure in gaps] == [SERVER]
    assert "rounds 2 to 999999999999" in gaps[0].message


def test_parameters_that_no_accountant_takes_are_a_failure_and_no_crash() -> None:
    with pytest.raises(VerificationError):
        composed_epsilon({("0.3", "0.5"): 1}, 1e-30)


def test_a_key_ends_with_its_last_moment_as_the_engine_has_it() -> None:
    key = RegisteredKey("a" * 64, bytes(32), R1, "consent", 1000, 2000, None)
    key.check_time(1999, None)
    with pytest.raises(VerificationError, match="expired"):
        key.check_time(2000, None)
    assert key.valid_at(1999)
    assert not key.valid_at(2000)


@pytest.mark.parametrize(("ms_after", "caught"), [(-1, True), (0, True), (1, False)])
def test_a7_an_old_grant_imported_over_a_newer_withdrawal(
    tmp_path: Path, ms_after: int, caught: bool
) -> None:
    """It names its true, earlier time, and so contradicts the log by itself."""
    federation = Federation(rounds=1).run()
    federation.consent(R1, 0, "dpv:ConsentWithdrawn")
    withdrawn = record_of(federation.logs[R1][-1])
    grant = federation.consent_record(R1, 0, "dpv:ConsentGiven") | {
        "method": "imported",
        "event_time": format_time(parse_time(withdrawn["event_time"]) + ms_after),
        "record_id": new_ulid(federation.clock_ms + 1000),
    }
    federation.logs[R1].append(sign_record(grant, federation.keys[R1, "consent"]))
    index = len(federation.logs[R1]) - 1
    failures = found(verify_bundle(federation.write(tmp_path)))
    assert ((4, "consent-chain", R1, index) in failures) is caught
