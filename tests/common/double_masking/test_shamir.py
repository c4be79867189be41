from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from common.double_masking.shamir import PRIME, SHARE_BYTES, combine, split
from common.errors import FormatError, InputError

_secrets = st.binary(min_size=32, max_size=32)


def _elimination(shares: dict[int, bytes]) -> int:
    """The polynomial's value at 0, by solving Vandermonde's system: an oracle of its own."""
    places = sorted(shares)
    rows = [
        [pow(x, k, PRIME) for k in range(len(places))] + [int.from_bytes(shares[x], "big")]
        for x in places
    ]
    for i in range(len(rows)):
        scale = pow(rows[i][i], -1, PRIME)
        rows[i] = [value * scale % PRIME for value in rows[i]]
        for j in range(len(rows)):
            if j != i:
                factor = rows[j][i]
                rows[j] = [(a - factor * b) % PRIME for a, b in zip(rows[j], rows[i], strict=True)]
    return rows[0][-1]


def test_the_field_is_one() -> None:
    assert sympy.isprime(PRIME)


@given(_secrets, st.integers(1, 20), st.data())
def test_any_threshold_of_the_shares_gives_the_secret(
    secret: bytes, shares: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, shares))
    made = dict(enumerate(split(secret, shares=shares, threshold=threshold), start=1))
    places = data.draw(st.permutations(sorted(made)))
    kept = {place: made[place] for place in places[: data.draw(st.integers(threshold, shares))]}
    assert combine(kept, threshold=threshold) == secret
    few = {place: made[place] for place in places[:threshold]}
    assert _elimination(few).to_bytes(32, "big") == secret
    assert all(len(share) == SHARE_BYTES for share in made.values())


@given(_secrets, _secrets, st.integers(2, 12), st.data())
def test_one_share_too_few_fits_every_secret(
    secret: bytes, other: bytes, shares: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(2, shares))
    made = split(secret, shares=shares, threshold=threshold)
    places = data.draw(st.permutations(range(1, shares + 1)))[: threshold - 1]
    # Some polynomial of the right degree goes through these shares and has the other secret.
    points = {place: made[place - 1] for place in places}
    value = int.from_bytes(other, "big")
    free = next(place for place in range(1, shares + 2) if place not in points)
    through = _interpolate({0: value, **{x: int.from_bytes(y, "big") for x, y in points.items()}})
    completed = {**points, free: through(free).to_bytes(SHARE_BYTES, "big")}
    assert combine(completed, threshold=threshold) == other


def _interpolate(points: dict[int, int]) -> Callable[[int], int]:
    def at(x: int) -> int:
        total = 0
        for place, value in points.items():
            weight = 1
            for other in points:
                if other != place:
                    weight = weight * (x - other) * pow(place - other, -1, PRIME) % PRIME
            total = (total + value * weight) % PRIME
        return total

    return at


def test_shares_below_the_threshold_are_uniform_whatever_the_secret() -> None:
    # The same coins and another secret: every single share moves, none stays as it was.
    first = split(bytes(32), shares=5, threshold=3, random_below=random.Random(1).randrange)
    second = split(b"\xff" * 32, shares=5, threshold=3, random_below=random.Random(1).randrange)
    assert not set(first) & set(second)
    assert len(set(split(bytes(32), shares=50, threshold=34))) == 50


def test_the_threshold_is_the_degree() -> None:
    made = dict(enumerate(split(b"s" * 32, shares=7, threshold=5), start=1))
    with pytest.raises(InputError, match="5 are needed"):
        combine({place: made[place] for place in (1, 2, 3, 4)}, threshold=5)
    # Of a line too few the result is some other element, which hardly ever has 32 bytes.
    with pytest.raises(FormatError, match="one secret"):
        combine(made, threshold=4)


@pytest.mark.parametrize(("shares", "threshold"), [(3, 4), (3, 0), (0, 0)])
def test_impossible_thresholds_are_refused(shares: int, threshold: int) -> None:
    with pytest.raises(InputError):
        split(bytes(32), shares=shares, threshold=threshold)


@pytest.mark.parametrize("share", [b"", b"\xff" * 66, bytes(65), PRIME.to_bytes(66, "big")])
def test_what_is_no_element_is_refused(share: bytes) -> None:
    made = dict(enumerate(split(bytes(32), shares=3, threshold=2), start=1))
    with pytest.raises(FormatError):
        combine({**made, 1: share}, threshold=2)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(InputError):
        split(bytes(31), shares=3, threshold=2)
