"""Grants of access: an honest bundle holds, and every forgery of one is found where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.audit.verify import Verdict, verify_bundle
from common.timestamps import format_time
from tests.support.access_bundle import (
    ANALYST,
    COLUMNS,
    GRANT_S,
    OFFICER,
    R1,
    AccessFederation,
    granting,
    shifted,
)
from tests.support.bundle_builder import DAY_MS, JsonRecord, MemorySigner, digest, ulid

Change = Callable[[JsonRecord], None]


def judge(federation: AccessFederation, run: Path) -> Verdict:
    return verify_bundle(federation.write(run))


def found(verdict: Verdict) -> set[tuple[int, str]]:
    return {(failure.step, failure.code) for failure in verdict.failures}


def lying(kind: str, change: Change, *, name: str = "asked", nth: int = 1) -> AccessFederation:
    """A federation in which one entry says something else; all else follows from it."""
    seen = 0

    def alter(party: str, record: JsonRecord) -> None:
        nonlocal seen
        about = record.get("request_id") == ulid(f"grant {name}")
        if (party, record["v"]) == (R1, f"fedpref-access-{kind}/1") and about:
            seen += 1
            if seen == nth:
                change(record)

    return granting(alter).grant_all()


def set_to(**fields: object) -> Change:
    return lambda record: record.update(fields)


def moved(name: str, by_ms: int) -> Change:
    return lambda record: shifted(record, name, by_ms)


@pytest.fixture(scope="module")
def honest() -> AccessFederation:
    return granting().grant_all()


def test_a_bundle_with_grants_verifies_and_counts_them(
    honest: AccessFederation, tmp_path: Path
) -> None:
    verdict = judge(honest, tmp_path)
    assert verdict.failures == ()
    assert verdict.verified
    assert verdict.steps[3].counts["access entries"] == 8
    (note,) = [note for note in verdict.notes if "sensitive columns" in note]
    assert note.startswith(
        f"{R1} logged 2 requests to read sensitive columns: 2 approved, 2 ended, 2 uses. "
    )


LONG = GRANT_S * 1000
LIES: list[tuple[str, str, Change, int, set[tuple[int, str]]]] = [
    (
        "asked for longer than the policy grants",
        "request",
        set_to(grant_s=GRANT_S + 1),
        1,
        {(3, "access-beyond-policy")},
    ),
    ("no columns", "request", set_to(columns=[]), 1, {(3, "access-columns")}),
    (
        "columns twice",
        "request",
        set_to(columns=["email", "email", "phone"]),
        1,
        {(3, "access-columns")},
    ),
    ("another region's", "request", set_to(region="region-2"), 1, {(3, "record")}),
    (
        "approved for longer than asked",
        "approval",
        moved("expires", 1),
        1,
        {(3, "access-window")},
    ),
    ("approved for never", "approval", moved("expires", -LONG), 1, {(3, "access-window")}),
    (
        "approves another request",
        "approval",
        set_to(request=digest("x")),
        1,
        {(3, "access-mismatch")},
    ),
    (
        "approves what nobody asked",
        "approval",
        set_to(request_id=ulid("none")),
        1,
        {(3, "access-unknown"), (3, "access-not-approved")},
    ),
    (
        "approved before it was asked for",
        "approval",
        moved("time", -DAY_MS),
        1,
        {(3, "access-lapsed")},
    ),
    ("another approval", "use", set_to(approval=digest("x")), 1, {(3, "access-mismatch")}),
    (
        "a column that was not granted",
        "use",
        set_to(columns=[*COLUMNS, "postcode"]),
        1,
        {(3, "access-columns")},
    ),
    ("no column", "use", set_to(columns=[]), 1, {(3, "access-columns")}),
    ("one use shown twice", "use", set_to(number=1), 2, {(3, "access-repeated")}),
    ("a use left out", "use", set_to(number=3), 2, {(3, "access-repeated")}),
    ("used before it was approved", "use", moved("time", -3000), 1, {(3, "access-window")}),
    ("used after it had run out", "use", moved("time", LONG), 2, {(3, "access-window")}),
    ("ran out before its time", "expiry", moved("time", -10_000), 1, {(3, "access-window")}),
    ("fewer uses than there were", "expiry", set_to(uses=1), 1, {(3, "access-mismatch")}),
    ("the end of nothing", "expiry", set_to(request_id=ulid("none")), 1, {(3, "access-unknown")}),
]


@pytest.mark.parametrize(
    ("kind", "change", "nth", "expected"), [each[1:] for each in LIES], ids=[e[0] for e in LIES]
)
def test_a_lie_in_an_entry_is_found(
    kind: str, change: Change, nth: int, expected: set[tuple[int, str]], tmp_path: Path
) -> None:
    verdict = judge(lying(kind, change, nth=nth), tmp_path)
    assert expected <= found(verdict)
    assert not verdict.integrity
    assert all(failure.party == R1 and failure.index is not None for failure in verdict.failures)


def test_nobody_approves_what_they_asked_for_whichever_of_their_keys_they_use(
    tmp_path: Path,
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-policy/1"):
            people = record["policy"]["access"]["people"]
            people[ANALYST] += people.pop(OFFICER)

    verdict = judge(granting(alter).grant_all(), tmp_path)
    assert found(verdict) == {(3, "access-own-approval")}
    assert len(verdict.failures) == 2


def test_a_key_of_both_people_is_one_persons(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-policy/1"):
            people = record["policy"]["access"]["people"]
            people[ANALYST] += people[OFFICER]

    assert found(judge(granting(alter).grant_all(), tmp_path)) == {(3, "access-own-approval")}


@pytest.mark.parametrize("role", ["trainer", "permit", "controller", "requester"])
def test_an_approval_by_a_key_of_another_role_is_refused(role: str, tmp_path: Path) -> None:
    class Forging(AccessFederation):
        def signer(self, party: str, kind: str) -> MemorySigner:
            if kind == "access-approval":
                return self.keys[party, role]
            return super().signer(party, kind)

    made = granting()
    forging = Forging()
    forging.alter = made.alter
    made.access_rules = forging.access_rules  # type: ignore[method-assign] # its keys are the same
    verdict = judge(forging.grant_all(), tmp_path)
    assert {(3, "record"), (3, "access-not-approved")} <= found(verdict)


def test_a_person_of_whom_the_policy_does_not_know_is_found(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-policy/1"):
            record["policy"]["access"]["people"][ANALYST] = [digest("another key")]

    assert found(judge(granting(alter).grant_all(), tmp_path)) == {
        (3, "access-person"),
        (3, "access-not-theirs"),
    }


def test_without_a_policy_for_access_nobody_may(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-policy/1"):
            del record["policy"]["access"]

    assert {(3, "access-person"), (3, "access-beyond-policy")} <= found(
        judge(granting(alter).grant_all(), tmp_path)
    )


def test_another_persons_use_of_a_grant_is_found(tmp_path: Path) -> None:
    other = MemorySigner("another analyst")

    class Borrowing(AccessFederation):
        def __post_init__(self) -> None:
            super().__post_init__()
            # A second requester of the region; the builder has a key for each role only.
            self.keys[R1, "requester "] = other

        def key_entries(self) -> list[JsonRecord]:
            return [each | {"role": str(each["role"]).strip()} for each in super().key_entries()]

        def signer(self, party: str, kind: str) -> MemorySigner:
            return other if kind == "access-use" else super().signer(party, kind)

        def access_rules(self) -> JsonRecord:
            rules = super().access_rules()
            rules["people"]["analyst-2"] = [other.key_id]
            return rules

    made = granting()
    federation = Borrowing()
    federation.alter = made.alter
    made.access_rules = federation.access_rules  # type: ignore[method-assign] # it has one more
    assert found(judge(federation.grant_all(), tmp_path)) == {(3, "access-not-theirs")}


def begun() -> tuple[AccessFederation, str]:
    """A federation after its run, with a grant that was approved."""
    federation = granting()
    federation.run()
    return federation, federation.approve("asked", federation.ask("asked"))


def test_nothing_follows_the_end_of_a_grant(tmp_path: Path) -> None:
    federation, approval = begun()
    federation.of("revocation", "asked", because="enough")
    federation.use("asked", approval, 1, COLUMNS)
    federation.of("revocation", "asked", because="enough")
    verdict = judge(federation, tmp_path)
    assert [failure.code for failure in verdict.failures] == ["access-ended"] * 2


def test_a_clock_that_was_set_back_does_not_lengthen_a_grant(tmp_path: Path) -> None:
    federation, approval = begun()
    inside_ms = federation.clock_ms
    federation.tick(LONG + DAY_MS // 2)
    federation.of("request", "later", table="t", columns=["c"], because="x", grant_s=60)
    federation.clock_ms = inside_ms
    federation.use("asked", approval, 1, COLUMNS)
    assert (3, "access-window") in found(judge(federation, tmp_path))


def test_a_request_lapses(tmp_path: Path) -> None:
    federation = granting()
    federation.run()
    request = federation.ask("asked")
    federation.tick(7 * DAY_MS)
    federation.approve("asked", request)
    assert found(judge(federation, tmp_path)) == {(3, "access-lapsed")}


def test_a_request_is_asked_and_approved_once(tmp_path: Path) -> None:
    federation, _ = begun()
    federation.approve("asked", federation.ask("asked"))
    verdict = judge(federation, tmp_path)
    assert {failure.code for failure in verdict.failures} == {"access-repeated"}
    assert len(verdict.failures) == 2


def test_an_expiry_that_is_missing_is_told_and_is_no_integrity_fault(tmp_path: Path) -> None:
    federation, _ = begun()
    federation.tick(LONG)
    # Whoever comes next comes after the desk has noted what had run out.
    federation.clock_ms += 120_000
    federation.ask("later")
    verdict = judge(federation, tmp_path)
    assert found(verdict) == {(8, "access-expiry-missing")}
    assert verdict.integrity
    assert not verdict.complete


def test_the_rest_of_the_log_leaves_the_desk_a_day_to_note_an_expiry(tmp_path: Path) -> None:
    def with_incident(after_ms: int, run: Path) -> set[tuple[int, str]]:
        federation, _ = begun()
        federation.tick(LONG + after_ms)
        federation.log(
            R1,
            {
                "v": "fedpref-incident/1",
                "run": None,
                "round": None,
                "region": R1,
                "party": R1,
                "reason": "no-consent",
                "detail": "Something.",
                "time": format_time(federation.clock_ms),
            },
        )
        return found(judge(federation, run))

    assert with_incident(DAY_MS // 2, tmp_path / "a") == set()
    assert with_incident(2 * DAY_MS, tmp_path / "b") == {(8, "access-expiry-missing")}
