from __future__ import annotations

import enum
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from common.canonical_json import MAX_BYTES, MAX_DEPTH, MAX_INTEGER, decode, encode
from common.errors import FormatError

VECTORS = Path(__file__).parents[1] / "vectors" / "rfc8785"
ACCEPTED = json.loads((VECTORS / "accepted.json").read_bytes())
REFUSED = json.loads((VECTORS / "refused.json").read_bytes())
NUMBERS = json.loads((VECTORS / "numbers.json").read_bytes())

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
keys = st.text(st.characters(max_codepoint=127), max_size=6)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector["name"])
def test_accepted_vectors(vector: dict[str, str]) -> None:
    value = json.loads(vector["input"])
    canonical = vector["canonical"].encode()
    assert encode(value) == canonical
    assert rfc8785.dumps(value) == canonical
    assert decode(canonical) == value


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector["name"])
def test_refused_vectors(vector: dict[str, str]) -> None:
    data = vector["text"].encode() if "text" in vector else bytes.fromhex(vector["hex"])
    with pytest.raises(FormatError, match=vector["why"]):
        decode(data)


@pytest.mark.parametrize("vector", NUMBERS, ids=lambda vector: vector["ieee754"])
def test_published_numbers_are_refused_but_for_zero(vector: dict[str, str | None]) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(str(vector["ieee754"])))
    with pytest.raises(FormatError, match="whole number"):
        encode(number)
    canonical = vector["canonical"]
    if canonical is None:
        with pytest.raises(rfc8785.CanonicalizationError):
            rfc8785.dumps(number)
    else:
        assert rfc8785.dumps(number) == canonical.encode()
    if canonical == "0":
        assert decode(b"0") == 0
    elif canonical is not None:
        with pytest.raises(FormatError, match=r"whole number|2\^53"):
            decode(canonical.encode())


@given(values)
def test_encoding_is_that_of_rfc_8785_and_decodes_to_the_value(value: Any) -> None:
    data = encode(value)
    assert data == rfc8785.dumps(value)
    assert decode(data) == value


def _strict_oracle(data: bytes) -> bool:
    """Whether bytes are RFC 8785's form of a value of the subset, by other means."""

    def refuse(_: str) -> None:
        raise ValueError

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs) or not all(name.isascii() for name, _ in pairs):
            raise ValueError
        return dict(pairs)

    try:
        value = json.loads(
            data.decode(), object_pairs_hook=once, parse_float=refuse, parse_constant=refuse
        )
        return bool(rfc8785.dumps(value) == data)
    except (ValueError, rfc8785.CanonicalizationError):
        return False


@given(
    values,
    st.booleans(),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")]),
)
def test_other_spellings_of_a_value_are_refused(
    value: Any, ascii_only: bool, sort_keys: bool, separators: tuple[str, str]
) -> None:
    data = json.dumps(
        value, ensure_ascii=ascii_only, sort_keys=sort_keys, separators=separators
    ).encode()
    if _strict_oracle(data):
        assert encode(decode(data)) == data
    else:
        with pytest.raises(FormatError):
            decode(data)


@given(values, st.data())
def test_a_flipped_byte_is_refused_or_is_another_canonical_value(value: Any, data: Any) -> None:
    whole = bytearray(encode(value))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    changed = bytes(whole)
    if _strict_oracle(changed):
        assert decode(changed) != value
        assert encode(decode(changed)) == changed
    else:
        with pytest.raises(FormatError):
            decode(changed)


@given(st.binary(max_size=40))
def test_arbitrary_bytes_raise_nothing_but_format_errors(data: bytes) -> None:
    try:
        value = decode(data)
    except FormatError:
        assert not _strict_oracle(data)
    else:
        assert encode(value) == data


class _Text(str):
    __slots__ = ()


class _Colour(enum.StrEnum):
    RED = "red"


class _Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        math.nan,
        math.inf,
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        10**5000,
        (1, 2),
        {1, 2},
        b"bytes",
        object(),
        {1: "a"},
        {None: "a"},
        {True: "a"},
        {"ä": 1},
        {_Text("a"): 1},
        _Text("a"),
        _Colour.RED,
        _Number.ONE,
        "\ud83d",
        {"a": ["\ude00"]},
        {"a": {"b": [1.5]}},
        [float("-inf")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_outside_the_subset_are_not_encoded(value: Any) -> None:
    with pytest.raises(FormatError):
        encode(value)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_limited_alike_both_ways() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert encode(_nested(MAX_DEPTH)) == data
    assert decode(data) == _nested(MAX_DEPTH)
    with pytest.raises(FormatError, match="deep"):
        encode(_nested(MAX_DEPTH + 1))
    with pytest.raises(FormatError, match="deep"):
        decode(b"[" + data + b"]")
    assert decode(b'{"a":[{}]}', max_depth=3) == {"a": [{}]}
    with pytest.raises(FormatError, match="deep"):
        decode(b'{"a":[{}]}', max_depth=2)
    assert decode(b"1", max_depth=0) == 1


def test_size_is_limited_alike_both_ways() -> None:
    text = "a" * (MAX_BYTES - 2)
    assert decode(encode(text)) == text
    with pytest.raises(FormatError, match="65536 bytes"):
        encode(text + "a")
    with pytest.raises(FormatError, match="65536 bytes"):
        decode(b'"' + text.encode() + b'a"')
    # What is too long is not even looked at.
    with pytest.raises(FormatError, match="65536 bytes"):
        decode(b"[" * (MAX_BYTES + 1))
    assert len(encode(text + "a", max_bytes=MAX_BYTES + 1)) == MAX_BYTES + 1
    # The limit counts bytes, not characters.
    with pytest.raises(FormatError, match="bytes"):
        encode("ä" * 5, max_bytes=11)
    assert len(encode("ä" * 5, max_bytes=12)) == 12


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("closed", [False, True])
def test_hostile_nesting_never_escapes_as_recursion_error(opening: bytes, closed: bool) -> None:
    repeats = 200_000
    data = opening * repeats
    if closed:
        closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'"a:')[::-1]
        data += b"1" + closing * repeats
    with pytest.raises(FormatError):
        decode(data, max_bytes=len(data), max_depth=MAX_DEPTH)
    # Not even where the caller allows any depth.
    with pytest.raises(FormatError):
        decode(data, max_bytes=len(data), max_depth=10**9)


def test_deep_and_cyclic_values_never_escape_as_recursion_error() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, {"a": cycle}, _nested(100_000)):
        for max_depth in (MAX_DEPTH, 10**9):
            with pytest.raises(FormatError, match="deep"):
                encode(value, max_depth=max_depth)


def test_near_the_end_of_the_stack_the_error_is_still_ours() -> None:
    def deep(frames: int) -> Any:
        return deep(frames - 1) if frames else decode(b"[[[[[[1]]]]]]")

    def frames_left(entered: int) -> int:
        # Tried, not counted: calls that Python makes through C take of the limit too.
        try:
            return frames_left(entered + 1)
        except RecursionError:
            return entered

    room = frames_left(0)
    outcomes = set()
    # With less room than this, Python cannot even enter ``decode``.
    for spare in range(12, 40):
        try:
            deep(room - spare)
        except FormatError:
            outcomes.add("refused")
        else:
            outcomes.add("decoded")
    assert "decoded" in outcomes


def test_memoryviews_and_bytearrays_are_read_as_bytes() -> None:
    assert decode(bytearray(b'{"a":1}')) == {"a": 1}
    assert decode(memoryview(b'{"a":1}')) == {"a": 1}
