"""Checks of single fields: each raises on the first value that is not of the stated form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from common.canonical_json import JsonValue
from common.errors import FormatError
from common.timestamps import parse_time

Record = dict[str, JsonValue]
Check = Callable[[JsonValue, str], None]

_HEX_256 = re.compile(r"[0-9a-f]{64}")
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?([eE]-?[0-9]{1,2})?")
_PURPOSE = re.compile(r"[a-z][a-z-]*:[A-Za-z][A-Za-z0-9]*")


def _wrong(where: str, what: str) -> FormatError:
    return FormatError(f"Field {where} is not {what}.")


def matching(pattern: re.Pattern[str], what: str) -> Check:
    """A text that the whole pattern matches."""

    def check(value: JsonValue, where: str) -> None:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise _wrong(where, what)

    return check


def text(value: JsonValue, where: str) -> None:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise _wrong(where, "a text")


def time(value: JsonValue, where: str) -> None:
    """A UTC timestamp in the one form that is used."""
    if not isinstance(value, str):
        raise _wrong(where, "a time")
    parse_time(value)


def boolean(value: JsonValue, where: str) -> None:
    """True or false."""
    if type(value) is not bool:
        raise _wrong(where, "true or false")


def integer(least: int, most: int = 2**53 - 1) -> Check:
    """A whole number in a range, its ends included."""

    def check(value: JsonValue, where: str) -> None:
        # bool is an int in Python; it is none here.
        if type(value) is not int or not least <= value <= most:
            raise _wrong(where, f"a whole number of at least {least}")

    return check


def one_of(*allowed: JsonValue) -> Check:
    """One of a few texts, or null where that is listed."""

    def check(value: JsonValue, where: str) -> None:
        if type(value) not in (str, type(None)) or value not in allowed:
            raise _wrong(where, f"one of {', '.join(map(str, allowed))}")

    return check


def nullable(check_value: Check) -> Check:
    """Null, or what another check accepts."""

    def check(value: JsonValue, where: str) -> None:
        if value is not None:
            check_value(value, where)

    return check


def list_of(check_item: Check) -> Check:
    """A list, each item checked."""

    def check(value: JsonValue, where: str) -> None:
        if not isinstance(value, list):
            raise _wrong(where, "a list")
        for number, item in enumerate(value):
            check_item(item, f"{where}[{number}]")

    return check


def object_of(**fields: Check) -> Check:
    """An object with exactly these fields, each checked."""
    return object_with({}, **fields)


def object_with(optional: Mapping[str, Check], **fields: Check) -> Check:
    """An object with exactly these fields, and with those of some others that it states.

    Args:
        optional: The other fields.
        fields: The fields that it must have.
    """
    names = fields.keys()

    def check(value: JsonValue, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(where, "an object")
        if value.keys() - optional.keys() != names:
            odd = ", ".join(sorted((value.keys() - optional.keys()) ^ names))
            raise FormatError(f"{where or 'The record'} has missing or unknown fields: {odd}.")
        stated = {name: each for name, each in optional.items() if name in value}
        for name, check_field in (fields | stated).items():
            check_field(value[name], f"{where}.{name}" if where else name)

    return check


def any_object(value: JsonValue, where: str) -> None:
    """An object, whatever is in it."""
    if not isinstance(value, dict):
        raise _wrong(where, "an object")


def table_of(check_value: Check) -> Check:
    """An object of at least one name, each with what another check accepts."""

    def check(value: JsonValue, where: str) -> None:
        if not isinstance(value, dict) or not value or "" in value:
            raise _wrong(where, "a table of names")
        for name, item in value.items():
            check_value(item, f"{where}.{name}")

    return check


def purposes(value: JsonValue, where: str) -> None:
    """Purposes, each with true or false; none at all refuses everything."""
    if not isinstance(value, dict):
        raise _wrong(where, "an object of purposes")
    for purpose, granted in value.items():
        if _PURPOSE.fullmatch(purpose) is None or type(granted) is not bool:
            raise _wrong(f"{where}.{purpose}", "a purpose with true or false")


digest = matching(_HEX_256, "a SHA-256 in lower-case hex")
ulid = matching(_ULID, "a ULID")
code = matching(_CODE, "a kebab-case code")
decimal = matching(_DECIMAL, "a decimal number")
natural, positive = integer(0), integer(1)
dtype = one_of("<f4", "<f8", "<i4", "<i8")
texts = list_of(text)
