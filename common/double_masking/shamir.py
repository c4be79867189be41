"""Shamir's secret sharing over a prime field: any t of n shares give a secret, t − 1 give nothing.

Shamir, "How to Share a Secret" (1979). The field is that of the Mersenne prime 2^521 − 1, so that
secrets of 32 bytes fit and whole-number arithmetic of Python is all it takes. (The library that is
installed with Flower, PyCryptodome, has sharing over GF(2^128) for secrets of 16 bytes: each secret
would be two, and 50 regions would take a coordinator ten seconds of its arithmetic in Python.)

A share says nothing of whether it is right: who gives one is held to the owner's commitment
(`common.double_masking.sharing`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from common.errors import FormatError, InputError

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66

#: Gives a uniform whole number below its argument.
RandomBelow = Callable[[int], int]


def split(
    secret: bytes, *, shares: int, threshold: int, random_below: RandomBelow = secrets.randbelow
) -> list[bytes]:
    """Shares of a secret: the values at 1, 2, … of a random polynomial whose value at 0 it is.

    Formal guarantees:
        Any `threshold` − 1 shares are uniform and independent of the secret.

    Args:
        secret: 32 bytes.
        shares: n, below the field's size.
        threshold: t, from 1 to n.
        random_below: Where the coefficients come from: the system's generator but in tests.

    Raises:
        InputError: A number is out of range.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= shares:
        raise InputError(f"{len(secret)} bytes cannot be shared {threshold} of {shares}.")
    coefficients = [random_below(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    return [_value(constant, coefficients, x).to_bytes(SHARE_BYTES, "big") for x in _points(shares)]


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of some shares.

    Args:
        shares: By their place, from 1; of more than `threshold` the first ones are taken.
        threshold: t.

    Raises:
        InputError: There are too few shares, or a place is none.
        FormatError: The shares are not of one secret of 32 bytes.
    """
    taken = sorted(shares)[:threshold]
    if threshold < 1 or len(taken) < threshold or taken[0] < 1:
        raise InputError(f"{len(shares)} shares are given; {threshold} are needed.")
    total = 0
    for place in taken:
        numerator = denominator = 1
        for other in taken:
            if other != place:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - place) % PRIME
        weight = numerator * pow(denominator, -1, PRIME)
        total = (total + _element(shares[place]) * weight) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise FormatError("The shares are not of one secret.")
    return total.to_bytes(SECRET_BYTES, "big")


def _points(shares: int) -> range:
    return range(1, shares + 1)


def _value(constant: int, coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * x % PRIME
    return (value + constant) % PRIME


def _element(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise FormatError("A share is not an element of the field.")
    return value
