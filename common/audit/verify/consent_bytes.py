"""Reads the usual bytes of a logged consent quickly, and leaves all others to the general reading.

Of a million consents nearly all differ only in who, when and after which record; the rest of the
payload repeats. What repeats is checked field by field when it is first seen; afterwards only the
parts that differ are, by patterns that admit exactly their canonical forms. Whatever does not match
is no error here: it takes the general way, whose answer this module must never contradict.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from typing import NamedTuple

from common.audit.verify.fields import Record
from common.audit.verify.records import check_record
from common.envelope import MAX_ENVELOPE_BYTES, Envelope
from common.errors import FedprefError
from common.timestamps import parse_time

#: How many distinct repeating parts are remembered; a log has a few forms and choices.
_MAX_FORMS = 4096
_TIME = rb'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"'
_HEX = rb'"[0-9a-f]{64}"'

_PAYLOAD_START = b'{"payload":"'
_AFTER_PAYLOAD = re.compile(
    rb'","payloadType":"application/vnd\.fedpref\.consent\+json"'
    rb',"signatures":\[\{"keyid":"([0-9a-f]{64})","sig":"([A-Za-z0-9+/]{86}==)"\}\]\}'
)
# A quotation mark within a string is escaped, so these bytes stand nowhere but where the field
# begins; what surrounds it is checked when it is first seen.
_FIRST_FIELD = b'"event_time":"'
_SECOND_FIELD = b'"prev":'
_FIRST = re.compile(
    rb'"event_time":(' + _TIME + rb'),"evidence":(?:null|' + _HEX + rb")"
    rb',"expires":(null|' + _TIME + rb"),"
)
_SECOND = re.compile(
    rb'"prev":(null|' + _HEX + rb')(,"purposes":\{[^{}]*\},)'
    rb'"record_id":"([0-7][0-9A-HJKMNP-TV-Z]{25})","seq":([1-9][0-9]{0,14}),"sid":"([0-9a-f]{64})"'
)


class ConsentBytes(NamedTuple):
    """A consent read from its bytes; every field of its record is valid, the signature not checked.

    Attributes:
        payload: The signed payload.
        key_id: The id of the only key that is said to have signed, in hex.
        signature: 64 bytes.
        sid: The subject's pseudonym, 32 bytes.
        seq: The number within the subject's records.
        prev: The digest of the subject's previous envelope, 32 bytes; None for the first.
        record_id: The record's ULID.
        event_ms: When the customer chose, in milliseconds since the epoch.
        expires_ms: From when on it is no longer in force, or None.
        form: What it shares with other records: a whole record, of which only the fields that are
            not attributes here count.
    """

    payload: bytes
    key_id: str
    signature: bytes
    sid: bytes
    seq: int
    prev: bytes | None
    record_id: str
    event_ms: int
    expires_ms: int | None
    form: Record


class ConsentForms:
    """The repeating parts that were found valid."""

    def __init__(self) -> None:
        self._forms: dict[tuple[bytes, ...], Record] = {}

    def read(self, data: bytes) -> ConsentBytes | None:
        """Reads an entry's bytes if they are of the usual form; None says nothing about others."""
        end = data.find(b'"', len(_PAYLOAD_START))
        outer = _AFTER_PAYLOAD.fullmatch(data, end) if end > 0 else None
        if outer is None or len(data) > MAX_ENVELOPE_BYTES or not data.startswith(_PAYLOAD_START):
            return None
        payload = _unbase64(data[len(_PAYLOAD_START) : end])
        signature = _unbase64(outer[2])
        if payload is None or signature is None:
            return None
        start = payload.find(_FIRST_FIELD)
        first = _FIRST.match(payload, start) if start > 0 else None
        if first is None:
            return None
        middle = payload.find(_SECOND_FIELD, first.end())
        second = _SECOND.match(payload, middle) if middle > 0 else None
        if second is None:
            return None
        event, expires = first.groups()
        prev, purposes, record_id, seq, sid = second.groups()
        try:
            event_ms = _milliseconds(event)
            expires_ms = None if expires == b"null" else _milliseconds(expires)
        except FedprefError:
            return None
        parts = (payload[:start], payload[first.end() : middle], purposes, payload[second.end() :])
        form = self._form(parts, data)
        if form is None:
            return None
        return ConsentBytes(
            payload=payload,
            key_id=outer[1].decode(),
            signature=signature,
            sid=bytes.fromhex(sid.decode()),
            seq=int(seq),
            prev=None if prev == b"null" else bytes.fromhex(prev[1:-1].decode()),
            record_id=record_id.decode(),
            event_ms=event_ms,
            expires_ms=expires_ms,
            form=form,
        )

    def _form(self, parts: tuple[bytes, ...], data: bytes) -> Record | None:
        known = self._forms.get(parts)
        if known is not None:
            return known
        try:
            record = Envelope.decode(data).record()
            check_record("consent", record)
        except FedprefError:
            return None
        if record["minor"] is not False or record["guardian"] is not None:
            return None  # Rare, and its fields depend on each other.
        if len(self._forms) >= _MAX_FORMS:
            self._forms.clear()
        self._forms[parts] = record
        return record


def _unbase64(text: bytes) -> bytes | None:
    """Decodes canonical base64; None for any other."""
    try:
        data = binascii.a2b_base64(text)
    except ValueError:
        return None
    return data if binascii.b2a_base64(data, newline=False) == text else None


@lru_cache(maxsize=65_536)
def _milliseconds(quoted: bytes) -> int:
    return parse_time(quoted[1:-1].decode())
