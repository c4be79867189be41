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
    parse_consent,
)
from common.errors import VerificationError
from common.timestamps import MAX_TIME_MS, format_time, parse_time
from tests.support.consent_records import EVENT_TIME, consent_record, digest_of, next_record

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
