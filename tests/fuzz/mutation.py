"""Changes inputs along their structure: JSON fields, what is in base64, lines, and bytes.

A coverage-guided fuzzer alone rarely gets through canonical JSON and base64 to the fields inside.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
from typing import Any

_DEEP: Any = 0
for _ in range(40):
    _DEEP = [_DEEP]

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 256, 2**31, 2**53 - 1, 2**53, -(2**63), 10**30, 1.5),
    *(
        "",
        "0",
        "1",
        "-1",
        "NaN",
        "1e400",
        "1e-400",
        "0x1",
        "\0",
        "\n",
        "\x7f",
        "é",
        "😀",
        "/",
        "..",
    ),
    *("\u2028", "a" * 300, "0" * 64, "f" * 64, "9" * 400, "2026-02-30T00:00:00.000Z"),
    *("0000-00-00T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "2026-01-01T00:00:00.000Z", "=", "+"),
    *([], {}, [[]], [{}], {"v": None}, [0] * 40, _DEEP),
]
PIECES = [
    *(b"\n", b"\n\n", b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\x94 ", b" ", b'"', b"{}", b"[]"),
    *(
        b"NaN",
        b"-0",
        b"1e5",
        b"\\u0000",
        b"\\ud800",
        b"==",
        b"+",
        b"9" * 30,
        b"\x7f" * 8,
        b"\xff" * 8,
    ),
    *(b"(", b"1" * 5000, b"[" * 5000, b'{"a":' * 1000, b"\r\n", b"\xc2\xa0", b"\xf0\x9f\x98\x80"),
]


def mutate(
    data: bytes, generator: random.Random, others: list[bytes], head_bytes: int = 0
) -> bytes:
    """A changed input; ``others`` are inputs that parts may be taken from."""
    head, body = bytearray(data[:head_bytes]), data[head_bytes:]
    if head and generator.random() < 0.3:
        head[generator.randrange(len(head))] = generator.randrange(256)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        body = _change(body, generator, others)
    return bytes(head) + body


def _change(data: bytes, generator: random.Random, others: list[bytes]) -> bytes:
    if generator.random() < 0.6:
        changed = _change_json(data, generator)
        if changed is not None:
            return changed
    return generator.choice((_change_bytes, _change_bytes, _change_lines))(data, generator, others)


def _change_json(data: bytes, generator: random.Random) -> bytes | None:
    """Changes one place of a JSON text; None if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    changed = _change_value(value, generator)
    try:
        text = json.dumps(changed, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")
    except RecursionError:
        return None


def _change_value(value: Any, generator: random.Random) -> Any:
    if isinstance(value, dict) and value and generator.random() < 0.9:
        name = generator.choice(sorted(value))
        rest = {key: item for key, item in value.items() if key != name}
        choice = generator.random()
        if choice < 0.08:
            return rest
        if choice < 0.14:
            return {**value, generator.choice([f"{name}x", "", "v", "é"]): value[name]}
        if choice < 0.2:
            return {**value, name: value[generator.choice(sorted(value))]}
        return {**value, name: _change_value(value[name], generator)}
    if isinstance(value, list) and value and generator.random() < 0.9:
        at = generator.randrange(len(value))
        choice = generator.random()
        if choice < 0.1:
            return value[:at] + value[at + 1 :]
        if choice < 0.2:
            return [*value[:at], value[at], *value[at:]]
        if choice < 0.25:
            return generator.sample(value, len(value))
        return [*value[:at], _change_value(value[at], generator), *value[at + 1 :]]
    if isinstance(value, str) and generator.random() < 0.7:
        return _change_text(value, generator)
    if type(value) is int and generator.random() < 0.6:
        return value + generator.choice((-1, 1, -256, 256, 2**32, -value))
    return generator.choice(VALUES)


def _change_text(text: str, generator: random.Random) -> str:
    if len(text) >= 40 and generator.random() < 0.8:
        try:
            inner = base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            inner = b""
        if inner:
            return base64.b64encode(_change(inner, generator, [inner])).decode()
    raw = text.encode("utf-8", "surrogatepass")
    change = _change_lines if "\n" in text else _change_bytes
    return change(raw, generator, [raw]).decode("utf-8", "replace")


def _change_lines(data: bytes, generator: random.Random, others: list[bytes]) -> bytes:
    lines = data.split(b"\n")
    at = generator.randrange(len(lines))
    choice = generator.randrange(5)
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(at, lines[generator.randrange(len(lines))])
    elif choice == 2:
        lines[at] = generator.choice(PIECES)
    elif choice == 3:
        lines[at] = generator.choice(generator.choice(others).split(b"\n"))
    else:
        lines[at] = _change_bytes(lines[at], generator, others)
    return b"\n".join(lines)


def _change_bytes(data: bytes, generator: random.Random, others: list[bytes]) -> bytes:
    start = generator.randrange(len(data) + 1)
    stop = min(len(data), start + generator.choice((0, 1, 1, 2, 4, 8, 32, 1 << 16)))
    choice = generator.randrange(6)
    if choice == 0 and start < len(data):
        flipped = bytes([data[start] ^ generator.randrange(1, 256)])
        return data[:start] + flipped + data[start + 1 :]
    if choice == 1:
        return data[:start] + data[stop:]
    if choice == 2:
        return data[:start] + generator.choice(PIECES) + data[stop:]
    if choice == 3:
        return data[:stop] + data[start:stop] + data[stop:]
    if choice == 4:
        other = generator.choice(others)
        return data[:start] + other[generator.randrange(len(other) + 1) :]
    number = generator.choice((0, 1, 127, 128, 255, 2**31, 2**63 - 1)).to_bytes(8, "big")
    width = generator.choice((1, 2, 4, 8))
    return data[:start] + number[-width:] + data[start + width :]
