"""Step 7 for keys that nobody can list: what regions released of them, held to the plan.

Each region decides by its own noise which keys it releases, so there is no sum: what is published
is each region's own, under the digest that it signed, and the union follows from that. Here it is
checked besides that nothing but texts is in it, and that each key's value is so large that one
customer's own keys have one like it with the probability that was charged at most.
"""

from __future__ import annotations

import math
import struct
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

from common.audit.verify.arrays_file import FileArray
from common.audit.verify.fields import Record
from common.canonical_json import JsonValue
from common.errors import FormatError

#: The kind of question whose answers are keys.
KEYS = "keys"

_BYTES_A_NUMBER = 4
# Controls, what nobody sees, halves of pairs, private ones, and white space but for a space.
_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"})
_MOST_KEYS, _MOST_BYTES, _MOST_OF_ONE = 4096, 256, 64
# Room for floating-point rounding, relative.
_ROUNDING = 1e-9


def asks_keys(question: Record) -> bool:
    """Whether a planned question is for keys that nobody can list."""
    asked = question["question"]
    return isinstance(asked, dict) and asked.get("kind") == KEYS


def keys_array(array: str) -> str:
    """The name of the array with the keys, by that of their values."""
    return f"{array}_keys"


def check_key_questions(
    questions: Sequence[Record], mechanisms: Sequence[Record], *, rule: JsonValue, mode: JsonValue
) -> None:
    """Checks a plan's questions of keys, each with its mechanism: their δ and where they are asked.

    Raises:
        FormatError: It does not hold.
    """
    for question, mechanism in zip(questions, mechanisms, strict=True):
        asked = question["question"]
        if not asks_keys(question) or not isinstance(asked, dict):
            if "key_delta" in mechanism:
                raise FormatError("A question that is for no keys has a δ for them.")
            continue
        sizes = [asked.get(name) for name in ("most", "keys", "key_bytes")]
        bounds = (_MOST_OF_ONE, _MOST_KEYS, _MOST_BYTES)
        if not all(
            type(size) is int and 1 <= size <= bound
            for size, bound in zip(sizes, bounds, strict=True)
        ):
            raise FormatError("A question of keys has sizes that are out of range.")
        if not _same_number(asked.get("key_delta"), mechanism.get("key_delta")):
            raise FormatError("The δ of a question of keys is not its mechanism's.")
        if (rule, mode, question["scope"]) != ("sum", "local", "regions"):
            raise FormatError("Keys are not asked of each region by itself.")


def problem_of_keys(
    arrays: Mapping[str, FileArray], region: str, array: str, question: Record, mechanism: Record
) -> str | None:
    """What is wrong with a region's published keys; None if nothing is.

    Args:
        arrays: The published arrays.
        region: The region.
        array: The name of the array that answers the question.
        question: The planned question.
        mechanism: Its mechanism.
    """
    asked = question["question"]
    values, keys = (arrays.get(f"{region}/{name}") for name in (array, keys_array(array)))
    if values is None or keys is None or not isinstance(asked, dict):
        return "it has not released any"
    room, width = _whole(asked["keys"]), _whole(asked["key_bytes"])
    shapes = ((room,), (room, width // _BYTES_A_NUMBER))
    if (values.dtype, keys.dtype) != ("<f4", "<i4") or (values.shape, keys.shape) != shapes:
        return "their arrays have other sizes than the plan's"
    numbers = struct.unpack(f"<{room}f", values.data)
    rows = [keys.data[start : start + width] for start in range(0, room * width, width)]
    used = [row for row, number in zip(rows, numbers, strict=True) if number != 0]
    if any(rows[len(used) :][n].strip(b"\0") for n in range(room - len(used))):
        return "a key has no value"
    texts = [row.rstrip(b"\0") for row in used]
    if rows[: len(used)] != used or any(one >= other for one, other in pairwise(texts)):
        return "they are not in their order, each once"
    if values.data[len(used) * _BYTES_A_NUMBER :].strip(b"\0"):
        return "what is unused is not zero"
    if not all(_is_text(text) for text in texts):
        return "one is no text"
    least = _whole(asked["most"])
    if not all(_is_rare(number, least, asked, mechanism) for number in numbers[: len(used)]):
        return "one has a value that one customer's own keys would reach too often"
    return None


def _is_rare(value: float, most: int, asked: Record, mechanism: Record) -> bool:
    """Whether a value is on the grid, and one customer's own keys reach it as rarely as is charged.

    Each of her `most` keys is 1/√most, plus noise of deviation σ; a value was half a step less at
    the least before it was rounded. That one of them is as large has the probability
    1 − (1 − p)^most.
    """
    exponent = mechanism["grid_exponent"]
    step = math.ldexp(1.0, exponent if isinstance(exponent, int) else 0)
    sigma = float(str(mechanism["noise_multiplier"])) * float(str(mechanism["clipping_norm"]))
    if not math.isfinite(value) or value % step != 0:
        return False
    above = (value - step / 2 - 1 / math.sqrt(most)) / sigma
    each = math.erfc(above / math.sqrt(2)) / 2
    if not each < 1:
        return False
    any_of_them = -math.expm1(most * math.log1p(-each))
    return any_of_them <= float(str(asked["key_delta"])) * (1 + _ROUNDING)


def _is_text(data: bytes) -> bool:
    """Whether bytes are a text with no control character in it.

    What is no character here yet may be one where it was released: Unicode grows.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    shown = (each == " " or unicodedata.category(each) not in _NOT_SHOWN for each in text)
    return bool(text) and all(shown)


def _same_number(one: JsonValue, other: JsonValue) -> bool:
    try:
        return float(str(one)) == float(str(other))
    except ValueError:
        return False


def _whole(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
