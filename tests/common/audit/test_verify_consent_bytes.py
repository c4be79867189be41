"""The quick reading of consents never says anything that the general reading does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import canonical_json
from common.audit.verify.consent_bytes import ConsentBytes, ConsentForms
from common.audit.verify.records import check_record
from common.envelope import Envelope
from common.errors import FedprefError
from common.timestamps import parse_time
from tests.support.bundle_builder import Federation, MemorySigner, envelope_of, record_of

SIGNER = MemorySigner("region-1 consent")


def consents() -> list[bytes]:
    federation = Federation(customers=8, rounds=1).run()
    entries = federation.logs["region-1"]
    return [entry for entry in entries if record_of(entry)["v"] == "fedpref-consent/1"]


CONSENTS = consents()


def general(data: bytes) -> tuple[Envelope, dict[str, Any]] | None:
    """What the general reading says: the envelope and the record, or that it refuses."""
    try:
        envelope = Envelope.decode(data)
        record = envelope.record()
        check_record(envelope.kind, record)
    except FedprefError:
        return None
    return envelope, record


def agrees(read: ConsentBytes, data: bytes) -> None:
    answer = general(data)
    assert answer is not None, data
    envelope, record = answer
    assert envelope.kind == "consent"
    (signature,) = envelope.signatures
    assert (signature.key_id, signature.signature) == (read.key_id, read.signature)
    assert envelope.payload == read.payload
    assert record["sid"] == read.sid.hex()
    assert record["seq"] == read.seq
    assert record["prev"] == (None if read.prev is None else read.prev.hex())
    assert record["record_id"] == read.record_id
    assert parse_time(record["event_time"]) == read.event_ms
    expires = record["expires"]
    assert (None if expires is None else parse_time(expires)) == read.expires_ms
    own = {"sid", "seq", "prev", "record_id", "event_time", "expires", "evidence"}
    assert {name: value for name, value in record.items() if name not in own} == {
        name: value for name, value in read.form.items() if name not in own
    }


def test_it_reads_what_the_writer_writes() -> None:
    forms = ConsentForms()
    for data in CONSENTS:
        read = forms.read(data)
        assert read is not None
        agrees(read, data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.integers(0, len(CONSENTS) - 1),
    place=st.integers(0, 10_000),
    drop=st.integers(0, 3),
    put=st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b'"', b",", b"\\", b"null", b"0", b" ", b"{}", b'"minor":true', b'\\"', b"\xc3\xa4"]
        ),
    ),
)
def test_what_it_reads_in_an_altered_payload_the_general_reading_reads_too(
    which: int, place: int, drop: int, put: bytes
) -> None:
    forms = ConsentForms()
    # Its forms are known: an altered record must not pass for one of them.
    for data in CONSENTS:
        forms.read(data)
    payload = base64.b64decode(json.loads(CONSENTS[which])["payload"])
    place %= len(payload)
    altered = payload[:place] + put + payload[place + drop :]
    data = envelope_of(altered, "consent", SIGNER)
    read = forms.read(data)
    if read is not None:
        agrees(read, data)


@settings(max_examples=300, deadline=None)
@given(
    which=st.integers(0, len(CONSENTS) - 1), place=st.integers(0, 10_000), mask=st.integers(1, 255)
)
def test_what_it_reads_in_an_altered_envelope_the_general_reading_reads_too(
    which: int, place: int, mask: int
) -> None:
    forms = ConsentForms()
    for data in CONSENTS:
        forms.read(data)
    altered = bytearray(CONSENTS[which])
    altered[place % len(altered)] ^= mask
    read = forms.read(bytes(altered))
    if read is not None:
        agrees(read, bytes(altered))


WRONG: list[tuple[str, Any]] = [
    ("event_time", "2026-02-30T00:00:00.000Z"),
    ("event_time", "1969-12-31T23:59:59.999Z"),
    ("expires", "2026-02-30T00:00:00.000Z"),
    ("evidence", "F" * 64),
    ("prev", "f" * 63),
    ("record_id", "81ARZ3NDEKTSV4RRFFQ69G5FAV"),
    ("record_id", "01ARZ3NDEKTSV4RRFFQ69G5FAU"),
    ("seq", 0),
    ("seq", 2**53),
    ("sid", "f" * 65),
    ("minor", 0),
    ("guardian", {"state": "given", "evidence": None}),
    ("purposes", {"training": True}),
    ("state", "dpv:ConsentExpired"),
    ("v", "fedpref-notice/1"),
    ("data", [',"event_time":"2026-01-01T00:00:00.000Z"', 1]),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_it_leaves_a_wrong_field_to_the_general_reading(name: str, value: Any) -> None:
    forms = ConsentForms()
    forms.read(CONSENTS[0])
    record = {**record_of(CONSENTS[0]), name: value}
    try:
        payload = canonical_json.encode(record)
    except FedprefError:
        payload = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    data = envelope_of(payload, "consent", SIGNER)
    assert general(data) is None
    assert forms.read(data) is None


def test_a_string_cannot_pass_for_the_fields_after_it() -> None:
    forms = ConsentForms()
    forms.read(CONSENTS[0])
    hidden = 'x","event_time":"2026-01-01T00:00:00.000Z","evidence":null,"expires":null,"a":"'
    record = {**record_of(CONSENTS[0]), "controller": hidden}
    data = envelope_of(canonical_json.encode(record), "consent", SIGNER)
    read = forms.read(data)
    assert read is not None
    agrees(read, data)


def test_two_signatures_and_keys_given_twice_go_the_general_way() -> None:
    record = record_of(CONSENTS[0])
    payload = canonical_json.encode(record)
    twice = envelope_of(payload, "consent", SIGNER, MemorySigner("other"))
    assert ConsentForms().read(twice) is None
    again = payload.replace(b'"seq":1,', b'"seq":1,"seq":1,')
    assert ConsentForms().read(envelope_of(again, "consent", SIGNER)) is None
