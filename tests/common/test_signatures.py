from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import VerificationError
from common.keys import check_public_key, key_id, verify_signature
from tests.support import ed25519_arithmetic as ed25519
from tests.support.memory_signer import MemorySigner
from tests.support.unsound_keys import unsound_keys
from tests.vectors.ed25519 import generate

VECTORS = Path(__file__).parents[1] / "vectors" / "ed25519"
EDGE_CASES = json.loads((VECTORS / "edge_cases.json").read_bytes())
SPECCHECK = json.loads((VECTORS / "speccheck.json").read_bytes())
RFC_8032 = json.loads((VECTORS / "rfc8032.json").read_bytes())

SIGNER = MemorySigner("signatures")


def _fields(case: dict[str, str]) -> tuple[bytes, bytes, bytes]:
    return tuple(bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))  # type: ignore[return-value]


def test_the_edge_cases_are_as_generated() -> None:
    assert generate.edge_cases() == EDGE_CASES
    assert len(EDGE_CASES) == 12


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case["conditions"])
def test_none_of_the_edge_cases_is_accepted(case: dict[str, str]) -> None:
    public_key, message, signature = _fields(case)
    # The case bites: a lax verifier accepts it.
    assert ed25519.accepts(
        public_key,
        message,
        signature,
        cofactored=case["accepted_by"] == generate.COFACTORED,
        canonical_hash=case["accepted_by"] == generate.CANONICAL_HASH,
    )
    assert not verify_signature(public_key, message, signature)


@pytest.mark.parametrize("case", SPECCHECK, ids=lambda case: str(case["number"]))
def test_none_of_the_published_speccheck_cases_is_accepted(case: dict[str, str]) -> None:
    public_key, message, signature = _fields(case)
    # Typed in wrongly, no equation would hold: each is accepted by some lax verifier.
    assert any(
        ed25519.accepts(
            public_key, message, signature, cofactored=cofactored, canonical_hash=canonical_hash
        )
        for cofactored in (False, True)
        for canonical_hash in (False, True)
    )
    assert _conditions(public_key, signature) == _CONDITIONS[int(case["number"])]
    assert not verify_signature(public_key, message, signature)


def test_there_are_twelve_published_speccheck_cases() -> None:
    assert [case["number"] for case in SPECCHECK] == list(range(12))


#: Orders of A and R, whether S is below L, and which of A and R have their canonical encoding.
_CONDITIONS = [
    ("small", "small", True, True, True),
    ("small", "mixed", True, True, True),
    ("mixed", "small", True, True, True),
    ("mixed", "mixed", True, True, True),
    ("mixed", "mixed", True, True, True),
    ("mixed", "prime", True, True, True),
    ("prime", "prime", False, True, True),
    ("prime", "prime", False, True, True),
    ("mixed", "small", True, True, False),
    ("mixed", "small", True, True, False),
    ("small", "mixed", True, False, True),
    ("small", "mixed", True, False, True),
]


def _conditions(public_key: bytes, signature: bytes) -> tuple[str, str, bool, bool, bool]:
    a, r = ed25519.decode(public_key), ed25519.decode(signature[:32])
    assert a is not None
    assert r is not None
    below = int.from_bytes(signature[32:], "little") < ed25519.L
    return a.order, r.order, below, a.encode() == public_key, r.encode() == signature[:32]


def test_a_verifier_backed_by_openssl_accepts_some_edge_cases() -> None:
    accepted = 0
    for case in EDGE_CASES:
        public_key, message, signature = _fields(case)
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            continue
        accepted += 1
    assert accepted >= 4


@pytest.mark.parametrize("case", RFC_8032, ids=lambda case: case["name"])
def test_published_signatures_are_accepted(case: dict[str, str]) -> None:
    public_key, message, signature = _fields(case)
    check_public_key(public_key)
    assert verify_signature(public_key, message, signature)
    assert not verify_signature(public_key, message + b"\x00", signature)


@given(st.binary(max_size=200), st.integers(0, 64 * 8 - 1))
def test_one_flipped_bit_of_a_signature_is_refused(message: bytes, bit: int) -> None:
    signature = bytearray(SIGNER.sign(message))
    assert verify_signature(SIGNER.public_key, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify_signature(SIGNER.public_key, message, bytes(signature))


def test_signature_and_message_cannot_be_split_elsewhere() -> None:
    message = b"message"
    signature = SIGNER.sign(message)
    assert not verify_signature(SIGNER.public_key, signature[-1:] + message, signature[:-1])
    assert not verify_signature(SIGNER.public_key, message[1:], signature + message[:1])
    assert not verify_signature(SIGNER.public_key, signature + message, b"")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_public_key_has_32_bytes(length: int) -> None:
    public_key = (SIGNER.public_key * 2)[:length]
    assert not verify_signature(public_key, b"m", SIGNER.sign(b"m"))
    with pytest.raises(VerificationError):
        check_public_key(public_key)


def test_there_are_14_encodings_of_small_order_points_for_a_lax_reader() -> None:
    encodings = ed25519.small_order_encodings()
    assert len(set(encodings)) == len(encodings) == 14
    points = [ed25519.decode(data) for data in encodings]
    assert all(point is not None and 8 * point == ed25519.IDENTITY for point in points)
    assert len({point.encode() for point in points if point is not None}) >= 8


@pytest.mark.parametrize(("name", "public_key"), unsound_keys().items(), ids=lambda value: None)
def test_unsound_keys_are_refused(name: str, public_key: bytes) -> None:
    with pytest.raises(VerificationError, match="not a sound"):
        check_public_key(public_key)


def test_one_signature_of_a_small_order_key_would_verify_every_message() -> None:
    identity = ed25519.IDENTITY.encode()
    signature = identity + bytes(32)
    for message in (b"grant", b"withdrawal"):
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
        assert not verify_signature(identity, message, signature)


def test_the_id_of_a_key() -> None:
    public_key = SIGNER.public_key
    assert key_id(public_key) == hashlib.sha256(b"fedpref-key/1" + public_key).hexdigest()
