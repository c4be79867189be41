"""The codec of Flower messages: a header and named arrays to and from Flower's records.

A message has exactly two records: ``header``, a ConfigRecord whose one value is canonical JSON, and
``arrays``, an ArrayRecord of ``numpy.ndarray`` bytes (NumPy's format 1.0). There is never a
MetricRecord: what a region would report beside its noised update is not sent at all.

What is received is judged before it is used: each array's dtype and shape are read from its body,
must be what the record claims, and its length must be exactly what they give, so that nothing is
allocated on a stranger's word.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.lib.format as npy_format
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError
from common.parameters import element_bytes

#: The version of what regions and their coordinator say to each other, in these messages; a region
#: states it when it is asked who it is.
PROTOCOL_VERSION = 1

HEADER = "header"
ARRAYS = "arrays"
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS = 64
MAX_ARRAY_BYTES = 1 << 30
MAX_NAME_CHARACTERS = 128

_JSON = "json"
_STYPE = "numpy.ndarray"
_DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("float32", "float64", "int32", "int64")}
_MAX_DIMENSIONS = 8
# Eight dimensions of 2^63 need less.
_MAX_HEAD_BYTES = 512
_BODY_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<>|a-z0-9]{2,8})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]*)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class ReceivedArray:
    """An array as its body has it, not yet a NumPy array.

    Attributes:
        dtype: One of ``<f4``, ``<f8``, ``<i4``, ``<i8``.
        shape: Its dimensions.
        content: Its raw little-endian bytes in C order, a view of what was received.
    """

    dtype: str
    shape: tuple[int, ...]
    content: memoryview

    def to_numpy(self) -> np.ndarray:
        """The array; it shares the received memory and cannot be written to."""
        return np.frombuffer(self.content, dtype=_DTYPES[self.dtype]).reshape(self.shape)


def encode_message(header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]) -> RecordDict:
    """Makes a message's content.

    Args:
        header: What canonical JSON can hold.
        arrays: Named arrays of dtype <f4, <f8, <i4 or <i8.

    Raises:
        FormatError: A name, dtype or size is outside of what `decode_message` accepts.
    """
    return compose_message(header, encode_arrays(arrays))


def compose_message(header: Mapping[str, JsonValue], arrays: ArrayRecord) -> RecordDict:
    """Like `encode_message`, for arrays that many messages share."""
    data = canonical_json.encode(dict(header), max_bytes=MAX_HEADER_BYTES)
    return RecordDict({HEADER: ConfigRecord({_JSON: data}), ARRAYS: arrays})


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Makes the record of named arrays.

    Raises:
        FormatError: A name, dtype or size is outside of what `decode_arrays` accepts.
    """
    if len(arrays) > MAX_ARRAYS:
        raise FormatError(f"A message has at most {MAX_ARRAYS} arrays.")
    record = ArrayRecord()
    for name, array in sorted(arrays.items()):
        record[name] = _encode_array(name, array)
    return record


def decode_arrays(
    record: ArrayRecord, *, max_array_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, np.ndarray]:
    """Reads a record of named arrays strictly; they share its memory and cannot be written to.

    Raises:
        FormatError: It is not exactly what `encode_arrays` makes; says what differs.
    """
    received = _parse_arrays(record, max_array_bytes)
    return {name: array.to_numpy() for name, array in received.items()}


def decode_message(
    content: RecordDict, *, max_array_bytes: int = MAX_ARRAY_BYTES
) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
    """Reads a message's content strictly.

    Args:
        content: What was received.
        max_array_bytes: The most bytes all arrays together may have.

    Raises:
        FormatError: It is not exactly what `encode_message` makes; says what differs.
    """
    header, received = parse_message(content, max_array_bytes=max_array_bytes)
    return header, {name: array.to_numpy() for name, array in received.items()}


def parse_message(
    content: RecordDict, *, max_array_bytes: int = MAX_ARRAY_BYTES
) -> tuple[dict[str, JsonValue], dict[str, ReceivedArray]]:
    """Like `decode_message`, with the arrays' dtypes and shapes but no NumPy arrays yet."""
    if set(content) != {HEADER, ARRAYS}:
        raise FormatError("A message has exactly the records header and arrays.")
    config, record = content[HEADER], content[ARRAYS]
    if not isinstance(config, ConfigRecord) or not isinstance(record, ArrayRecord):
        raise FormatError("A message's records are a ConfigRecord and an ArrayRecord.")
    data = config.get(_JSON)
    if set(config) != {_JSON} or not isinstance(data, bytes):
        raise FormatError("A message's header is canonical JSON and nothing else.")
    header = canonical_json.decode(data, max_bytes=MAX_HEADER_BYTES)
    if not isinstance(header, dict):
        raise FormatError("A message's header is an object.")
    return header, _parse_arrays(record, max_array_bytes)


def _encode_array(name: str, array: np.ndarray) -> Array:
    _check_name(name)
    if array.dtype.str not in _DTYPES or array.ndim > _MAX_DIMENSIONS:
        raise FormatError(f"Array {name!r} of dtype {array.dtype.str} is not sent.")
    return Array(
        dtype=array.dtype.name,
        shape=tuple(array.shape),
        stype=_STYPE,
        # Joined from the elements' own memory, so that there is one copy and not two.
        data=b"".join((_body_head(array.dtype, array.shape), element_bytes(array))),
    )


def _body_head(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What NumPy's format 1.0 has before an array's content."""
    buffer = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _parse_arrays(record: ArrayRecord, max_array_bytes: int) -> dict[str, ReceivedArray]:
    if len(record) > MAX_ARRAYS:
        raise FormatError(f"A message has at most {MAX_ARRAYS} arrays.")
    if (total := sum(len(array.data) for array in record.values())) > max_array_bytes:
        raise FormatError(f"A message's arrays of {total} bytes are over {max_array_bytes}.")
    return {name: _parse_array(name, array) for name, array in record.items()}


def _parse_array(name: str, array: Array) -> ReceivedArray:
    _check_name(name)
    view = memoryview(array.data)
    dtype, shape, start = _read_body_head(name, view)
    if (array.stype, array.dtype, tuple(array.shape)) != (_STYPE, dtype.name, shape):
        raise FormatError(f"Array {name!r} claims to be another than its body.")
    content = view[start:]
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"Array {name!r} has another length than its shape gives.")
    return ReceivedArray(dtype=dtype.str, shape=shape, content=content)


def _read_body_head(name: str, view: memoryview) -> tuple[np.dtype, tuple[int, ...], int]:
    # NumPy's own reader evaluates the head as Python; what NumPy writes needs no more than this.
    found = _BODY_HEAD.match(bytes(view[:_MAX_HEAD_BYTES]))
    if found is None or found["dtype"].decode() not in _DTYPES:
        raise FormatError(f"Array {name!r} is not of NumPy's format 1.0 and a dtype we exchange.")
    dtype = _DTYPES[found["dtype"].decode()]
    sizes = [size.strip() for size in found["shape"].split(b",")]
    shape = tuple(int(size) for size in sizes if size.isdigit())
    if len(shape) > _MAX_DIMENSIONS or found[0] != _body_head(dtype, shape):
        raise FormatError(f"Array {name!r} has a head other than NumPy writes.")
    return dtype, shape, found.end()


def _check_name(name: str) -> None:
    if not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isascii() and name.isidentifier()):
        raise FormatError("An array's name is a short identifier.")
