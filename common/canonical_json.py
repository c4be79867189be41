"""Canonical JSON: each value has exactly one sequence of bytes, and no other is accepted.

A subset of RFC 8785 that needs no floating-point rule: objects with ASCII keys, arrays, strings,
whole numbers up to 2^53 − 1 in magnitude, booleans and null; decimals are strings. Within the
subset sorting keys by code point equals RFC 8785's sorting by UTF-16 unit.

What `decode` accepts, `encode` gives back byte for byte; what `encode` gives, `decode` accepts
under the same limits.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from common.errors import FormatError

JsonValue: TypeAlias = bool | int | str | list["JsonValue"] | dict[str, "JsonValue"] | None

#: Default limit on the encoded size, in bytes: what a log entry may have.
MAX_BYTES = 65_535
#: Default limit on containers within containers; a lone scalar has depth 0.
MAX_DEPTH = 16
#: RFC 8785 and I-JSON: beyond it, readers that use doubles see another number.
MAX_INTEGER = 2**53 - 1

# ``encode`` checks nesting first, hence no cycle can reach the encoder.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    allow_nan=False,
    sort_keys=True,
    separators=(",", ":"),
)
_DECODER = json.JSONDecoder()


def encode(value: JsonValue, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> bytes:
    """Gives the canonical bytes of a value.

    Args:
        value: The value; of exactly the types of `JsonValue` (no tuples, no subclasses).
        max_bytes: The most bytes the encoding may have.
        max_depth: The most containers within one another.

    Raises:
        FormatError: The value is outside the subset or the limits.
    """
    try:
        _check(value, max_depth)
        data = _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("A JSON string has half of a surrogate pair.") from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    if len(data) > max_bytes:
        raise _too_long(len(data), max_bytes)
    return data


def decode(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Reads canonical bytes.

    Args:
        data: What was received.
        max_bytes: The most bytes that are looked at.
        max_depth: The most containers within one another.

    Returns:
        The value whose encoding is ``data``.

    Raises:
        FormatError: The bytes are too many, not JSON, outside the subset, too deep, or another
            than the canonical form of their value (duplicate or unsorted keys, spaces, escapes
            that are not needed, ``-0``).
    """
    if len(data) > max_bytes:
        raise _too_long(len(data), max_bytes)
    try:
        # Decoding the text here, not in ``json``, keeps out UTF-16, UTF-32 and encoded surrogates.
        text = bytes(data).decode("utf-8")
        value: JsonValue = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise FormatError(f"The JSON is not UTF-8: byte {error.start} is malformed.") from error
    except ValueError as error:
        raise FormatError(f"The bytes are not one JSON value: {error}.") from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    if encode(value, max_bytes=max_bytes, max_depth=max_depth) != data:
        raise FormatError(f"The JSON is not in its canonical form: {_deviation(text)}.")
    return value


def _check(value: object, depth: int) -> None:
    """Refuses what is outside the subset; ``depth`` containers may still open.

    Types are compared exactly: a bool is no number, and a subclass may encode as it likes.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]
            raise FormatError("A JSON number is beyond 2^53 − 1; write it as a string.")
        return
    if kind is dict:
        if depth < 1:
            raise FormatError("The JSON value is nested too deep.")
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not key.isascii():
                raise FormatError("A key of a JSON object is not an ASCII string.")
            if type(item) is not str:  # most are: spares the call
                _check(item, depth - 1)
    elif kind is list:
        if depth < 1:
            raise FormatError("The JSON value is nested too deep.")
        for item in value:  # type: ignore[attr-defined]
            if type(item) is not str:
                _check(item, depth - 1)
    elif kind is float:
        raise FormatError("A JSON number is not a whole number; write decimals as strings.")
    else:
        raise FormatError(f"A value of type {kind.__name__} has no canonical JSON form.")


def _deviation(text: str) -> str:
    """Says why a text that is JSON of the subset is not canonical; for messages only."""
    duplicates: list[str] = []

    def note_duplicates(pairs: list[tuple[str, JsonValue]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            duplicates.append("")

    json.loads(text, object_pairs_hook=note_duplicates)
    if duplicates:
        return "an object has a key twice"
    return "its keys are not sorted, or it has spaces, escapes or digits that are not needed"


def _too_long(size: int, max_bytes: int) -> FormatError:
    return FormatError(f"The JSON has {size} bytes; at most {max_bytes} are accepted.")


def _too_deep(max_depth: int) -> FormatError:
    return FormatError(f"The JSON is nested deeper than {max_depth}.")
