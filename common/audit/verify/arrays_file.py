"""The digest of a model file's arrays, read from the safetensors bytes without any array library.

The format: an 8-byte little-endian length, a JSON header of that length
(``{name: {"dtype", "shape", "data_offsets"}}``), then the arrays' raw little-endian bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from common import canonical_json
from common.audit.verify.fields import Record
from common.errors import FormatError, InputError

_MAX_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
# safetensors' name of a dtype: ours, and its width in bytes.
_DTYPES = {"F32": ("<f4", 4), "F64": ("<f8", 8), "I32": ("<i4", 4), "I64": ("<i8", 8)}


class FileArray(NamedTuple):
    """One array of a file.

    Attributes:
        dtype: The type of its elements.
        shape: The length of each axis.
        data: Its elements as little-endian bytes in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def file_arrays_digest(path: Path) -> str:
    """SHA-256 over the arrays of a safetensors file, as all records name a model.

    For each array by sorted name: canonical JSON of its dtype, name and shape, a line feed, its raw
    bytes.

    Raises:
        InputError: The file is missing, unreadable or not of the format.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InputError(f"{path.name} is not a regular file.")
        with path.open("rb") as file:
            return _digest(file, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from error


def read_file_arrays(path: Path, *, max_bytes: int) -> dict[str, FileArray]:
    """The arrays of a safetensors file, whole: for those that are small and looked into.

    Raises:
        InputError: The file is missing, unreadable, too large or not of the format.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > max_bytes:
            raise InputError(f"{path.name} is not a regular file of at most {max_bytes} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from error
    arrays, start = _head(io.BytesIO(data), len(data))
    return {
        name: FileArray(dtype, tuple(shape), data[start + first : start + stop])
        for name, (dtype, shape, first, stop) in arrays.items()
    }


def arrays_digest(arrays: Mapping[str, FileArray]) -> str:
    """SHA-256 over arrays, as all records name them; see `file_arrays_digest`."""
    content = hashlib.sha256()
    for name, each in sorted(arrays.items()):
        head: Record = {"dtype": each.dtype, "name": name, "shape": [*each.shape]}
        content.update(canonical_json.encode(head) + b"\n" + each.data)
    return content.hexdigest()


def _head(file: BinaryIO, size_bytes: int) -> tuple[dict[str, _Array], int]:
    """What a file says of its arrays, and where their bytes begin."""
    header_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, size_bytes - 8):
        raise FormatError("Its header's length is out of range.")
    arrays = _arrays(file.read(header_bytes))
    data_start = 8 + header_bytes
    _check_layout(arrays, size_bytes - data_start)
    return arrays, data_start


def _digest(file: BinaryIO, size_bytes: int) -> str:
    arrays, data_start = _head(file, size_bytes)
    content = hashlib.sha256()
    for name, (dtype, shape, start, stop) in sorted(arrays.items()):
        content.update(canonical_json.encode({"dtype": dtype, "name": name, "shape": [*shape]}))
        content.update(b"\n")
        file.seek(data_start + start)
        for position in range(start, stop, _CHUNK_BYTES):
            content.update(file.read(min(_CHUNK_BYTES, stop - position)))
    return content.hexdigest()


_Array = tuple[str, list[int], int, int]


def _arrays(header: bytes) -> dict[str, _Array]:
    try:
        parsed = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError("Its header is not JSON.") from error
    if not isinstance(parsed, dict):
        raise FormatError("Its header is not an object.")
    return {name: _array(name, state) for name, state in parsed.items() if name != "__metadata__"}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _array(name: str, state: object) -> _Array:
    if not isinstance(state, dict) or state.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"Its array {name!r} is not described by dtype, shape and offsets.")
    if not isinstance(state["dtype"], str) or state["dtype"] not in _DTYPES:
        raise FormatError(f"Its array {name!r} has a dtype that is not allowed.")
    numbers = [state["shape"], state["data_offsets"]]
    if not all(
        isinstance(part, list) and all(type(n) is int and 0 <= n < 2**48 for n in part)
        for part in numbers
    ):
        raise FormatError(f"Its array {name!r} has a shape or offsets that are no numbers.")
    dtype, width = _DTYPES[state["dtype"]]
    shape, offsets = state["shape"], state["data_offsets"]
    if len(offsets) != 2 or offsets[1] - offsets[0] != width * math.prod(shape):
        raise FormatError(f"Its array {name!r} has offsets that do not fit its shape.")
    return dtype, shape, offsets[0], offsets[1]


def _check_layout(arrays: dict[str, _Array], data_bytes: int) -> None:
    position = 0
    for _, _, start, stop in sorted(arrays.values(), key=lambda array: (array[2], array[3])):
        if start != position:
            raise FormatError("Its arrays overlap or leave gaps.")
        position = stop
    if position != data_bytes:
        raise FormatError("Its arrays do not fill the file.")
