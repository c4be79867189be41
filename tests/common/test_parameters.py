from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import FormatError, InputError
from common.noisy_grid import NoisyGrid
from common.parameters import (
    ArraySpec,
    array_file_parts,
    array_specs,
    arrays_digest,
    check_arrays,
    float_chunks,
    load_arrays,
    measure_floats,
    save_arrays,
    snap_to_grid,
)

# Beside noise of this size hardly anything is rounded to zero.
FINE = NoisyGrid(-12, 1.0)
SPECS = (ArraySpec("a", "<f4", (2, 3)), ArraySpec("b", "<i8", (2,)))


def good() -> dict[str, np.ndarray]:
    return {
        "a": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32) / 4096,
        "b": np.array([0, 1], dtype=np.int64),
    }


ANY_ARRAYS = st.dictionaries(
    st.text("abcdef_", min_size=1, max_size=8),
    st.sampled_from(["<f4", "<f8", "<i4", "<i8"]).flatmap(
        lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(max_dims=3, max_side=4))
    ),
    max_size=4,
)


@given(ANY_ARRAYS)
def test_arrays_round_trip_and_their_digest_is_of_the_content(
    arrays: dict[str, np.ndarray],
) -> None:
    data = save_arrays(arrays)
    again = load_arrays(data, max_bytes=len(data))
    assert array_specs(again) == array_specs(arrays)
    assert arrays_digest(again) == arrays_digest(arrays)
    assert save_arrays(again) == data
    reordered = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    assert arrays_digest(reordered) == arrays_digest(arrays)
    assert save_arrays(reordered) == data


@given(ANY_ARRAYS | st.dictionaries(st.text(max_size=6), hnp.arrays("<f4", (3,)), max_size=3))
def test_a_file_in_parts_is_the_file_that_safetensors_writes(
    arrays: dict[str, np.ndarray],
) -> None:
    for each in (arrays, {name: np.asfortranarray(array) for name, array in arrays.items()}):
        assert b"".join(array_file_parts(each)) == save_arrays(each)


def test_edges_of_a_file_in_parts() -> None:
    arrays = {
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.float32(3.0).reshape(()),
        "a": np.arange(3, dtype=np.int64),
    }
    assert b"".join(array_file_parts(arrays)) == save_arrays(arrays)
    assert b"".join(array_file_parts({})) == save_arrays({})
    with pytest.raises(FormatError):
        array_file_parts({"x": np.zeros(2, np.float16)})


def test_values_are_looked_at_in_pieces_as_they_are_as_a_whole() -> None:
    generator = np.random.default_rng(5)
    values = snap_to_grid(generator.normal(size=(300, 700)), -20)
    assert np.array_equal(np.concatenate(list(float_chunks(values))), values.reshape(-1))
    found = measure_floats(values, -20)
    assert (found.finite, found.on_grid) == (True, True)
    assert found.norm == pytest.approx(float(np.linalg.norm(values.astype(np.float64))))
    # A value in the last piece is looked at too.
    for value, finite, on_grid in ((np.nan, False, False), (2.0**-21, True, False)):
        changed = values.copy()
        changed[-1, -1] = value
        found = measure_floats(changed, -20)
        assert (found.finite, found.on_grid) == (finite, on_grid)
    assert measure_floats(changed, None).on_grid


def test_the_digest_is_as_documented() -> None:
    arrays = {"x": np.array([1.0], dtype=np.float32)}
    expected = hashlib.sha256(
        b'{"dtype":"<f4","name":"x","shape":[1]}\n' + b"\x00\x00\x80\x3f"
    ).hexdigest()
    assert arrays_digest(arrays) == expected
    assert arrays_digest({}) == hashlib.sha256(b"").hexdigest()


def test_the_digest_tells_name_type_and_shape_apart() -> None:
    zeros = np.zeros(4, dtype=np.float32)
    variants: list[dict[str, np.ndarray]] = [
        {"x": zeros},
        {"y": zeros},
        {"x": zeros.reshape(2, 2)},
        {"x": zeros.view("<i4")},
        {"x": zeros[:2], "y": zeros[:2]},
    ]
    assert len({arrays_digest(variant) for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, dtype=">f4"),
        np.zeros(2, dtype=np.complex64),
        np.zeros(2, dtype=np.float16),
        np.zeros(2, dtype=bool),
        np.array([None, 1], dtype=object),
        np.zeros(2, dtype="datetime64[s]"),
        np.zeros(2, dtype=[("x", "<f4")]),
        np.array(["a"]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_other_element_types_are_refused_everywhere(array: np.ndarray) -> None:
    for use in (array_specs, arrays_digest, save_arrays):
        with pytest.raises(FormatError):
            use({"a": array})
    with pytest.raises(FormatError):
        check_arrays({**good(), "a": array}, SPECS, grid=None)


def test_good_arrays_pass() -> None:
    check_arrays(good(), SPECS, grid=FINE, max_norm=1.0)
    check_arrays({}, (), grid=None)


def replaced(**arrays: Any) -> dict[str, np.ndarray]:
    return {**good(), **arrays}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": good()["a"]}, "expected were"),
        (replaced(c=np.zeros(1)), "expected were"),
        (replaced(a=good()["a"].T.copy()), "expected was"),
        (replaced(a=good()["a"].astype(np.float64)), "expected was"),
        (replaced(a=good()["a"] * np.float32(np.nan)), "not finite"),
        (replaced(a=good()["a"] * np.float32(np.inf)), "not finite"),
        (replaced(a=good()["a"] + np.float32(2**-13)), "off the grid"),
        (replaced(a=good()["a"] * np.float32(4096)), "norm"),
        (replaced(a=good()["a"] * np.array([[1], [0]], dtype=np.float32)), "without noise"),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan", "inf", "grid", "norm", "zero row"],
)
def test_bad_arrays_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        check_arrays(arrays, SPECS, grid=FINE, max_norm=1.0)


def test_a_vector_may_have_a_few_zeros_by_chance_but_not_many() -> None:
    values = np.ones(1000, dtype=np.float32)
    spec = (ArraySpec("p", "<f4", (1000,)),)
    values[:12] = 0
    check_arrays({"p": values}, spec, grid=FINE)
    values[:13] = 0
    with pytest.raises(FormatError, match="without noise"):
        check_arrays({"p": values}, spec, grid=FINE)
    # A model is computed from releases; zeros are nothing special there.
    check_arrays({"p": values}, spec, grid=None)


@pytest.mark.parametrize("shape", [(5000,), (20_000, 3), (100_000, 4)], ids=str)
def test_noise_on_a_coarse_grid_is_noise_and_less_of_it_is_not(shape: tuple[int, ...]) -> None:
    """Nobody is in any cell, and the grid is the coarsest that a plan may have."""
    grid, spec = NoisyGrid(-2, 1.0), (ArraySpec("p", "<f4", shape),)
    noise = np.random.default_rng(7).normal(size=shape)
    released = snap_to_grid(noise, grid.exponent)
    zero_rows = int((~released.reshape(len(released), -1).any(axis=1)).sum())
    assert zero_rows > 0
    check_arrays({"p": released}, spec, grid=grid)
    # One row beyond what chance makes, and what the noise of a finer grid would have been.
    most = grid.most_zero_rows(shape[0], released.size // shape[0])
    fewer = released.copy()
    fewer[np.flatnonzero(fewer.reshape(len(fewer), -1).any(axis=1))[: most - zero_rows]] = 0
    check_arrays({"p": fewer}, spec, grid=grid)
    fewer[np.flatnonzero(fewer.reshape(len(fewer), -1).any(axis=1))[0]] = 0
    with pytest.raises(FormatError, match=f"has {most + 1} rows without noise"):
        check_arrays({"p": fewer}, spec, grid=grid)
    with pytest.raises(FormatError, match="without noise"):
        check_arrays({"p": released}, spec, grid=NoisyGrid(-2, 100.0))


@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e7, 1e7)),
    st.integers(-20, 0),
)
def test_snapped_values_are_on_the_grid_and_near(values: np.ndarray, exponent: int) -> None:
    snapped = snap_to_grid(values, exponent)
    assert snapped.dtype == np.float32
    steps = np.ldexp(snapped.astype(np.float64), -exponent)
    assert np.array_equal(steps, np.rint(steps))
    assert np.array_equal(snap_to_grid(snapped.astype(np.float64), exponent), snapped)
    coarseness = np.maximum(2.0**exponent, np.spacing(np.abs(snapped)).astype(np.float64))
    assert (np.abs(snapped - values) <= coarseness).all()
    assert not np.signbit(snapped[snapped == 0]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_without_a_place_on_the_grid_are_refused(value: float) -> None:
    with pytest.raises(InputError):
        snap_to_grid(np.array([1.0, value]), -12)


def test_bytes_that_are_not_arrays_are_refused() -> None:
    data = save_arrays(good())
    for broken in (b"", b"x", data[:-1], data + b"\0", data[:9] + b"~" + data[10:]):
        with pytest.raises(FormatError):
            load_arrays(broken, max_bytes=1 << 20)
    with pytest.raises(FormatError, match="at most"):
        load_arrays(data, max_bytes=len(data) - 1)


def test_a_file_in_another_form_is_refused() -> None:
    annotated = safetensors.numpy.save(good(), metadata={"note": "hidden"})
    with pytest.raises(FormatError, match="safetensors"):
        load_arrays(annotated, max_bytes=1 << 20)


@given(st.binary(max_size=300))
def test_any_bytes_are_loaded_or_refused(data: bytes) -> None:
    try:
        arrays = load_arrays(data, max_bytes=1 << 20)
    except FormatError:
        return
    assert save_arrays(arrays) == data


def test_what_is_read_takes_no_memory_beside_the_file() -> None:
    data = bytearray(save_arrays(good()))
    arrays = load_arrays(data, max_bytes=len(data))
    held = np.frombuffer(data, dtype=np.uint8)
    for array in arrays.values():
        assert np.shares_memory(array, held)
        with pytest.raises(ValueError, match="read-only"):
            array.flat[0] = 1


def test_arrays_that_lie_over_each_other_are_refused() -> None:
    arrays = {"a": np.ones(4, "<f4"), "b": np.zeros(4, "<f4")}
    data = save_arrays(arrays)
    over = data.replace(b"[16,32]", b"[0,16] ")
    assert len(over) == len(data)
    for broken in (over, data.replace(b"[16,32]", b"[15,31]")):
        with pytest.raises(FormatError, match="safetensors"):
            load_arrays(broken, max_bytes=1 << 20)
