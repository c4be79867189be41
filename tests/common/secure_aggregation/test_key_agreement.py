"""X25519 by its vectors, and every key that must not be agreed with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from common.errors import FormatError
from common.secure_aggregation import MaskingKey, SecureSumRefusedError, shared_secret
from common.secure_aggregation import key_agreement as module

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "x25519" / "rfc7748.json").read_text()
)
AGREEMENT = {name: bytes.fromhex(value) for name, value in VECTORS["agreement"].items()}


def test_the_vectors_of_rfc_7748() -> None:
    for case in VECTORS["products"]:
        secret = shared_secret(
            MaskingKey(bytes.fromhex(case["scalar"])), bytes.fromhex(case["coordinate"])
        )
        assert secret.hex() == case["product"]
    alice, bob = MaskingKey(AGREEMENT["alice"]), MaskingKey(AGREEMENT["bob"])
    assert (alice.public, bob.public) == (AGREEMENT["alice_public"], AGREEMENT["bob_public"])
    assert shared_secret(alice, bob.public) == AGREEMENT["shared"]
    assert shared_secret(bob, alice.public) == AGREEMENT["shared"]


def reason(own: MaskingKey, peer: bytes) -> str:
    with pytest.raises(SecureSumRefusedError) as refused:
        shared_secret(own, peer)
    return refused.value.reason


@pytest.mark.parametrize("point", VECTORS["small_order"])
def test_points_of_small_order_are_refused(point: str) -> None:
    assert reason(MaskingKey.generate(), bytes.fromhex(point)) == "key-weak"


class Agreeable:
    """A library that gives an all-zero secret without a word, as some do."""

    @staticmethod
    def from_private_bytes(data: bytes) -> Agreeable:
        return Agreeable()

    def exchange(self, peer: X25519PublicKey) -> bytes:
        return bytes(32)

    def public_key(self) -> X25519PublicKey:
        return X25519PrivateKey.generate().public_key()


def test_an_all_zero_secret_is_refused_whatever_the_library_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, peer = MaskingKey.generate(), MaskingKey.generate().public
    monkeypatch.setattr(module, "X25519PrivateKey", Agreeable)
    assert reason(own, peer) == "key-weak"


@pytest.mark.parametrize("point", VECTORS["not_canonical"])
def test_a_second_encoding_of_a_point_is_refused(point: str) -> None:
    assert reason(MaskingKey.generate(), bytes.fromhex(point)) == "key-weak"


def test_the_own_key_given_back_is_refused_in_any_encoding() -> None:
    own = MaskingKey.generate()
    assert reason(own, own.public) == "key-reflected"
    flipped = own.public[:-1] + bytes([own.public[-1] | 0x80])
    # The library takes it for the same point.
    private = X25519PrivateKey.from_private_bytes(own.private)
    same = private.exchange(X25519PublicKey.from_public_bytes(own.public))
    assert private.exchange(X25519PublicKey.from_public_bytes(flipped)) == same
    assert reason(own, flipped) == "key-weak"


def test_keys_are_drawn_and_not_shown() -> None:
    first, second = MaskingKey.generate(), MaskingKey.generate()
    assert first.private != second.private
    assert first.private.hex() not in repr(first)
    with pytest.raises(FormatError):
        MaskingKey(b"short")
