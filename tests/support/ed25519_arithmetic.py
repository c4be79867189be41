"""Edwards25519 in plain integers, as slow and as lax as a test needs (RFC 8032, section 5.1).

Nothing here is shared with what is tested: points decode from any encoding, canonical or not, and
verification can be told which of the usual checks to leave out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)


@dataclass(frozen=True)
class Point:
    """A point in affine coordinates."""

    x: int
    y: int

    def __add__(self, other: Point) -> Point:
        cross = _D * self.x * other.x * self.y * other.y % P
        x = (self.x * other.y + other.x * self.y) * pow(1 + cross, -1, P) % P
        y = (self.y * other.y + self.x * other.x) * pow(1 - cross, -1, P) % P
        return Point(x, y)

    def __neg__(self) -> Point:
        return Point(-self.x % P, self.y)

    def __rmul__(self, scalar: int) -> Point:
        result, addend = IDENTITY, self
        while scalar:
            if scalar & 1:
                result = result + addend
            addend = addend + addend
            scalar >>= 1
        return result

    def encode(self) -> bytes:
        return (self.y | (self.x & 1) << 255).to_bytes(32, "little")

    @property
    def order(self) -> str:
        if 8 * self == IDENTITY:
            return "small"
        return "prime" if L * self == IDENTITY else "mixed"


IDENTITY = Point(0, 1)


def decode(data: bytes) -> Point | None:
    """The point of an encoding; y may be ≥ p, and x = 0 may have either sign."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, (number & (2**255 - 1)) % P
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * _SQRT_MINUS_1 % P
    if x * x % P != square:
        return None
    return Point(-x % P if x & 1 != sign else x, y)


def _base_point() -> Point:
    point = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    if point is None:
        raise ArithmeticError("the base point is on the curve")
    return point


BASE = _base_point()


def order_8_point() -> Point:
    """A generator of the eight points of small order."""
    y = 2
    while True:
        point = decode(y.to_bytes(32, "little"))
        if point is not None:
            torsion = L * point
            if 4 * torsion != IDENTITY:
                return torsion
        y += 1


def challenge(r: bytes, public_key: bytes, message: bytes) -> int:
    """SHA-512(R ‖ A ‖ M) as an integer modulo L."""
    return int.from_bytes(hashlib.sha512(r + public_key + message).digest(), "little") % L


def accepts(
    public_key: bytes,
    message: bytes,
    signature: bytes,
    *,
    cofactored: bool,
    canonical_hash: bool = False,
) -> bool:
    """A lax verification: any S, any point, any encoding.

    Args:
        public_key: A.
        message: M.
        signature: R ‖ S.
        cofactored: Compare eight times both sides.
        canonical_hash: Hash the canonical encodings of R and A, not the ones received.
    """
    r_bytes, s = signature[:32], int.from_bytes(signature[32:], "little")
    a, r = decode(public_key), decode(r_bytes)
    if a is None or r is None:
        return False
    if canonical_hash:
        h = challenge(r.encode(), a.encode(), message)
    else:
        h = challenge(r_bytes, public_key, message)
    factor = 8 if cofactored else 1
    return factor * (s * BASE) == factor * (r + h * a)


def small_order_encodings() -> list[bytes]:
    """All 32 bytes that a lax reader takes for a point of small order, canonical or not.

    Eight points, of five y among them; y = 0 and y = 1 can also be written p and p + 1, and a lax
    reader takes either sign of x = 0.
    """
    torsion = order_8_point()
    ys = {(number * torsion).y for number in range(8)}
    numbers = ys | {y + P for y in ys if y + P < 2**255}
    return [
        (number | sign << 255).to_bytes(32, "little")
        for number in sorted(numbers)
        for sign in (0, 1)
    ]
