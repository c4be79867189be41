"""Checks of a record's fields, shared by the parsers of records.

Each function returns the value it was given, so that a parser reads as a list of its fields. A
message names the field and what it must be, and never repeats a value: records are personal data.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from common.canonical_json import MAX_INTEGER, JsonValue
from common.errors import FormatError
from common.timestamps import parse_time

SHA256_HEX = re.compile(r"[0-9a-f]{64}")
PARTY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
#: A decimal number as records write it; ``Decimal`` alone reads spaces, underscores, other digits.
DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,30})?(?:[eE]-?[0-9]{1,2})?")
#: One line of text for people: no control characters, no line or paragraph separators.
LINE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]{1,256}")
_INTERVAL = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")


def exact_fields(value: JsonValue, names: AbstractSet[str], where: str) -> dict[str, JsonValue]:
    """An object with exactly these fields."""
    if type(value) is not dict:
        raise FormatError(f"{where} is not an object.")
    if value.keys() != names:
        missing = sorted(names - value.keys())
        unknown = sorted(value.keys() - names)
        raise FormatError(
            f"{where} has other fields than its version allows: missing {missing},"
            f" unknown {[name[:40] for name in unknown[:5]]}."
        )
    return value


def matching(value: JsonValue, form: re.Pattern[str], where: str, what: str) -> str:
    """A string that the whole of ``form`` matches."""
    if type(value) is not str or form.fullmatch(value) is None:
        raise FormatError(f"{where} is not {what}.")
    return value


def sha256_hex(value: JsonValue, where: str) -> str:
    """A SHA-256 in lower-case hex."""
    return matching(value, SHA256_HEX, where, "a SHA-256 in lower-case hex")


def line(value: JsonValue, where: str) -> str:
    """One line of text."""
    return matching(value, LINE, where, "one line of 1 to 256 characters")


def party(value: JsonValue, where: str) -> str:
    """A party's name; it also names a folder of a bundle, hence no dots or dashes at its ends."""
    return matching(value, PARTY, where, "a party's name (up to 64 of a-z, 0-9, dot, dash)")


def whole_number(value: JsonValue, where: str, *, least: int) -> int:
    """A whole number of at least ``least``; a boolean is none."""
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise FormatError(f"{where} is not a whole number of at least {least}.")
    return value


def timestamp(value: JsonValue, where: str) -> tuple[str, int]:
    """A time of records' one form, and its milliseconds since the epoch."""
    if type(value) is not str:
        raise FormatError(f"{where} is not a time.")
    return value, parse_time(value)


def is_power_of_two_interval(value: object) -> bool:
    """Whether a value is such an interval as ``256-511``, which hides a number of customers."""
    found = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return False
    low, high = int(found[1]), int(found[2])
    plain = (str(low), str(high)) == found.groups()
    return plain and low & (low - 1) == 0 < low and high == 2 * low - 1


def array(value: JsonValue, where: str) -> list[JsonValue]:
    """An array."""
    if type(value) is not list:
        raise FormatError(f"{where} is not an array.")
    return value
