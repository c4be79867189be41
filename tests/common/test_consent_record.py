from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    LEGAL_BASES,
    RECOMMENDATIONS,
    REFUSED,
    STATES,
    WITHDRAWN,
    parse_consent,
)
from common.errors import FormatError
from common.timestamps import MAX_TIME_MS, format_time
from tests.support.consent_records import consent_record

hex_256 = st.text("0123456789abcdef", min_size=64, max_size=64)
terms = st.from_regex(r"\A[a-z][a-z0-9-]{0,31}:[A-Za-z][A-Za-z0-9]{0,63}\Z")
lines = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=256
)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    seq = draw(st.integers(1, 2**53 - 1))
    state = draw(st.sampled_from(sorted(STATES)))
    grants = st.booleans() if state == GIVEN else st.just(False)
    event_ms = draw(st.integers(0, MAX_TIME_MS - 1))
    minor = draw(st.booleans())
    guardian = None
    if minor:
        approves = st.just(GIVEN) if state == GIVEN else st.sampled_from(sorted(STATES))
        decided = st.fixed_dictionaries({"state": approves, "evidence": st.none() | hex_256})
        guardian = draw(decided if state == GIVEN else st.none() | decided)
    expires = draw(st.none() | st.integers(event_ms + 1, MAX_TIME_MS).map(format_time))
    return {
        "v": "fedpref-consent/1",
        "record_id": draw(st.from_regex(r"\A[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")),
        "sid": draw(hex_256),
        "seq": seq,
        "prev": None if seq == 1 else draw(hex_256),
        "state": state,
        "type": "explicit",
        "purposes": draw(st.dictionaries(terms, grants, max_size=4)),
        "legal_basis": draw(st.sampled_from(sorted(LEGAL_BASES))),
        "data": draw(st.lists(terms, min_size=1, max_size=3, unique=True)),
        "controller": draw(lines),
        "jurisdiction": draw(st.sampled_from(["DE", "CN", "US-CA", "FR-75"])),
        "lang": draw(st.sampled_from(["de", "zh-Hans-CN", "en-GB", "gsw"])),
        "notice": {"id": draw(st.sampled_from(["pn-7", "N_1.2"])), "sha256": draw(hex_256)},
        "method": draw(st.sampled_from(["web-form", "call", "in-store-tablet2"])),
        "evidence": draw(st.none() | hex_256),
        "minor": minor,
        "guardian": guardian,
        "event_time": format_time(event_ms),
        "expires": expires,
        "withdrawal": draw(st.sampled_from(["https://a.example/w?x=1", "mailto:dpo@a.example"])),
    }


@given(records())
def test_a_record_round_trips(record: dict[str, Any]) -> None:
    parsed = parse_consent(record)
    assert parsed.to_record() == record
    assert canonical_json.encode(parsed.to_record()) == canonical_json.encode(record)
    assert parse_consent(parsed.to_record()) == parsed


def test_a_parsed_record_is_a_value() -> None:
    record = consent_record()
    first, second = parse_consent(record), parse_consent(copy.deepcopy(record))
    assert first == second
    assert hash(first) == hash(second)
    assert first != parse_consent({**record, "jurisdiction": "FR"})
    assert first.purposes[FEDERATED_TRAINING] is True
    assert FEDERATED_ANALYTICS in first.purposes
    with pytest.raises(TypeError):
        first.purposes[FEDERATED_ANALYTICS] = True  # type: ignore[index]
    with pytest.raises(AttributeError):
        first.state = REFUSED  # type: ignore[misc]


def test_a_parsed_record_does_not_follow_changes_of_its_source() -> None:
    record = consent_record()
    parsed = parse_consent(record)
    record["purposes"][FEDERATED_ANALYTICS] = True
    record["data"].append("pd:Age")
    parsed.to_record()["purposes"].clear()  # type: ignore[union-attr]
    assert parsed.purposes[FEDERATED_ANALYTICS] is False
    assert parsed.form.data == ("pd:PurchasesAndSpendingHabit",)


def test_what_records_share_is_kept_once() -> None:
    first = parse_consent(consent_record(sid="1" * 64))
    second = parse_consent(copy.deepcopy(consent_record(sid="2" * 64)))
    assert first.form is second.form
    assert first.purposes is second.purposes


def test_the_order_of_purposes_is_of_no_account() -> None:
    record = consent_record()
    turned = {**record, "purposes": dict(reversed(record["purposes"].items()))}
    assert parse_consent(turned) == parse_consent(record)


NOT_TEXT: list[Any] = [None, 1, True, [], {}, b"x"]
NOT_HEX: list[Any] = [
    "",
    "5" * 63,
    "5" * 65,
    "A" * 64,
    "g" * 64,
    "5" * 64 + "\n",
    "٥" * 64,
    *(value for value in NOT_TEXT if value is not None),
]
NOT_TIME: list[Any] = ["", "2026-03-01", "2026-03-01T09:30:00Z", "2026-02-30T00:00:00.000Z", 1]

WRONG: dict[str, list[Any]] = {
    "v": ["fedpref-consent/2", "fedpref-notice/1", "", *NOT_TEXT],
    "record_id": ["", "01ARZ3NDEKTSV4RRFFQ69G5FA", "01arz3ndektsv4rrffq69g5fav", *NOT_TEXT],
    "sid": [None, *NOT_HEX],
    "seq": [0, -1, 2**53, "1", True, 1.0, None],
    "prev": ["5" * 64, *NOT_HEX],
    "state": ["ConsentGiven", "dpv:ConsentExpired", "dpv:consentGiven", "", *NOT_TEXT],
    "type": ["implicit", "Explicit", "", *NOT_TEXT],
    "purposes": [
        None,
        [],
        [FEDERATED_TRAINING],
        "",
        {FEDERATED_TRAINING: 1},
        {FEDERATED_TRAINING: 0},
        {FEDERATED_TRAINING: "true"},
        {FEDERATED_TRAINING: None},
        {"FederatedTraining": True},
        {"fedpref:": True},
        {":FederatedTraining": True},
        {"fedpref:Federated Training": True},
        {"fedpref:FederatedTraining\n": True},
        {"Fedpref:FederatedTraining": True},
        {"": False},
    ],
    "legal_basis": ["eu-gdpr:A6-1-f", "consent", "", *NOT_TEXT],
    "data": [
        [],
        ["pd:Age", "pd:Age"],
        ["Age"],
        ["pd:Age\n"],
        [None],
        ["pd:Age", None],
        ["pd:Age", 1],
        [["pd:Age"]],
        [{}],
        "pd:Age",
        None,
        {},
    ],
    "controller": ["", "a\nb", "a\x00", "a\x7f", "a\u2028b", "a" * 257, *NOT_TEXT],
    "jurisdiction": ["de", "DEU", "D", "", "DE-", "DE-ABCD", "DE\n", *NOT_TEXT],
    "lang": ["DE", "d", "german", "de_DE", "de-", "", "de\n", *NOT_TEXT],
    "notice": [
        None,
        {},
        [],
        "pn-7",
        {"id": "pn-7"},
        {"sha256": "7" * 64},
        {"id": "pn-7", "sha256": "7" * 64, "url": ""},
        {"id": "", "sha256": "7" * 64},
        {"id": "pn 7", "sha256": "7" * 64},
        {"id": None, "sha256": "7" * 64},
        {"id": "pn-7", "sha256": "7" * 63},
        {"id": "pn-7", "sha256": None},
    ],
    "method": ["", "Web-Form", "web form", "-web", "web-", "web--form", "a" * 65, *NOT_TEXT],
    "evidence": NOT_HEX,
    "minor": [None, 0, 1, "false", [], {}, True],
    "guardian": [
        {"state": GIVEN, "evidence": None},  # of someone who is no minor
        {},
        [],
        "",
        False,
    ],
    "event_time": [None, *NOT_TIME],
    "expires": [
        *NOT_TIME,
        "2026-03-01T09:30:00.000Z",  # the moment it is given
        "2026-03-01T09:29:59.999Z",
    ],
    "withdrawal": [
        "",
        "shop.example",
        "http://shop.example",
        "javascript:alert(1)",
        "https://",
        "https://shop.example/a b",
        "https://shop.example/ä",
        "https://shop.example/\n",
        "https://" + "a" * 2001,
        *NOT_TEXT,
    ],
}


def test_every_field_has_its_wrong_values() -> None:
    assert WRONG.keys() == consent_record().keys()
    parse_consent(consent_record())


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_a_malformed_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(FormatError):
        parse_consent(consent_record(**{name: value}))


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_missing_field_is_refused(name: str) -> None:
    record = consent_record()
    del record[name]
    with pytest.raises(FormatError, match=name):
        parse_consent(record)


@pytest.mark.parametrize(
    "guardian",
    [
        {"state": "given", "evidence": None},
        {"state": GIVEN},
        {"state": GIVEN, "evidence": "5"},
        {"state": GIVEN, "evidence": None, "name": "somebody"},
    ],
)
def test_a_malformed_guardian_of_a_minor_is_refused(guardian: Any) -> None:
    with pytest.raises(FormatError):
        parse_consent(consent_record(minor=True, guardian=guardian))


@pytest.mark.parametrize("guardian", [None, *({"state": s, "evidence": None} for s in STATES)])
def test_a_minors_consent_needs_the_guardians(guardian: Any) -> None:
    record = consent_record(minor=True, guardian=guardian)
    if guardian is not None and guardian["state"] == GIVEN:
        assert parse_consent(record).to_record() == record
        return
    with pytest.raises(FormatError, match="guardian"):
        parse_consent(record)
    refusal = {**record, "state": "dpv:ConsentRefused", "purposes": {}}
    assert parse_consent(refusal).to_record() == refusal


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(FormatError, match="comment"):
        parse_consent(consent_record(comment=""))


@pytest.mark.parametrize("value", [None, [], "record", 1])
def test_what_is_no_object_is_no_record(value: Any) -> None:
    with pytest.raises(FormatError, match="not an object"):
        parse_consent(value)


def test_only_the_first_record_has_no_predecessor() -> None:
    parse_consent(consent_record(seq=2, prev="6" * 64))
    with pytest.raises(FormatError, match="prev is null"):
        parse_consent(consent_record(seq=2, prev=None))
    with pytest.raises(FormatError, match="prev is null"):
        parse_consent(consent_record(seq=1, prev="6" * 64))


@pytest.mark.parametrize("state", [REFUSED, WITHDRAWN])
def test_a_refusal_or_withdrawal_grants_nothing(state: str) -> None:
    parse_consent(consent_record(state=state, purposes={}))
    parse_consent(consent_record(state=state, purposes={FEDERATED_TRAINING: False}))
    with pytest.raises(FormatError, match="grants a purpose"):
        parse_consent(
            consent_record(state=state, purposes={FEDERATED_TRAINING: False, RECOMMENDATIONS: True})
        )


def test_a_truth_value_is_not_mistaken_for_a_number_seen_before() -> None:
    # 1 == True, and both have the same hash: a lookup by value must not take one for the other.
    purposes = {"fedpref:SeenBefore": True}
    parse_consent(consent_record(purposes=purposes))
    with pytest.raises(FormatError, match="neither true nor false"):
        parse_consent(consent_record(purposes={"fedpref:SeenBefore": 1}))


def test_messages_do_not_repeat_personal_data() -> None:
    secret = "5" * 63 + "x"
    with pytest.raises(FormatError) as refusal:
        parse_consent(consent_record(sid=secret))
    assert secret not in str(refusal.value)
