"""Makes edge_cases.json: signatures that some Ed25519 verifiers accept and a strict one must not.

The twelve conditions are those of ed25519-speccheck (Chalkias, Garillot, Nikolaenko: Taming the
many EdDSAs, SSR 2020, table 5); the keys, messages and signatures are our own. Every case is
accepted by the lax verification that its "accepted_by" names, so that none is refused merely
because its signature is wrong.

    python -m tests.vectors.ed25519.generate > tests/vectors/ed25519/edge_cases.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from tests.support.ed25519_arithmetic import BASE, IDENTITY, L, P, challenge, order_8_point

LAX = "cofactorless"
COFACTORED = "cofactored"
CANONICAL_HASH = "cofactorless, canonical encodings hashed"

TORSION = order_8_point()


def scalar(name: str) -> int:
    return int.from_bytes(hashlib.sha512(name.encode()).digest(), "little") % L


SECRET, NONCE = scalar("secret key of the edge cases"), scalar("nonce of the edge cases")
HONEST = SECRET * BASE
MIXED = HONEST + TORSION
# y = p + 1 stands for y = 1, the identity; y = p stands for y = 0, a point of order 4.
IDENTITY_NON_CANONICAL = (P + 1).to_bytes(32, "little")
ORDER_4_NON_CANONICAL = P.to_bytes(32, "little")


def message_where(
    r: bytes, public_key: bytes, condition: Callable[[int], bool]
) -> tuple[bytes, int]:
    """The first message, and its challenge, for which the challenge meets a condition."""
    number = 0
    while True:
        message = hashlib.sha256(b"edge case %d" % number).digest()
        h = challenge(r, public_key, message)
        if condition(h):
            return message, h
        number += 1


def case(
    conditions: str, accepted_by: str, public_key: bytes, message: bytes, r: bytes, s: int
) -> dict[str, str]:
    return {
        "conditions": conditions,
        "accepted_by": accepted_by,
        "message": message.hex(),
        "public_key": public_key.hex(),
        "signature": (r + s.to_bytes(32, "little")).hex(),
    }


def small_order_key() -> list[dict[str, str]]:
    key = TORSION.encode()
    r = (-TORSION).encode()
    message, _ = message_where(r, key, lambda h: h % 8 == 1)
    zero = case("S = 0, small A, small R", LAX, key, message, r, 0)
    r = (NONCE * BASE + -TORSION).encode()
    message, _ = message_where(r, key, lambda h: h % 8 == 1)
    return [zero, case("0 < S < L, small A, mixed R", LAX, key, message, r, NONCE)]


def mixed_order_key() -> list[dict[str, str]]:
    key = MIXED.encode()
    r = (-TORSION).encode()
    message, h = message_where(r, key, lambda h: h % 8 == 1)
    cases = [case("mixed A, small R", LAX, key, message, r, h * SECRET % L)]
    r = (NONCE * BASE + -TORSION).encode()
    message, h = message_where(r, key, lambda h: h % 8 == 1)
    s = (NONCE + h * SECRET) % L
    cases.append(case("mixed A, mixed R", LAX, key, message, r, s))
    r = (NONCE * BASE + TORSION).encode()
    message, h = message_where(r, key, lambda h: (1 + h) % 8 != 0)
    s = (NONCE + h * SECRET) % L
    cases.append(case("mixed A, mixed R, only cofactored", COFACTORED, key, message, r, s))
    r = (NONCE * BASE).encode()
    # Who reduces 8h modulo L before multiplying keeps some of A's torsion, and refuses this one.
    message, h = message_where(r, key, lambda h: h % 8 != 0 and 8 * h % L % 8 != 0)
    s = (NONCE + h * SECRET) % L
    cases.append(case("mixed A, prime R, only cofactored", COFACTORED, key, message, r, s))
    return cases


def malleable_s() -> list[dict[str, str]]:
    key, r = HONEST.encode(), (NONCE * BASE).encode()
    message, h = message_where(r, key, lambda h: True)
    s = (NONCE + h * SECRET) % L
    largest = s + (2**256 - 1 - s) // L * L
    return [
        case("S > L", LAX, key, message, r, s + L),
        case("S >> L, its top bits set", LAX, key, message, r, largest),
    ]


def non_canonical_encodings() -> list[dict[str, str]]:
    key, r = MIXED.encode(), IDENTITY_NON_CANONICAL
    message, h = message_where(r, key, lambda h: h % 8 == 0)
    cases = [
        case("mixed A, non-canonical small R", LAX, key, message, r, h * SECRET % L),
    ]
    message, h = message_where(IDENTITY.encode(), key, lambda h: h % 8 == 0)
    name = "mixed A, non-canonical small R, hashed canonically"
    cases.append(case(name, CANONICAL_HASH, key, message, r, h * SECRET % L))
    key = ORDER_4_NON_CANONICAL
    order_4 = next(
        point
        for point in (2 * TORSION, -(2 * TORSION))
        if point.x & 1 == 0  # the encoding above has the sign bit 0
    )
    r = (NONCE * BASE + -order_4).encode()
    message, _ = message_where(r, key, lambda h: h % 4 == 1)
    cases.append(case("non-canonical small A, mixed R", LAX, key, message, r, NONCE))
    message, _ = message_where(r, order_4.encode(), lambda h: h % 4 == 1)
    name = "non-canonical small A, mixed R, hashed canonically"
    cases.append(case(name, CANONICAL_HASH, key, message, r, NONCE))
    return cases


def edge_cases() -> list[dict[str, str]]:
    return [*small_order_key(), *mixed_order_key(), *malleable_s(), *non_canonical_encodings()]


if __name__ == "__main__":
    print(json.dumps(edge_cases(), indent=1))  # noqa: T201 - its output is the file
