"""The kernel against NumPy, bit by bit, and both against the functions they approximate."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training import normals
from client.training.normals import (
    CHUNK_BYTES,
    CHUNK_PAIRS,
    EXTRA_WORDS,
    agrees,
    is_compiled,
    load_kernel,
    numpy_transform,
    write_normals,
)
from common.errors import StorageError

NATIVE = Path(normals.__file__).parent / "native"
WORDS = st.integers(0, 2**32 - 1)


def kernel() -> normals._Transform:
    (path,) = NATIVE.glob("_gaussian*.so")
    return load_kernel(path)


def transformed(transform: normals._Transform, radius: list[int], angle: list[int]) -> np.ndarray:
    out = np.full(2 * len(radius), np.nan, dtype=np.float32)
    extra = np.arange(1, EXTRA_WORDS + 1, dtype=np.uint64) << np.uint64(50)
    transform(np.array(radius, np.uint32), np.array(angle, np.uint32), extra, out, 0.75)
    return out


def test_the_kernel_is_built_and_in_use() -> None:
    assert is_compiled()


@settings(max_examples=200)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=70))
def test_kernel_and_numpy_give_equal_bits(pairs: list[tuple[int, int]]) -> None:
    radius, angle = map(list, zip(*pairs, strict=True))
    found, expected = (transformed(each, radius, angle) for each in (kernel(), numpy_transform))
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_kernel_and_numpy_give_equal_bits_for_whole_chunks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        radius, angle = generator.integers(0, 2**32, (2, CHUNK_PAIRS), dtype=np.uint32)
        found, expected = (
            transformed(each, radius.tolist(), angle.tolist())
            for each in (kernel(), numpy_transform)
        )
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_values_are_those_of_box_and_muller() -> None:
    generator = np.random.default_rng(1)
    radius, angle = generator.integers(0, 2**32, (2, 200_000), dtype=np.uint32)
    radius[:40_000] >>= np.uint32(12)
    radius = np.maximum(radius, 1 << 16)
    uniform = ((radius >> np.uint32(1)).astype(np.float64) + 0.5) * 2.0**-31
    turn = angle.view(np.int32).astype(np.float64) * (np.pi / 2**31)
    length = 0.75 * np.sqrt(-2.0 * np.log(uniform))
    expected = np.concatenate([length * np.cos(turn), length * np.sin(turn)])
    found = transformed(numpy_transform, radius.tolist(), angle.tolist()).astype(np.float64)
    # Near u = 1 the uniform value itself has but 24 bits: an error of the radius below 2.5e-4.
    near_one = np.tile(uniform > 1 - 1e-4, 2)
    assert np.abs(found - expected)[~near_one].max() <= 4e-6
    assert np.abs(found - expected)[near_one].max() <= 2.5e-4


def test_a_coarse_radius_is_refined_by_further_bits() -> None:
    for transform in (numpy_transform, kernel()):
        out = np.zeros(2, dtype=np.float32)
        radius, angle = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
        lengths = []
        for word in (0, 2**63, 2**64 - 1):
            extra = np.full(EXTRA_WORDS, word, dtype=np.uint64)
            transform(radius, angle, extra, out, 1.0)
            lengths.append(float(out[0]))
        uniform = (np.array([0.5, 2.0**52 + 0.5, 2.0**53 - 0.5]) * 2.0**-53) * 2.0**-31
        assert lengths == pytest.approx(np.sqrt(-2.0 * np.log(uniform)), rel=1e-6)
        assert lengths[0] > 10.8


def test_more_coarse_radii_than_random_bits_have_are_an_error() -> None:
    for transform in (numpy_transform, kernel()):
        with pytest.raises(StorageError, match="not random"):
            transformed(transform, [0] * (EXTRA_WORDS + 1), [0] * (EXTRA_WORDS + 1))
    with pytest.raises(StorageError, match="not random"):
        write_normals(memoryview(bytes(CHUNK_BYTES)), np.zeros(2 * CHUNK_PAIRS, np.float32), 1.0)


def test_a_kernel_that_differs_in_one_bit_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_bit(*arguments: object) -> None:
        numpy_transform(*arguments)  # type: ignore[arg-type]
        out = arguments[3]
        assert isinstance(out, np.ndarray)
        out.view(np.uint32)[7] ^= 1

    assert agrees(numpy_transform)
    assert not agrees(off_by_one_bit)
    monkeypatch.setattr(normals, "load_kernel", lambda path: off_by_one_bit)
    normals._transform.cache_clear()
    assert not is_compiled()
    normals._transform.cache_clear()


def test_without_a_kernel_numpy_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> ctypes.CDLL:
        raise OSError(f"no {path}")

    keystream = memoryview(np.random.default_rng(2).bytes(CHUNK_BYTES))
    compiled, plain = np.zeros((2, 1000), dtype=np.float32)
    write_normals(keystream, compiled, 0.3)
    monkeypatch.setattr(normals, "load_kernel", missing)
    normals._transform.cache_clear()
    write_normals(keystream, plain, 0.3)
    normals._transform.cache_clear()
    assert np.array_equal(compiled.view(np.uint32), plain.view(np.uint32))
