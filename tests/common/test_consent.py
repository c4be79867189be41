from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    RECOMMENDATIONS,
    REFUSED,
    WITHDRAWN,
    ConsentReplay,
    Standing,
    SubjectState,
    parse_consent,
)
from common.errors import VerificationError
from common.notice import Notice, parse_notice
from common.timestamps import MAX_TIME_MS, format_time, parse_time
from tests.support.consent_records import EVENT_TIME, consent_record, digest_of, next_record
from tests.support.region_home import notice_record

NOW = parse_time(EVENT_TIME)
A, B, C = "a" * 64, "b" * 64, "c" * 64
NOTHING = frozenset[str]()


def replay(*records: dict[str, Any]) -> ConsentReplay:
    result = ConsentReplay()
    for index, record in enumerate(records):
        result.apply(index, parse_consent(record), digest_of(record))
    return result


def test_who_gave_consent_is_eligible_for_that_purpose_only() -> None:
    state = replay(
        consent_record(sid=A, purposes={FEDERATED_TRAINING: True, RECOMMENDATIONS: False}),
        consent_record(sid=B, purposes={RECOMMENDATIONS: True}),
        consent_record(sid=C, state=REFUSED, purposes={}),
    )
    assert state.eligible(FEDERATED_TRAINING, NOW) == {A}
    assert state.eligible(RECOMMENDATIONS, NOW) == {B}
    # A purpose that nobody's record names is refused by all.
    assert state.eligible(FEDERATED_ANALYTICS, NOW) == NOTHING
    assert state.eligible("fedpref:Unknown", NOW) == NOTHING
    assert len(state) == 3


@pytest.mark.parametrize(("event_ms", "holds"), [(NOW - 1, False), (NOW, False), (NOW + 1, True)])
def test_an_imported_consent_does_not_undo_a_newer_choice(event_ms: int, holds: bool) -> None:
    first = consent_record(sid=A, state=WITHDRAWN, purposes={})
    imported = next_record(first, method="imported", event_time=format_time(event_ms))
    if holds:
        assert replay(first, imported).latest(A) is not None
    else:
        with pytest.raises(VerificationError, match="as new, or newer"):
            replay(first, imported)


def test_nobody_is_eligible_at_first() -> None:
    assert ConsentReplay().eligible(FEDERATED_TRAINING, NOW) == NOTHING
    assert ConsentReplay().latest(A) is None
    assert ConsentReplay().latest_digest(A) is None


@pytest.mark.parametrize("state", [WITHDRAWN, REFUSED])
def test_who_withdraws_is_not_eligible(state: str) -> None:
    given_ = consent_record(sid=A)
    withdrawn = next_record(given_, state=state, purposes={})
    result = replay(given_, consent_record(sid=B), withdrawn)
    assert result.eligible(FEDERATED_TRAINING, NOW) == {B}
    again = next_record(withdrawn, state=GIVEN, purposes={FEDERATED_TRAINING: True})
    result.apply(3, parse_consent(again), digest_of(again))
    assert result.eligible(FEDERATED_TRAINING, NOW) == {A, B}
    assert result.eligible(RECOMMENDATIONS, NOW) == {B}


def test_only_the_newest_record_counts() -> None:
    first = consent_record(sid=A, purposes={FEDERATED_TRAINING: True, RECOMMENDATIONS: True})
    # The second record does not name federated training: a missing purpose is a refusal.
    second = next_record(first, purposes={RECOMMENDATIONS: True})
    result = replay(first)
    assert result.eligible(FEDERATED_TRAINING, NOW) == {A}
    result.apply(1, parse_consent(second), digest_of(second))
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING
    assert result.eligible(RECOMMENDATIONS, NOW) == {A}


@pytest.mark.parametrize("state", [WITHDRAWN, REFUSED])
def test_the_state_counts_whatever_the_purposes_say(state: str) -> None:
    # No parsed record is like that; the replay does not depend on it.
    contradiction = dataclasses.replace(parse_consent(consent_record(sid=A)), state=state)
    result = ConsentReplay()
    result.apply(0, contradiction, "0" * 64)
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING


def test_an_earlier_answer_does_not_change_afterwards() -> None:
    first = consent_record(sid=A)
    result = replay(first)
    before = result.eligible(FEDERATED_TRAINING, NOW)
    second = next_record(first, state=WITHDRAWN, purposes={})
    result.apply(1, parse_consent(second), digest_of(second))
    assert before == {A}
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING


def test_expiry_is_judged_at_the_time_that_is_asked_for() -> None:
    result = replay(
        consent_record(sid=A, expires=format_time(NOW + 1000)),
        consent_record(sid=B, expires=format_time(NOW + 2000)),
        consent_record(sid=C),
    )
    # Back and forth: an answer that was kept must not outlive its time, in either direction.
    for at_ms, expected in [
        (NOW, {A, B, C}),
        (NOW + 999, {A, B, C}),
        (NOW + 1000, {B, C}),
        (NOW + 1999, {B, C}),
        (NOW + 2000, {C}),
        (MAX_TIME_MS, {C}),
        (NOW + 1500, {B, C}),
        (NOW + 1, {A, B, C}),
        (0, {A, B, C}),
    ]:
        assert result.eligible(FEDERATED_TRAINING, at_ms) == expected


def test_a_new_record_changes_when_consent_expires() -> None:
    first = consent_record(sid=A, expires=format_time(NOW + 1000))
    result = replay(first)
    assert result.eligible(FEDERATED_TRAINING, NOW + 1000) == NOTHING
    second = next_record(first, expires=None)
    result.apply(1, parse_consent(second), digest_of(second))
    assert result.eligible(FEDERATED_TRAINING, NOW + 1000) == {A}
    third = next_record(second, expires=format_time(NOW + 500))
    result.apply(2, parse_consent(third), digest_of(third))
    assert result.eligible(FEDERATED_TRAINING, NOW + 500) == NOTHING
    assert result.eligible(FEDERATED_TRAINING, NOW + 499) == {A}


def test_the_newest_record_and_its_digest_are_at_hand() -> None:
    first = consent_record(sid=A)
    second = next_record(first, state=WITHDRAWN, purposes={})
    result = replay(first, second)
    assert result.latest(A) == parse_consent(second)
    assert result.latest_digest(A) == digest_of(second)


FIRST = consent_record(sid=A)
WITHDRAWAL = next_record(FIRST, state=WITHDRAWN, purposes={})


@pytest.mark.parametrize(
    ("earlier", "record", "reason"),
    [
        ([FIRST, WITHDRAWAL], FIRST, "used before"),
        ([FIRST], {**consent_record(sid=B), "record_id": FIRST["record_id"]}, "used before"),
        ([FIRST, WITHDRAWAL], consent_record(sid=A), "number 1 of its subject; 3 is next"),
        ([FIRST, WITHDRAWAL], next_record(FIRST), "number 2 of its subject; 3 is next"),
        ([FIRST], next_record(WITHDRAWAL), "number 3 of its subject; 2 is next"),
        ([], WITHDRAWAL, "number 2 of its subject; 1 is next"),
        ([FIRST], next_record(FIRST, prev="0" * 64), "last envelope"),
        ([FIRST, WITHDRAWAL], next_record(WITHDRAWAL, prev=digest_of(FIRST)), "last envelope"),
        ([consent_record(sid=B)], next_record(consent_record(sid=B), sid=C), "1 is next"),
    ],
    ids=[
        "old grant replayed", "id of another subject's record", "restarted at 1",
        "number repeated", "number left out", "no first record", "unknown predecessor",
        "predecessor before the last", "another subject's chain",
    ],
)  # fmt: skip
def test_a_record_that_breaks_its_chain_is_refused_and_changes_nothing(
    earlier: list[dict[str, Any]], record: dict[str, Any], reason: str
) -> None:
    result = replay(*earlier)
    before = result.eligible(FEDERATED_TRAINING, NOW)
    latest = result.latest(A)
    with pytest.raises(VerificationError, match=reason):
        result.apply(len(earlier), parse_consent(record), digest_of(record))
    assert result.eligible(FEDERATED_TRAINING, NOW) == before
    assert result.latest(A) == latest
    # What follows is taken as if the refused record had never come.
    other = consent_record(sid="d" * 64)
    result.apply(len(earlier), parse_consent(other), digest_of(other))
    assert result.eligible(FEDERATED_TRAINING, NOW) == before | {"d" * 64}


@pytest.mark.parametrize("index", [0, 6, 7])
def test_log_entries_are_applied_in_order(index: int) -> None:
    result = ConsentReplay()
    result.apply(7, parse_consent(FIRST), digest_of(FIRST))
    with pytest.raises(VerificationError, match="out of order"):
        result.apply(index, parse_consent(WITHDRAWAL), digest_of(WITHDRAWAL))
    result.apply(20, parse_consent(WITHDRAWAL), digest_of(WITHDRAWAL))
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64])
def test_a_malformed_digest_is_refused(digest: str) -> None:
    with pytest.raises(VerificationError, match="SHA-256"):
        ConsentReplay().apply(0, parse_consent(FIRST), digest)


class ReplayAgainstRescan(RuleBasedStateMachine):
    """The replay's standing answer against a scan of every subject's newest record."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = ConsentReplay()
        self.newest: dict[str, dict[str, Any]] = {}
        self.index = 0

    @rule(
        sid=st.sampled_from([A, B, C]),
        state=st.sampled_from([GIVEN, GIVEN, REFUSED, WITHDRAWN]),
        purposes=st.dictionaries(
            st.sampled_from([FEDERATED_TRAINING, RECOMMENDATIONS]), st.booleans()
        ),
        expires=st.none() | st.integers(1, 5),
        gap=st.integers(1, 3),
    )
    def record(
        self, sid: str, state: str, purposes: dict[str, bool], expires: int | None, gap: int
    ) -> None:
        changes = {
            "state": state,
            "purposes": purposes if state == GIVEN else dict.fromkeys(purposes, False),
            "expires": None if expires is None else format_time(NOW + expires),
        }
        earlier = self.newest.get(sid)
        record = (
            consent_record(sid=sid, **changes)
            if earlier is None
            else next_record(earlier, **changes)
        )
        self.index += gap
        self.replay.apply(self.index, parse_consent(record), digest_of(record))
        self.newest[sid] = record

    @precondition(lambda self: self.newest)
    @rule(data=st.data())
    def replay_an_old_record(self, data: st.DataObject) -> None:
        record = self.newest[data.draw(st.sampled_from(sorted(self.newest)))]
        with pytest.raises(VerificationError):
            self.replay.apply(self.index + 1, parse_consent(record), digest_of(record))

    @invariant()
    def answers_are_those_of_a_scan(self) -> None:
        for purpose in (FEDERATED_TRAINING, RECOMMENDATIONS):
            for at_ms in (NOW, NOW + 3, NOW + 1, NOW + 9):
                scanned = {
                    sid
                    for sid, record in self.newest.items()
                    if record["state"] == GIVEN
                    and record["purposes"].get(purpose, False)
                    and (record["expires"] is None or at_ms < parse_time(record["expires"]))
                }
                assert self.replay.eligible(purpose, at_ms) == scanned


ReplayAgainstRescan.TestCase.settings = settings(max_examples=60, stateful_step_count=15)
TestReplayAgainstRescan = ReplayAgainstRescan.TestCase


@given(st.permutations([FIRST, WITHDRAWAL, next_record(WITHDRAWAL, state=GIVEN)]))
def test_a_chain_has_one_order(records: list[dict[str, Any]]) -> None:
    if [record["seq"] for record in records] == [1, 2, 3]:
        assert replay(*records).latest(A) == parse_consent(records[-1])
    else:
        with pytest.raises(VerificationError):
            replay(*records)


# ---- Notices, and why someone is not eligible ----

OLD_NOTICE, NEW_NOTICE = "7" * 64, "8" * 64
GRACE_S = 60


def notice(supersedes: str | None, in_force_ms: int) -> Notice:
    record = notice_record(supersedes=supersedes, in_force_from=format_time(in_force_ms))
    return parse_notice(record)  # type: ignore[arg-type]


def test_consents_to_a_superseded_notice_lapse_after_the_grace() -> None:
    result = replay(consent_record(sid=A), consent_record(sid=B))
    anew = next_record(consent_record(sid=C), notice={"id": "pn-8", "sha256": NEW_NOTICE})
    result.apply_notice(2, notice(OLD_NOTICE, NOW + 1000), NEW_NOTICE)
    result.apply(3, parse_consent({**anew, "seq": 1, "prev": None}), "0" * 64)
    ends = NOW + 1000 + GRACE_S * 1000
    # Back and forth: no kept answer outlives its time, in either direction or at another grace.
    for at_ms, grace_s, expected in [
        (NOW, GRACE_S, {A, B, C}),
        (ends - 1, GRACE_S, {A, B, C}),
        (ends, GRACE_S, {C}),
        (ends, GRACE_S + 1, {A, B, C}),
        (NOW + 999, 0, {A, B, C}),
        (NOW + 1000, 0, {C}),
        (MAX_TIME_MS, GRACE_S, {C}),
        (NOW, GRACE_S, {A, B, C}),
    ]:
        eligible = result.eligible(FEDERATED_TRAINING, at_ms, notice_grace_s=grace_s)
        assert eligible == expected, (at_ms, grace_s)
        for sid in (A, B, C):
            found = result.state_of(sid, FEDERATED_TRAINING, at_ms, notice_grace_s=grace_s)
            assert found.in_force == (sid in expected)
    assert result.eligible(FEDERATED_TRAINING, NOW + 1000) == {C}, "no grace unless one is given"
    lapsed = result.state_of(A, FEDERATED_TRAINING, ends, notice_grace_s=GRACE_S)
    assert lapsed == SubjectState(Standing.NOTICE_SUPERSEDED)
    soon = result.state_of(A, FEDERATED_TRAINING, ends - 1, notice_grace_s=GRACE_S)
    assert soon == SubjectState(Standing.IN_FORCE, until_ms=ends)


def test_who_consents_to_the_new_notice_does_not_lapse() -> None:
    first = consent_record(sid=A)
    result = replay(first)
    result.apply_notice(1, notice(OLD_NOTICE, NOW), NEW_NOTICE)
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING
    second = next_record(first, notice={"id": "pn-8", "sha256": NEW_NOTICE})
    result.apply(2, parse_consent(second), digest_of(second))
    assert result.eligible(FEDERATED_TRAINING, NOW) == {A}
    # Going back to the old notice does not help.
    third = next_record(second, notice=first["notice"])
    result.apply(3, parse_consent(third), digest_of(third))
    assert result.eligible(FEDERATED_TRAINING, NOW) == NOTHING


def test_of_two_that_supersede_the_same_the_earlier_in_force_counts() -> None:
    for order in [(500, 900), (900, 500)]:
        result = replay(consent_record(sid=A))
        for index, later_ms in enumerate(order, start=1):
            result.apply_notice(index, notice(OLD_NOTICE, NOW + later_ms), str(index) * 64)
        assert result.eligible(FEDERATED_TRAINING, NOW + 499) == {A}
        assert result.eligible(FEDERATED_TRAINING, NOW + 500) == NOTHING


def test_a_notice_that_supersedes_none_or_an_unknown_one_ends_no_consent() -> None:
    result = replay(consent_record(sid=A))
    result.apply_notice(1, notice(None, NOW), NEW_NOTICE)
    result.apply_notice(2, notice("9" * 64, NOW), "6" * 64)
    assert result.eligible(FEDERATED_TRAINING, NOW) == {A}


def test_notices_are_applied_in_the_log_s_order_and_never_to_themselves() -> None:
    result = replay(consent_record(sid=A), consent_record(sid=B))
    with pytest.raises(VerificationError, match="out of order"):
        result.apply_notice(1, notice(OLD_NOTICE, NOW), NEW_NOTICE)
    with pytest.raises(VerificationError, match="supersedes itself"):
        result.apply_notice(2, notice(OLD_NOTICE, NOW), OLD_NOTICE)
    with pytest.raises(VerificationError, match="digest"):
        result.apply_notice(2, notice(OLD_NOTICE, NOW), "no digest")
    assert result.eligible(FEDERATED_TRAINING, NOW) == {A, B}
    result.apply_notice(2, notice(OLD_NOTICE, NOW), NEW_NOTICE)
    with pytest.raises(VerificationError, match="out of order"):
        result.apply(2, parse_consent(consent_record(sid=C)), "0" * 64)


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({"state": REFUSED, "purposes": {}}, Standing.REFUSED),
        ({"state": WITHDRAWN, "purposes": {}}, Standing.WITHDRAWN),
        ({"purposes": {RECOMMENDATIONS: True}}, Standing.PURPOSE_REFUSED),
        ({"purposes": {FEDERATED_TRAINING: False}}, Standing.PURPOSE_REFUSED),
        ({"expires": format_time(NOW + 5)}, Standing.EXPIRED),
        ({}, Standing.IN_FORCE),
    ],
)
def test_why_someone_is_not_eligible(changes: dict[str, Any], standing: Standing) -> None:
    result = replay(consent_record(sid=A, **changes))
    assert result.state_of(A, FEDERATED_TRAINING, NOW + 5).standing is standing
    assert result.state_of(B, FEDERATED_TRAINING, NOW + 5).standing is Standing.NO_RECORD


def test_records_are_found_by_subject_and_by_id() -> None:
    first = consent_record(sid=A)
    other = consent_record(sid=B)
    second = next_record(first, state=WITHDRAWN, purposes={})
    result = ConsentReplay()
    for index, record in [(4, first), (7, other), (9, second)]:
        result.apply(index, parse_consent(record), digest_of(record))
    assert result.indices(A) == [4, 9]
    assert result.indices(B) == [7]
    assert result.indices(C) == []
    assert [result.index_of(each["record_id"]) for each in (first, other, second)] == [4, 7, 9]
    assert result.index_of("0" * 26) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_incremental_answer_is_the_plain_one(data: st.DataObject) -> None:
    """Whatever is logged and asked, `eligible` is who `state_of` says is in force."""
    result, newest, digests = ConsentReplay(), {}, [OLD_NOTICE]
    for index in range(data.draw(st.integers(1, 12))):
        if data.draw(st.integers(0, 3)) == 0:
            digest = f"{index:064x}"
            older = data.draw(st.sampled_from([None, *digests]))
            result.apply_notice(index, notice(older, NOW + data.draw(st.integers(0, 9))), digest)
            digests.append(digest)
        else:
            sid = data.draw(st.sampled_from([A, B, C]))
            state = data.draw(st.sampled_from([GIVEN, GIVEN, REFUSED, WITHDRAWN]))
            expires = data.draw(st.none() | st.integers(1, 9))
            changes = {
                "state": state,
                "purposes": {FEDERATED_TRAINING: data.draw(st.booleans())}
                if state == GIVEN
                else {},
                "expires": None if expires is None else format_time(NOW + expires),
                "notice": {"id": "pn", "sha256": data.draw(st.sampled_from(digests))},
            }
            before = newest.get(sid)
            record = (
                consent_record(sid=sid, **changes)
                if before is None
                else next_record(before, **changes)
            )
            newest[sid] = record
            result.apply(index, parse_consent(record), digest_of(record))
        at_ms, grace_s = NOW + data.draw(st.integers(0, 2010)), data.draw(st.integers(0, 2))
        eligible = result.eligible(FEDERATED_TRAINING, at_ms, notice_grace_s=grace_s)
        assert eligible == {
            sid
            for sid in (A, B, C)
            if result.state_of(sid, FEDERATED_TRAINING, at_ms, notice_grace_s=grace_s).in_force
        }
