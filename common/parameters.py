"""Names, shapes, digests and file form of the arrays that are exchanged.

Whatever arrives is judged by `check_arrays` against what the run plan says it must be: exact names,
element types and shapes, finite values, values on the public grid, a bounded norm.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from common import canonical_json
from common.errors import FormatError, InputError
from common.noisy_grid import NoisyGrid

# Little-endian floats and integers; nothing else is ever exchanged.
DTYPES = ("<f4", "<f8", "<i4", "<i8")
# What safetensors calls them, in the order in which its files have arrays of each.
_FILE_TYPE_NAMES = {"<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32"}
_FILE_TYPES = tuple(_FILE_TYPE_NAMES)
_TYPE_OF = {name: dtype for dtype, name in _FILE_TYPE_NAMES.items()}
_LENGTH_BYTES = 8
#: The longest head of a file of arrays, which names each of them.
MAX_HEAD_BYTES = 1 << 20
# Of an array that left a region this share may be exactly zero, however fine its grid is; more only
# where the grid is so coarse that noise rounded to it makes more.
MAX_ZERO_SHARE = 0.01

# Arrays of any size are read in pieces of this many values, 512 kB as float64.
_CHUNK_VALUES = 1 << 16

Arrays = Mapping[str, npt.NDArray[np.generic]]
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ArraySpec:
    """What one exchanged array must be.

    Attributes:
        name: Its name.
        dtype: One of `DTYPES`.
        shape: The length of each axis.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


def array_specs(arrays: Arrays) -> tuple[ArraySpec, ...]:
    """What arrays are, by sorted name.

    Raises:
        FormatError: An element type that is not exchanged (big-endian, complex, text, object …).
    """
    specs = []
    for name in sorted(arrays):
        array = arrays[name]
        if array.dtype.str not in DTYPES:
            raise FormatError(
                f"The array {name[:64]!r} has elements of type {array.dtype}; exchanged are only "
                f"{', '.join(DTYPES)}."
            )
        specs.append(ArraySpec(name, array.dtype.str, tuple(array.shape)))
    return tuple(specs)


def arrays_digest(arrays: Arrays) -> str:
    """SHA-256 of named arrays, in hex.

    Hashed are, for each array by sorted name: canonical JSON of ``{"dtype", "name", "shape"}``, a
    line feed, and the elements as little-endian bytes in C order.

    Raises:
        FormatError: An element type that is not exchanged.
    """
    digest = hashlib.sha256()
    for spec in array_specs(arrays):
        head: dict[str, canonical_json.JsonValue] = {
            "dtype": spec.dtype,
            "name": spec.name,
            "shape": list(spec.shape),
        }
        digest.update(canonical_json.encode(head) + b"\n")
        # The elements' own memory, not a copy of it.
        digest.update(element_bytes(arrays[spec.name]))
    return digest.hexdigest()


def element_bytes(array: npt.NDArray[np.generic]) -> memoryview:
    """An array's elements in C order as bytes: its own memory, not a copy, where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def check_arrays(
    arrays: Arrays,
    specs: Sequence[ArraySpec],
    *,
    grid: NoisyGrid | None,
    max_norm: float | None = None,
) -> None:
    """Checks arrays from outside against what they must be.

    Args:
        arrays: The arrays, from a parsed body, never from its own description.
        specs: Exactly the arrays that are expected.
        grid: For what a region released: every float must be on it, and noise must be everywhere
            (no more rows wholly zero than its rounding makes, and of vectors one in a hundred).
            None for a model, which is computed from releases.
        max_norm: The greatest L2 norm of any one array.

    Raises:
        FormatError: Says which array is wrong, and how.
    """
    expected = {spec.name: spec for spec in specs}
    if set(arrays) != set(expected):
        raise FormatError(f"The arrays are {_names(arrays)}; expected were {_names(expected)}.")
    for spec in array_specs(arrays):
        if spec != expected[spec.name]:
            wanted = expected[spec.name]
            raise FormatError(
                f"The array {spec.name} is {spec.dtype}{list(spec.shape)}; expected was "
                f"{wanted.dtype}{list(wanted.shape)}."
            )
        if spec.dtype.startswith("<f"):
            _check_floats(spec.name, arrays[spec.name], grid, max_norm)


def _check_floats(
    name: str,
    array: npt.NDArray[np.generic],
    grid: NoisyGrid | None,
    max_norm: float | None,
) -> None:
    found = measure_floats(array, None if grid is None else grid.exponent)
    if not found.finite:
        raise FormatError(f"The array {name} has values that are not finite.")
    if max_norm is not None and not found.norm <= max_norm:
        raise FormatError(f"The norm of the array {name} is above {max_norm:.6g}.")
    if grid is None:
        return
    if not found.on_grid:
        raise FormatError(f"The array {name} has values off the grid of 2^{grid.exponent}.")
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    zero_rows = int((~rows.any(axis=1)).sum())
    # A row of one or two noisy values may round to zero by chance, a longer one on coarse grids.
    usual = int(MAX_ZERO_SHARE * len(rows)) + 2 if rows.shape[1] <= 2 else 0
    if zero_rows > max(usual, grid.most_zero_rows(len(rows), rows.shape[1])):
        raise FormatError(
            f"The array {name} has {zero_rows} rows without noise; a release has noise everywhere."
        )


@dataclass(frozen=True)
class FloatFacts:
    """What an array's values are.

    Attributes:
        finite: Whether all are finite.
        norm: Their L2 norm; not finite where they are not.
        on_grid: Whether all are multiples of the grid's step; True without a grid.
    """

    finite: bool
    norm: float
    on_grid: bool


def measure_floats(array: npt.NDArray[np.generic], grid_exponent: int | None) -> FloatFacts:
    """Looks at an array's values in pieces, so that it costs no second array.

    Args:
        array: Any array of numbers.
        grid_exponent: The grid's step is 2 to this power; None for no grid.
    """
    finite, on_grid, square = True, True, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in float_chunks(array):
            finite = finite and bool(np.isfinite(chunk).all())
            square += float(chunk @ chunk)
            if grid_exponent is not None:
                steps = np.ldexp(chunk, -grid_exponent)
                on_grid = on_grid and np.array_equal(steps, np.rint(steps))
    return FloatFacts(finite, math.sqrt(square), on_grid)


def float_chunks(array: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.float64]]:
    """An array's values in C order as float64, in pieces of one moderate size.

    Equal shapes give equal pieces. An array of no values has none.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK_VALUES):
        yield flat[start : start + _CHUNK_VALUES].astype(np.float64)


def snap_to_grid(values: npt.NDArray[np.float64], exponent: int) -> npt.NDArray[np.float32]:
    """Rounds noisy values to multiples of 2**exponent, as float32.

    Formal guarantees:
        Post-processing: costs no ε. It removes what the low bits of a float would tell about the
        sum before noise (Mironov, "On Significance of the Least Significant Bits for Differential
        Privacy", 2012), because the result depends on the noisy value's grid cell alone. Beyond
        2**(24 + exponent) float32 itself has a coarser grid, which is part of this one.

    Raises:
        InputError: A value is not finite, or too large for float32.
    """
    if not np.isfinite(values).all():
        raise InputError("Values to be released are not finite; nothing is released.")
    with np.errstate(over="ignore"):
        snapped = np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent).astype(np.float32)
    if not np.isfinite(snapped).all():
        raise InputError("Values to be released are too large; nothing is released.")
    # Minus zero would be a second zero.
    result: npt.NDArray[np.float32] = snapped + np.float32(0.0)
    return result


def save_arrays(arrays: Arrays) -> bytes:
    """Arrays as the bytes of a safetensors file.

    Raises:
        FormatError: An element type that is not exchanged.
    """
    array_specs(arrays)
    # safetensors writes the memory as it lies, which for a view is not the view.
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    )


def array_file_parts(arrays: Arrays) -> list[bytes | memoryview]:
    """The bytes of `save_arrays` in parts: a head, and then the arrays' own memory.

    safetensors gives them in one piece, and needs twice their size to make it.

    Raises:
        FormatError: An element type that is not exchanged.
    """
    specs = sorted(
        array_specs(arrays), key=lambda spec: (_FILE_TYPES.index(spec.dtype), spec.name.encode())
    )
    head, start = {}, 0
    for spec in specs:
        end = start + arrays[spec.name].nbytes
        head[spec.name] = {
            "dtype": _FILE_TYPE_NAMES[spec.dtype],
            # Of no dimension there is none in a file: NumPy's contiguous copies have one at least.
            "shape": spec.shape or (1,),
            "data_offsets": (start, end),
        }
        start = end
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    elements = (element_bytes(arrays[spec.name]) for spec in specs)
    return [len(text).to_bytes(8, "little"), text, *elements]


def load_arrays(data: Bytes, max_bytes: int) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays from the bytes of a safetensors file that `save_arrays` wrote.

    The format has neither code nor compression. The arrays are views of ``data``: reading takes no
    memory beside it, and they cannot be written to.

    Args:
        data: The file.
        max_bytes: The most bytes that are accepted.

    Raises:
        FormatError: Too long, malformed, an element type that is not exchanged, or not the bytes
            that `save_arrays` writes for its content.
    """
    if len(data) > max_bytes:
        raise FormatError(f"The arrays take {len(data)} bytes; at most {max_bytes} are accepted.")
    view = memoryview(data).toreadonly()
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if not 0 < length <= min(MAX_HEAD_BYTES, len(view) - _LENGTH_BYTES):
        raise FormatError("The bytes are not a safetensors file: they have no header.")
    head = bytes(view[: _LENGTH_BYTES + length])
    try:
        arrays = _views(json.loads(head[_LENGTH_BYTES:]), view[len(head) :])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise FormatError(f"The bytes are not a safetensors file: {error!r}") from error
    written = array_file_parts(arrays)
    if b"".join(written[:2]) != head or sum(map(len, written)) != len(view):
        raise FormatError("The safetensors file is not in its canonical form.")
    return arrays


def _views(head: Any, body: memoryview) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays that a header describes, wherever it says that they lie."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, described in head.items():
        dtype, (start, end) = _TYPE_OF[described["dtype"]], described["data_offsets"]
        arrays[name] = np.frombuffer(body[start:end], dtype=dtype).reshape(described["shape"])
    return arrays


def _names(names: Mapping[str, object]) -> str:
    shown = [repr(name[:64]) for name in sorted(names)[:10]]
    return ", ".join(shown) if shown else "none"
