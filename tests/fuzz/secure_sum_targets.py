"""Targets: what regions and coordinator tell each other in a secure sum."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from client.engine.masking_keys import HeldKey, MaskingKeyStore
from client.engine.request import MaskRequest
from common import canonical_json
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError
from common.secure_aggregation import (
    MaskingKey,
    SecureSumRefusedError,
    decode_roster,
    encode_roster,
    open_statement,
    shared_secret,
)
from server.mask_replies import read_offer
from server.reply_checks import ReplyRefusedError
from tests.fuzz.record_targets import scratch
from tests.fuzz.target import Target, same
from tests.support.masked_sum import AT_MS, context, keys, names, registry, roster_of, statement

_REGIONS = names(4)
_OWN = MaskingKey(bytes(range(32)))


def _object(data: bytes) -> dict[str, JsonValue]:
    value = canonical_json.decode(data)
    if not isinstance(value, dict):
        raise FormatError("It is no object.")
    return value


def _mask_request(data: bytes) -> None:
    """What is read is whole: its roster travels on as it came, every key agrees or is refused."""
    header = _object(data)
    request = MaskRequest.parse(header)
    same(encode_roster(request.roster), header["roster"])
    same(decode_roster(header["roster"]), request.roster)
    for each in request.roster.statements:
        try:
            same(len(shared_secret(_OWN, each.public_key)), 32)
        except SecureSumRefusedError as refusal:
            same(refusal.reason in ("key-weak", "key-reflected"), True)


def _mask_requests() -> Iterator[bytes]:
    for regions in (_REGIONS, _REGIONS[:1]):
        roster = encode_roster(roster_of(context(4), keys(regions)))
        header: dict[str, JsonValue] = {"run": "r", "round": 1, "attempt": 1, "roster": roster}
        yield canonical_json.encode(header)


def _statement(data: bytes) -> None:
    envelope = Envelope.decode(data)
    same(open_statement(envelope).to_record(), envelope.record())


def _statements() -> Iterator[bytes]:
    yield statement(_REGIONS[0], _OWN, context(4)).encode()


def _offer(data: bytes) -> None:
    header = _object(data)
    if set(header) != {"masking_key", "masked"}:
        raise FormatError("It is no offer.")
    try:
        offer = read_offer(header, context(4), _REGIONS[0], _entry(), registry(5), now_ms=AT_MS)
    except ReplyRefusedError as refusal:
        raise FormatError(refusal.message) from refusal
    same(open_statement(offer.statement).region, _REGIONS[0])
    assert 0 <= offer.attempt <= 500


def _entry() -> str:
    return _REGIONS[0].encode().hex().rjust(64, "0")


def _offers() -> Iterator[bytes]:
    said = base64.b64encode(next(_statements())).decode()
    newest: dict[str, JsonValue] = {"attempt": 2, "regions": [*_REGIONS]}
    for masked in (None, newest):
        yield canonical_json.encode({"masking_key": said, "masked": masked})


def _key_file(data: bytes) -> None:
    folder = scratch() / "masking"
    folder.mkdir(exist_ok=True)
    (folder / "run-0001.masking-key").write_bytes(data)
    held = MaskingKeyStore(folder).read("run", 1)
    assert held is not None
    same(len(held.key.private), 32)


def _key_files() -> Iterator[bytes]:
    folder = scratch() / "masking-seed"
    MaskingKeyStore(folder).write("run", 1, HeldKey(_OWN, b"a statement"))
    yield (folder / "run-0001.masking-key").read_bytes()


TARGETS = (
    Target("mask-request", _mask_request, _mask_requests, runs=500),
    Target("masking-statement", _statement, _statements, runs=1000),
    Target("mask-offer", _offer, _offers, runs=500),
    Target("masking-key-file", _key_file, _key_files, runs=500),
)
