from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError as OracleVerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from common import canonical_json
from common.envelope import Envelope, Signature, pae, sign_record, verify_envelope
from common.errors import FormatError, VerificationError
from common.keys import key_id
from tests.support.memory_signer import MemorySigner

HELLO = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dsse" / "hello_world.json").read_bytes()
)
FIRST, SECOND, THIRD = (MemorySigner(f"envelope {n}") for n in range(3))
KEYS = {signer.key_id: signer.public_key for signer in (FIRST, SECOND)}
RECORD: dict[str, Any] = {"v": "fedpref-notice/1", "text": "Grüße 😀", "n": 1}


def _loads(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    assert isinstance(value, dict)
    return value


def test_published_vector_of_the_pre_authentication_encoding() -> None:
    assert pae(HELLO["payloadType"], HELLO["payload"].encode()) == HELLO["pae"].encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.binary(max_size=60))
def test_pre_authentication_encoding_is_that_of_securesystemslib(kind: str, payload: bytes) -> None:
    assert pae(kind, payload) == dsse.Envelope(payload, kind, {}).pae()


def test_an_envelope_is_canonical_and_round_trips() -> None:
    data = sign_record(RECORD, FIRST, SECOND)
    assert canonical_json.encode(_loads(data)) == data
    envelope = Envelope.decode(data)
    assert envelope.encode() == data
    assert envelope.kind == "notice"
    assert envelope.payload_type == "application/vnd.fedpref.notice+json"
    assert envelope.payload == canonical_json.encode(RECORD)
    assert envelope.record() == RECORD
    assert verify_envelope(envelope, KEYS, threshold=2) == (FIRST.key_id, SECOND.key_id)


@given(
    st.dictionaries(
        st.text(st.characters(max_codepoint=127), max_size=8),
        st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        max_size=5,
    )
)
def test_any_record_round_trips(fields: dict[str, Any]) -> None:
    record = {**fields, "v": "fedpref-model/1"}
    envelope = Envelope.decode(sign_record(record, FIRST))
    assert envelope.record() == record
    assert verify_envelope(envelope, KEYS) == (FIRST.key_id,)


def _oracle_key(signer: MemorySigner) -> SSlibKey:
    public = {"public": signer.public_key.hex()}
    return SSlibKey(signer.key_id, "ed25519", "ed25519", public)


def test_securesystemslib_verifies_our_envelopes() -> None:
    oracle = dsse.Envelope.from_dict(_loads(sign_record(RECORD, FIRST, SECOND)))
    accepted = oracle.verify([_oracle_key(FIRST), _oracle_key(SECOND)], 2)
    assert set(accepted) == set(KEYS)
    assert json.loads(oracle.payload) == RECORD
    with pytest.raises(OracleVerificationError):
        oracle.verify([_oracle_key(THIRD)], 1)


def test_we_verify_envelopes_of_securesystemslib() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    key = SSlibKey(key_id(public), "ed25519", "ed25519", {"public": public.hex()})
    payload = canonical_json.encode(RECORD)
    oracle = dsse.Envelope(payload, "application/vnd.fedpref.notice+json", {})
    oracle.sign(CryptoSigner(private, key))
    envelope = Envelope.decode(canonical_json.encode(oracle.to_dict()))
    assert envelope.record() == RECORD
    assert verify_envelope(envelope, {key_id(public): public}) == (key_id(public),)


# What `Envelope.decode` must refuse: each edit is made on the parsed envelope, which is then
# encoded canonically again, so that nothing but the edit can be the reason.


def _sloppy_bits(text: str) -> str:
    """Another base64 text of the same bytes: a bit that padding leaves unused is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = text.rstrip("=")[-1]
    return text.rstrip("=")[:-1] + alphabet[alphabet.index(last) + 1] + "=" * text.count("=")


def _edit_sig(change: Callable[[str], Any]) -> Callable[[dict[str, Any]], None]:
    def edit(value: dict[str, Any]) -> None:
        value["signatures"][0]["sig"] = change(value["signatures"][0]["sig"])

    return edit


def _edit(name: str, new: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.update({name: new})


def _edit_first(name: str, new: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["signatures"][0].update({name: new})


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no signature": lambda value: value["signatures"].clear(),
    "signatures missing": lambda value: value.pop("signatures"),
    "signatures null": _edit("signatures", None),
    "signatures an object": _edit("signatures", {}),
    "a signature null": _edit("signatures", [None]),
    "a signature as text": _edit("signatures", ["AAAA"]),
    "payload missing": lambda value: value.pop("payload"),
    "payload null": _edit("payload", None),
    "payloadType missing": lambda value: value.pop("payloadType"),
    "an unknown field": _edit("comment", ""),
    "keyid missing": lambda value: value["signatures"][0].pop("keyid"),
    "keyid null": _edit_first("keyid", None),
    "keyid empty": _edit_first("keyid", ""),
    "keyid in capitals": _edit_first("keyid", "A" * 64),
    "keyid too long": _edit_first("keyid", "a" * 65),
    "keyid with a line end": _edit_first("keyid", "a" * 64 + "\n"),
    "an algorithm beside the signature": _edit_first("alg", "none"),
    "sig missing": lambda value: value["signatures"][0].pop("sig"),
    "sig a number": _edit_first("sig", 1),
    "sig empty": _edit_first("sig", ""),
    "sig too short": _edit_first("sig", base64.b64encode(bytes(63)).decode()),
    "sig too long": _edit_first("sig", base64.b64encode(bytes(65)).decode()),
    "base64 without padding": _edit_sig(lambda text: text.rstrip("=")),
    "base64 with more padding": _edit_sig(lambda text: text + "="),
    "base64 with a line end": _edit_sig(lambda text: text + "\n"),
    "base64 with a space within": _edit_sig(lambda text: text[:4] + " " + text[4:]),
    "base64 with bytes after the padding": _edit_sig(lambda text: text + "AAAA"),
    "base64 with loose bits": _edit_sig(_sloppy_bits),
    "base64 of the URL alphabet": _edit("payload", "-_-_"),
    "base64 beyond ASCII": _edit("payload", "ÄÄÄÄ"),
    "a payload with loose bits": _edit("payload", "AB=="),
    "another vendor's type": _edit("payloadType", "application/vnd.in-toto+json"),
    "a type with a digit": _edit("payloadType", "application/vnd.fedpref.notice2+json"),
    "a type in capitals": _edit("payloadType", "application/vnd.fedpref.Notice+json"),
    "a type without kind": _edit("payloadType", "application/vnd.fedpref.+json"),
    "a type with a line end": _edit("payloadType", "application/vnd.fedpref.notice+json\n"),
    "a type with a parameter": _edit("payloadType", "application/vnd.fedpref.notice+json;v=1"),
    "a type null": _edit("payloadType", None),
}


@pytest.mark.parametrize("edit", MALFORMED.values(), ids=MALFORMED)
def test_malformed_envelopes_are_refused(edit: Callable[[dict[str, Any]], Any]) -> None:
    value = _loads(sign_record(RECORD, FIRST))
    assert Envelope.decode(canonical_json.encode(value)).record() == RECORD
    edit(value)
    with pytest.raises(FormatError):
        Envelope.decode(canonical_json.encode(value))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b'"a"', b"[" * 60_000, b'{"payload":' * 5_000]
)
def test_other_json_is_no_envelope(data: bytes) -> None:
    with pytest.raises(FormatError):
        Envelope.decode(data)


def test_the_bytes_of_an_envelope_are_unique() -> None:
    data = sign_record(RECORD, FIRST)
    for other in (data + b"\n", b" " + data, data.replace(b'"payload"', b'"p\\u0061yload"')):
        assert json.loads(other) == json.loads(data)
        with pytest.raises(FormatError, match="canonical"):
            Envelope.decode(other)


@given(st.data())
def test_no_flipped_byte_goes_unnoticed(data: Any) -> None:
    whole = bytearray(sign_record(RECORD, FIRST))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((FormatError, VerificationError)):
        verify_envelope(Envelope.decode(bytes(whole)), KEYS)


def test_an_envelope_cannot_be_made_that_could_not_be_read() -> None:
    good = Signature(FIRST.key_id, bytes(64))
    kind = "application/vnd.fedpref.notice+json"
    Envelope(kind, b"", (good,))
    for arguments in (
        ("text/plain", b"", (good,)),
        (kind, b"", ()),
        (kind, b"", (Signature("", bytes(64)),)),
        (kind, b"", (Signature(FIRST.key_id, bytes(63)),)),
    ):
        with pytest.raises(FormatError):
            Envelope(*arguments)


def test_size_is_limited_alike_both_ways() -> None:
    record = {"v": "fedpref-notice/1", "text": "a" * 49_000}
    with pytest.raises(FormatError, match="at most 65535"):
        sign_record(record, FIRST)
    data = sign_record(record, FIRST, max_bytes=100_000)
    with pytest.raises(FormatError, match="at most 65535"):
        Envelope.decode(data)
    with pytest.raises(FormatError, match=f"{len(data)} bytes"):
        Envelope.decode(data, max_bytes=len(data) - 1)
    envelope = Envelope.decode(data, max_bytes=len(data))
    assert envelope.record() == record
    assert envelope.encode(max_bytes=len(data)) == data


def _signed_payload(payload: bytes, kind: str = "notice") -> Envelope:
    payload_type = f"application/vnd.fedpref.{kind}+json"
    signature = FIRST.sign(pae(payload_type, payload))
    return Envelope(payload_type, payload, (Signature(FIRST.key_id, signature),))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'"fedpref-notice/1"',
        b"{}",
        b'{"v":null}',
        b'{"v":"fedpref-notice/2"}',
        b'{"v":"fedpref-consent/1"}',
        b'{"v": "fedpref-notice/1"}',
        b'{"a":1,"a":1,"v":"fedpref-notice/1"}',
        b'{"a":NaN,"v":"fedpref-notice/1"}',
        b'{"a":1.5,"v":"fedpref-notice/1"}',
        b"[" * 40_000,
    ],
)
def test_a_payload_that_is_no_record_of_its_type_is_refused(payload: bytes) -> None:
    envelope = _signed_payload(payload)
    verify_envelope(envelope, KEYS)  # well signed, hence refused for what it is
    with pytest.raises(FormatError):
        envelope.record()


def test_swapping_the_payload_type_breaks_the_signature() -> None:
    value = _loads(sign_record(RECORD, FIRST))
    value["payloadType"] = "application/vnd.fedpref.consent+json"
    swapped = Envelope.decode(canonical_json.encode(value))
    with pytest.raises(VerificationError, match="does not verify"):
        verify_envelope(swapped, KEYS)
    with pytest.raises(FormatError, match="consent record"):
        swapped.record()
    # The reverse: a payload signed under another type does not pass as this one.
    with pytest.raises(FormatError, match="fedpref-notice/1"):
        _signed_payload(canonical_json.encode(RECORD), "consent").record()


def _with_signatures(*signatures: Signature) -> Envelope:
    envelope = Envelope.decode(sign_record(RECORD, FIRST))
    return Envelope(envelope.payload_type, envelope.payload, signatures)


def _signature(signer: MemorySigner) -> Signature:
    return Envelope.decode(sign_record(RECORD, signer)).signatures[0]


def test_a_stripped_signature_leaves_too_few() -> None:
    envelope = _with_signatures(_signature(FIRST))
    with pytest.raises(VerificationError, match="1 signatures; 2 are required"):
        verify_envelope(envelope, KEYS, threshold=2)


def test_a_key_does_not_count_twice() -> None:
    envelope = _with_signatures(_signature(FIRST), _signature(FIRST))
    for threshold in (1, 2):
        with pytest.raises(VerificationError, match="twice"):
            verify_envelope(envelope, KEYS, threshold=threshold)


def test_a_key_under_two_ids_does_not_count_twice() -> None:
    alias = "0" * 64
    envelope = _with_signatures(_signature(FIRST), Signature(alias, _signature(FIRST).signature))
    with pytest.raises(VerificationError, match="another id"):
        verify_envelope(envelope, {**KEYS, alias: FIRST.public_key}, threshold=2)


def test_an_unknown_key_is_refused_even_beside_enough_others() -> None:
    envelope = _with_signatures(_signature(FIRST), _signature(THIRD))
    with pytest.raises(VerificationError, match="may not sign"):
        verify_envelope(envelope, KEYS)
    with pytest.raises(VerificationError, match="may not sign"):
        verify_envelope(_with_signatures(_signature(FIRST)), {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_bad_signature_is_refused_even_beside_enough_others(order: int) -> None:
    both = [_signature(FIRST), Signature(SECOND.key_id, _signature(FIRST).signature)]
    with pytest.raises(VerificationError, match="does not verify"):
        verify_envelope(_with_signatures(*both[::order]), KEYS)


def test_a_threshold_below_one_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="threshold"):
        verify_envelope(_with_signatures(_signature(FIRST)), KEYS, threshold=0)


@pytest.mark.parametrize(
    "version",
    [None, 1, "", "fedpref-notice", "fedpref-notice/2", "fedpref-Notice/1", "x-notice/1",
     "fedpref-notice/1\n", "fedpref-/1"],
)  # fmt: skip
def test_a_record_that_names_no_kind_is_not_signed(version: Any) -> None:
    with pytest.raises(FormatError, match="version"):
        sign_record({"v": version}, FIRST)
    with pytest.raises(FormatError, match="version"):
        sign_record({"text": "no version"}, FIRST)


def test_a_record_is_signed_by_each_key_once_and_by_one_at_least() -> None:
    for signers in ((), (FIRST, FIRST), (FIRST, SECOND, FIRST)):
        with pytest.raises(FormatError, match="each once"):
            sign_record(RECORD, *signers)


def test_a_record_without_canonical_form_is_not_signed() -> None:
    with pytest.raises(FormatError, match="whole number"):
        sign_record({"v": "fedpref-notice/1", "share": 0.5}, FIRST)
