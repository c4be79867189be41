"""The verifier's replay of consents against a plain model of what the specification says."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audit.verify.consents import ConsentHistory, consent_facts
from common.errors import VerificationError
from common.timestamps import format_time
from tests.support.bundle_builder import digest, ulid

TRAINING = "fedpref:FederatedTraining"
STATES = ("dpv:ConsentGiven", "dpv:ConsentWithdrawn", "dpv:ConsentRefused")
Event = tuple[int, str, bool | None, int | None]


def _record(
    customer: int, seq: int, prev: str | None, event: Event, label: str
) -> dict[str, object]:
    _, state, granted, expires = event
    return {
        "record_id": ulid(label),
        "sid": digest(f"customer {customer}"),
        "seq": seq,
        "prev": prev,
        "state": state,
        "purposes": {} if granted is None else {TRAINING: granted},
        "expires": None if expires is None else format_time(expires),
        "notice": {"id": "pn-1", "sha256": digest("notice")},
        "method": "web-form",
        "event_time": "2026-01-01T00:00:00.000Z",
    }


class _Chains:
    """Makes each customer's records follow one another."""

    def __init__(self) -> None:
        self.heads: dict[int, tuple[int, str | None]] = {}

    def next(self, number: int, event: Event) -> tuple[dict[str, object], bytes]:
        customer = event[0]
        seq, prev = self.heads.get(customer, (0, None))
        envelope = hashlib.sha256(f"envelope {number}".encode())
        self.heads[customer] = (seq + 1, envelope.hexdigest())
        return _record(customer, seq + 1, prev, event, f"id {number}"), envelope.digest()


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(STATES),
        st.sampled_from([True, False, None]),
        st.one_of(st.none(), st.integers(0, 20)),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=5))
def test_the_eligible_set_is_that_of_the_latest_records(
    events: list[Event], asked: list[tuple[int, int]]
) -> None:
    history, chains = ConsentHistory(), _Chains()
    for number, event in enumerate(events):
        record, envelope = chains.next(number, event)
        history.apply(
            2 * number, consent_facts(record), envelope
        )  # Other entries stand in between.
    for size, at_ms in asked:
        latest = {event[0]: event for number, event in enumerate(events) if 2 * number < size}
        expected = {
            bytes.fromhex(digest(f"customer {customer}"))
            for customer, state, granted, expires in latest.values()
            if state == STATES[0] and granted is True and (expires is None or expires > at_ms)
        }
        found = list(history.eligible(size, at_ms, 0))
        assert set(found) == expected
        assert len(found) == len(expected)
    assert history.records == len(events)
    assert history.subjects == len({event[0] for event in events})
    assert history.duplicate_ids() == []


GIVEN: Event = (1, STATES[0], True, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seq", 1), ("seq", 3), ("prev", None), ("prev", digest("x")), ("seq", 0)],
)
def test_a_record_that_does_not_continue_the_chain_is_left_out(field: str, value: object) -> None:
    history, chains = ConsentHistory(), _Chains()
    record, envelope = chains.next(0, GIVEN)
    history.apply(0, consent_facts(record), envelope)
    record, envelope = chains.next(1, (1, STATES[1], False, None))
    with pytest.raises(VerificationError):
        history.apply(1, consent_facts(record | {field: value}), envelope)
    assert len(list(history.eligible(2, 0, 0))) == 1
    history.apply(2, consent_facts(record), envelope)
    assert list(history.eligible(3, 0, 0)) == []


@pytest.mark.parametrize(("field", "value"), [("seq", 2), ("prev", digest("x"))])
def test_a_first_record_that_is_none_is_left_out(field: str, value: object) -> None:
    history, chains = ConsentHistory(), _Chains()
    record, envelope = chains.next(0, GIVEN)
    with pytest.raises(VerificationError):
        history.apply(0, consent_facts(record | {field: value}), envelope)
    assert history.records == 0


def test_repeated_record_ids_are_found_by_their_index() -> None:
    history, chains = ConsentHistory(), _Chains()
    for number, customer in enumerate((1, 2, 3, 4)):
        record, envelope = chains.next(number, (customer, STATES[0], True, None))
        record["record_id"] = ulid("same" if customer in (2, 4) else str(customer))
        history.apply(10 * number, consent_facts(record), envelope)
    assert history.duplicate_ids() == [30]
