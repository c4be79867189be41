"""The codec of Flower messages: both ways, and what it refuses."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import canonical_json
from common.errors import FormatError
from common.messages import (
    ARRAYS,
    HEADER,
    MAX_ARRAYS,
    decode_arrays,
    decode_message,
    encode_arrays,
    encode_message,
)

NAMES = st.from_regex(r"\A[a-z_][a-z0-9_]{0,20}\Z")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
NUMPY_ARRAYS = st.sampled_from(["<f4", "<f8", "<i4", "<i8"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


def with_array(array: Array) -> RecordDict:
    content = encode_message({}, {})
    content[ARRAYS] = ArrayRecord({"x": array})
    return content


def saved(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, NUMPY_ARRAYS, max_size=3))
def test_what_is_encoded_is_decoded(
    header: dict[str, canonical_json.JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    decoded, received = decode_message(encode_message(header, arrays))
    assert decoded == header
    assert set(received) == set(arrays)
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        assert received[name].shape == array.shape
        assert received[name].tobytes() == array.tobytes()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, NUMPY_ARRAYS, max_size=3))
def test_what_is_decoded_encodes_to_the_same_records(
    header: dict[str, canonical_json.JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    content = encode_message(header, arrays)
    again = encode_message(*decode_message(content))
    assert again[HEADER] == content[HEADER]
    assert {
        name: (a.dtype, a.shape, a.data) for name, a in again.array_records[ARRAYS].items()
    } == {name: (a.dtype, a.shape, a.data) for name, a in content.array_records[ARRAYS].items()}


def test_the_body_is_what_numpy_and_flower_read() -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    sent = encode_arrays({"x": array})["x"]
    assert sent.data == saved(array)
    np.testing.assert_array_equal(sent.numpy(), array)
    np.testing.assert_array_equal(decode_arrays(ArrayRecord({"x": Array(array)}))["x"], array)


def test_a_transposed_array_is_sent_in_its_own_order() -> None:
    array = np.arange(6, dtype="<i8").reshape(2, 3).T
    np.testing.assert_array_equal(decode_arrays(encode_arrays({"x": array}))["x"], array)


def test_received_arrays_cannot_be_written_to() -> None:
    received = decode_arrays(encode_arrays({"x": np.zeros(3, "<f4")}))["x"]
    with pytest.raises(ValueError, match="read-only"):
        received[0] = 1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, complex),
        np.zeros(2, [("a", "<f4")]),
        np.array(["2024-01-01"], "datetime64[D]"),
        np.array([{}], object),
        np.zeros(2, ">f4"),
        np.zeros(2, "<f2"),
        np.zeros(2, bool),
        np.array(["text"]),
        np.zeros((1,) * 9, "<f4"),
    ],
    ids=lambda array: f"{array.dtype.str}{array.ndim}",
)
def test_other_kinds_of_arrays_are_neither_sent_nor_received(array: np.ndarray) -> None:
    with pytest.raises(FormatError):
        encode_message({}, {"x": array})
    body = saved(array, allow_pickle=True)
    claim = Array(array.dtype.name, tuple(array.shape), "numpy.ndarray", body)
    with pytest.raises(FormatError):
        decode_message(with_array(claim))


GOOD = np.arange(4, dtype="<f4")
BODY = saved(GOOD)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (2, 2), "numpy.ndarray", BODY),
        Array("float64", (4,), "numpy.ndarray", BODY),
        Array("int32", (4,), "numpy.ndarray", BODY),
        Array("float32", (4,), "torch", BODY),
        Array("float32", (4,), "numpy.ndarray", BODY + b"\0"),
        Array("float32", (4,), "numpy.ndarray", BODY[:-1]),
        Array("float32", (4,), "numpy.ndarray", b""),
        Array("float32", (4,), "numpy.ndarray", BODY[:9]),
        Array("float32", (4,), "numpy.ndarray", b"PK\x03\x04" + BODY),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"\x01\x00", b"\x02\x00", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"False", b"True ", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"(4,)", b"(-4)", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"'<f4'", b"'<fx'", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"(4,), } ", b"(4, ), }", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"(4,), } ", b"(04,), }", 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b"{'descr'", b"[" * 8, 1)),
        Array("float32", (4,), "numpy.ndarray", BODY.replace(b" " * 8, b" # evil ", 1)),
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused(array: Array) -> None:
    with pytest.raises(FormatError, match="Array 'x'"):
        decode_message(with_array(array))


def test_a_shape_that_would_fill_the_memory_allocates_nothing() -> None:
    shape = (1 << 40,)
    body = BODY.replace(b"(4,), }" + b" " * 14, b"(1099511627776,), }  ", 1)
    assert body != BODY
    tracemalloc.start()
    with pytest.raises(FormatError, match="length"):
        decode_message(with_array(Array("float32", shape, "numpy.ndarray", body)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_limits_hold_before_anything_is_parsed() -> None:
    content = encode_message({}, {"x": np.zeros(1000, "<f8")})
    with pytest.raises(FormatError, match="over 8000"):
        decode_message(content, max_array_bytes=8000)
    with pytest.raises(FormatError, match="at most"):
        encode_message({}, {f"x{i}": GOOD for i in range(MAX_ARRAYS + 1)})
    content[ARRAYS] = ArrayRecord({f"x{i}": Array(GOOD) for i in range(MAX_ARRAYS + 1)})
    with pytest.raises(FormatError, match="at most"):
        decode_message(content)


@pytest.mark.parametrize("name", ["", "a b", "x/../y", "é", "x" * 129, "1x"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="identifier"):
        encode_message({}, {name: GOOD})
    content = encode_message({}, {})
    content[ARRAYS] = ArrayRecord({name: Array(GOOD)})
    with pytest.raises(FormatError, match="identifier"):
        decode_message(content)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b'{"a":NaN}',
        b'{"a":1.5}',
        b'{"b":1,"a":2}',
        b"[" * 200_000,
        b"\xff",
        b"",
        b'{"a":"' + b"x" * (1 << 20) + b'"}',
    ],
    ids=["list", "twice", "space", "nan", "float", "order", "deep", "bytes", "empty", "long"],
)
def test_a_header_that_is_not_canonical_json_is_refused(data: bytes) -> None:
    content = encode_message({}, {})
    content[HEADER] = ConfigRecord({"json": data})
    with pytest.raises(FormatError):
        decode_message(content)


def test_other_records_are_refused() -> None:
    good = encode_message({"a": 1}, {"x": GOOD})
    metrics = RecordDict({**good, "metrics": MetricRecord({"num-examples": 10**9})})
    missing = RecordDict({HEADER: good[HEADER]})
    swapped = RecordDict({HEADER: good[ARRAYS], ARRAYS: good[HEADER]})
    extra = RecordDict({**good, HEADER: ConfigRecord({"json": b"{}", "more": 1})})
    text = RecordDict({**good, HEADER: ConfigRecord({"json": "{}"})})
    for content in (metrics, missing, swapped, extra, text, RecordDict()):
        with pytest.raises(FormatError):
            decode_message(content)
