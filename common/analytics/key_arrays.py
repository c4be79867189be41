"""Keys and their values as arrays of a public size, and what they must be.

What a region releases of keys that nobody can list are two arrays: their values, and their texts as
UTF-8, four bytes in each number, the first one lowest, filled up with zeros. Keys stand in the
order of their bytes, before slots that are zero throughout. So neither the length of an answer nor
its order says more than which keys were released.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.analytics.array_names import array_of, keys_array_of
from common.analytics.key_union import BYTES_A_NUMBER, KeyUnion
from common.errors import FormatError
from common.parameters import ArraySpec, check_arrays

Arrays = Mapping[str, npt.NDArray[np.generic]]

#: What is not text: control characters and those that nobody sees, halves of pairs, private ones.
_NO_TEXT = frozenset({"Cc", "Cf", "Cs", "Co"})
#: What is no character yet. No key is made with it; but a region whose Unicode is newer than one's
#: own may release what only it knows, so it is not refused from outside.
_NOT_YET = "Cn"
_SPACES = frozenset({"Zs", "Zl", "Zp"})
#: A text of more than so many characters for each byte that a key may have is none. Putting
#: combining marks in order takes time that grows with the square of their number, and customers
#: may type what they like.
MOST_TYPED = 16


def key_specs(question: KeyUnion) -> tuple[ArraySpec, ArraySpec]:
    """The arrays that leave a region, values first."""
    return (
        ArraySpec(array_of(question.name), "<f4", (question.keys,)),
        ArraySpec(
            keys_array_of(question.name),
            "<i4",
            (question.keys, question.key_bytes // BYTES_A_NUMBER),
        ),
    )


def normalised_key(text: str, key_bytes: int) -> str | None:
    """The one form of a key, so that what people write in several ways counts as one.

    Compatibility forms are one (NFKC), case is folded, runs of white space are one space, and
    characters that nobody sees are left out. The form of a form is itself.

    Args:
        text: As somebody wrote it.
        key_bytes: How many bytes of UTF-8 it may have.

    Returns:
        The key; None for a text that says nothing, has characters that are none, or is too long.
    """
    if len(text) > MOST_TYPED * key_bytes:
        return None
    # What nobody sees may stand between a letter and its accent, which are one character only now.
    key = _one_form(_one_form(text))
    known = all(unicodedata.category(each) != _NOT_YET for each in key)
    return key if known and _is_key(key) and len(key.encode()) <= key_bytes else None


def packed_keys(
    question: KeyUnion, keys: Sequence[str], values: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.generic]]:
    """Released keys as arrays.

    Args:
        question: What was asked.
        keys: At most `question.keys` keys, each once, in their one form.
        values: float32[len(keys)].
    """
    order = sorted(range(len(keys)), key=lambda place: keys[place].encode())
    numbers = np.zeros((question.keys, question.key_bytes), dtype=np.uint8)
    for slot, place in enumerate(order):
        text = keys[place].encode()
        numbers[slot, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    told = np.zeros(question.keys, dtype=np.float32)
    told[: len(order)] = values[order]
    value_spec, key_spec = key_specs(question)
    return {value_spec.name: told, key_spec.name: numbers.view("<i4")}


def unpacked_keys(
    question: KeyUnion, arrays: Arrays
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """The keys of arrays, and their values.

    Args:
        question: What was asked.
        arrays: Arrays of the shapes that `key_specs` gives.

    Raises:
        FormatError: They are not of the one form that `packed_keys` makes.
    """
    value_spec, key_spec = key_specs(question)
    values = np.asarray(arrays[value_spec.name], dtype=np.float64)
    numbers = np.ascontiguousarray(arrays[key_spec.name])
    used = int(np.count_nonzero(values))
    # A zero with a sign is none of theirs: it would say something.
    unused = numbers[used:].any() or np.signbit(values[used:]).any()
    if np.count_nonzero(values[:used]) != used or unused:
        raise FormatError(f"The keys of {question.name} do not stand before what is unused.")
    keys = [_key_of(row.tobytes(), question.name) for row in numbers[:used]]
    encoded = [each.encode() for each in keys]
    if any(one >= other for one, other in pairwise(encoded)):
        raise FormatError(f"The keys of {question.name} are not in their order, each once.")
    return tuple(keys), values[:used]


def check_keys(
    arrays: Arrays,
    question: KeyUnion,
    *,
    noise_stddev: float,
    grid_exponent: int,
    max_norm: float | None = None,
) -> None:
    """Checks a region's keys, from outside, against what they must be.

    Nothing leaves or is taken in as keys but well-formed texts in their order, each with a value on
    the grid that the threshold lets pass.

    Args:
        arrays: The arrays.
        question: What was asked.
        noise_stddev: Standard deviation of the noise in each value.
        grid_exponent: Values are multiples of 2 to this power.
        max_norm: The greatest L2 norm of the values.

    Raises:
        FormatError: Says what is wrong, without repeating a key.
    """
    value_spec, key_spec = key_specs(question)
    check_arrays(arrays, (value_spec, key_spec), grid=None, max_norm=max_norm)
    _, values = unpacked_keys(question, arrays)
    steps = np.ldexp(values, -grid_exponent)
    if not np.array_equal(steps, np.rint(steps)):
        raise FormatError(f"The array {value_spec.name} has values off the grid.")
    least = question.least_released(noise_stddev, grid_exponent)
    # Written so that what is no number does not pass.
    if not bool((values >= least).all()):
        raise FormatError(f"A key of {question.name} has a value below the threshold.")


def _key_of(text: bytes, name: str) -> str:
    stripped = text.rstrip(b"\0")
    try:
        key = stripped.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"A key of {name} is no text.") from error
    if not _is_key(key):
        raise FormatError(f"A key of {name} is no text in its one form.")
    return key


def _one_form(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(each for each in folded if unicodedata.category(each) != "Cf")
    return " ".join(seen.split())


def _is_key(key: str) -> bool:
    """Whether a text is in its one form: what people see, with single spaces between."""
    categories = [unicodedata.category(each) for each in key]
    if not key or _NO_TEXT.intersection(categories):
        return False
    return key == _one_form(key) and all(
        each == " " for each, kind in zip(key, categories, strict=True) if kind in _SPACES
    )
