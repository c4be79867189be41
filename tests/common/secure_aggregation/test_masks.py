"""Masks by their vectors, what they are bound to, and that sums are exact without them."""

from __future__ import annotations

import hashlib
import hmac
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secure_aggregation import MaskContext, Quantiser, add_pairwise_masks, ring_values
from common.secure_aggregation.masks import stream_key
from tests.support.masked_sum import context, keys, masked, names, roster_of

VECTORS = Path(__file__).parents[2] / "vectors"
HKDF_CASES = json.loads((VECTORS / "hkdf" / "rfc5869.json").read_text())["cases"]
AES = json.loads((VECTORS / "aes-ctr" / "sp800-38a.json").read_text())
CONTEXT = MaskContext(1, "c" * 64)


@pytest.mark.parametrize("case", HKDF_CASES)
def test_hkdf_by_rfc_5869(case: dict[str, str]) -> None:
    parts = {name: bytes.fromhex(value) for name, value in case.items()}
    derived = HKDF(hashes.SHA256(), len(parts["okm"]), parts["salt"], parts["info"])
    assert derived.derive(parts["ikm"]) == parts["okm"]


def test_the_key_schedule_is_hkdf_over_the_context() -> None:
    secret, info = bytes(range(32)), CONTEXT.info("region-1", "region-2")
    assert info == (
        b'{"attempt":1,"pair":["region-1","region-2"],"roster":"' + b"c" * 64 + b'",'
        b'"v":"fedpref-pairwise-mask/1"}'
    )
    extracted = hmac.digest(b"fedpref-pairwise-mask/1", secret, hashlib.sha256)
    assert stream_key(secret, info) == hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    key, counter = bytes.fromhex(AES["key"]), bytes.fromhex(AES["counter"])
    plain, cipher = bytes.fromhex(AES["plaintext"]), bytes.fromhex(AES["ciphertext"])
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    assert encryptor.update(plain) == cipher
    # And a mask is that stream from counter zero on, as little-endian numbers of 32 bits.
    secret, n = b"s" * 32, 100_000
    vector = np.zeros(n, np.uint32)
    add_pairwise_masks(vector, "a", {"b": secret}, CONTEXT)
    own = Cipher(algorithms.AES(stream_key(secret, CONTEXT.info("a", "b"))), modes.CTR(bytes(16)))
    stream = own.encryptor().update(bytes(4 * n))
    np.testing.assert_array_equal(vector, np.frombuffer(stream, "<u4"))
    other = np.zeros(n, np.uint32)
    add_pairwise_masks(other, "b", {"a": secret}, CONTEXT)
    assert not (vector + other).any()


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(3, 16) | st.just(50),
    drops=st.integers(0, 3),
    exponent=st.integers(-24, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_are_bit_exact_with_and_without_drops(
    count: int, drops: int, exponent: int, seed: int
) -> None:
    """A retry with the survivors masks the same values anew and sums them as exactly."""
    generator = np.random.default_rng(seed)
    of, regions = context(count, exponent=exponent), names(count)
    top = min(of.quantiser.largest_steps, 2**24)
    steps = {r: generator.integers(-top, top, size=40, endpoint=True) for r in regions}
    arrays = {r: {"a": np.ldexp(s.astype(np.float32), exponent)} for r, s in steps.items()}
    held = keys(regions)
    survivors = regions
    for attempt in range(1, 3):
        roster = roster_of(of, {r: held[r] for r in survivors})
        vectors = {r: masked(r, arrays[r], roster, held, of, attempt=attempt) for r in survivors}
        total = np.zeros(40, np.uint32)
        for region in generator.permutation(survivors):
            total += vectors[region]
        (values,) = ring_values(total, of.quantiser, n_summed=len(survivors))
        plain = sum(steps[region] for region in survivors)
        np.testing.assert_array_equal(values, np.ldexp(plain.astype(np.float64), exponent))
        gone = generator.choice(regions, size=min(drops, count - 3), replace=False)
        survivors = [region for region in regions if region not in gone]


def changed(**changes: object) -> list[bytes]:
    """One region's masked zeros under two contexts, with the same keys."""
    of, regions = context(3), names(3)
    held, zeros = keys(regions), {"a": np.zeros(64, np.float32)}
    attempt = changes.pop("attempt", 1)
    other = context(3, **changes)
    vectors = []
    for each, number in ((of, 1), (other, attempt)):
        roster = roster_of(each, held)
        vectors.append(masked(regions[0], zeros, roster, held, each, attempt=number).tobytes())  # type: ignore[arg-type]
    return vectors


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": 2},
        {"run": "run-2"},
        {"plan": "f" * 64},
        {"server_round": 3},
        {"mechanism": "popularity"},
        {"model_in": "f" * 64},
        {"quantiser": Quantiser(-11, 3)},
        {"quantiser": Quantiser(-12, 4)},
    ],
    ids=str,
)
def test_masks_are_bound_to_all_that_a_sum_is_about(changes: dict[str, object]) -> None:
    first, second = changed(**changes)
    assert first != second
    same = changed()
    assert same[0] == same[1]


def test_masks_are_bound_to_the_roster() -> None:
    of, regions = context(4), names(4)
    held, zeros = keys(regions), {"a": np.zeros(64, np.float32)}
    whole = masked(regions[0], zeros, roster_of(of, held), held, of)
    fewer = roster_of(of, {region: held[region] for region in regions[:3]})
    rest = masked(regions[0], zeros, fewer, held, of)
    # Not even the mask of a pair that is in both rosters is used again.
    alone = {region: held[region] for region in regions[1:3]}
    assert whole.tobytes() != rest.tobytes()
    by_roster = [
        masked(region, zeros, roster, held, of)
        for roster in (roster_of(of, held), fewer)
        for region in alone
    ]
    assert len({vector.tobytes() for vector in by_roster}) == len(by_roster)


def test_a_masked_vector_looks_like_chance() -> None:
    """Whatever the values: here all of them zero."""
    of, regions = context(3), names(3)
    held, n = keys(regions), 1 << 18
    roster = roster_of(of, held)
    vector = masked(regions[0], {"a": np.zeros(n, np.float32)}, roster, held, of)
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = 4 * n / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 255 degrees of freedom: mean 255, deviation 22.6.
    assert abs(chi_square - 255) < 8 * 22.6


def test_memory_does_not_grow_with_regions_or_values() -> None:
    vector = np.zeros(1 << 21, np.uint32)
    secrets = {f"peer-{number}": bytes([number]) * 32 for number in range(8)}
    tracemalloc.start()
    try:
        add_pairwise_masks(vector, "own", secrets, CONTEXT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < vector.nbytes / 8
