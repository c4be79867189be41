"""Numbers as the report writes them: grouped, rounded to the safe side, with their unit."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from markupsafe import Markup

from common.timestamps import parse_time

_SMALL_NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_MINUTE_S = 60.0
_HASH_LINE = 32


def integer(value: int) -> str:
    """A count with its thousands grouped: ``2,469``."""
    return f"{value:,}".replace("-", "−")


def word(value: int) -> str:
    """A small count in words, others in digits."""
    return _SMALL_NUMBERS[value] if 0 <= value < len(_SMALL_NUMBERS) else integer(value)


def plural(value: int, singular: str, several: str | None = None) -> str:
    """A count and its noun: ``1 region``, ``5 regions``."""
    return f"{integer(value)} {singular if value == 1 else several or singular + 's'}"


def share(part: float, whole: float) -> str:
    """A share in percent with one decimal; never 100.0% or 0.0% unless it is."""
    if not whole:
        return "–"
    percent = 100.0 * part / whole
    if 99.95 <= percent < 100.0:
        return ">99.9%"
    return "<0.1%" if 0.0 < percent < 0.05 else f"{percent:.1f}%"


def size(n_bytes: int) -> str:
    """Bytes in decimal units: ``369 kB``."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000.0:
            break
        value, unit = value / 1000.0, larger
    if unit == "B":
        return f"{n_bytes} B"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def epsilon(value: str, decimals: int = 4) -> str:
    """ε, rounded up so that it never understates."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_CEILING))


def epsilon_left(spent: str, cap: str) -> str:
    """The cap less what is spent, rounded down; never below 0."""
    left = max(Decimal(0), Decimal(cap) - Decimal(spent))
    return str(left.quantize(Decimal("0.0001"), rounding=ROUND_FLOOR))


def decimal(value: str | float, digits: int = 4) -> str:
    """A decimal with at most so many significant digits, never in scientific notation."""
    return _plain(Decimal(f"{float(value):.{digits}g}"))


def delta(value: str) -> Markup:
    """δ as a power of ten where it is one, else as it is written."""
    sign, digits, exponent = Decimal(value).as_tuple()
    if (
        sign == 0
        and isinstance(exponent, int)
        and digits
        and digits[0] == 1
        and not any(digits[1:])
    ):
        return Markup("10<sup>−{}</sup>").format(-(exponent + len(digits) - 1))
    return Markup.escape(value)


def seconds(value: float) -> str:
    """A duration."""
    if value < _MINUTE_S:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def clock(time: str) -> str:
    """The time of day of a UTC timestamp, to the second."""
    parse_time(time)
    return time[11:19]


def moment(time: str) -> str:
    """A UTC timestamp to the second, for people."""
    parse_time(time)
    return f"{time[:10]} {time[11:19]} UTC"


def hash_lines(digest: str) -> list[str]:
    """A digest cut into lines of 32 characters."""
    return [digest[at : at + _HASH_LINE] for at in range(0, len(digest), _HASH_LINE)]


def ranges(values: Sequence[int]) -> str:
    """Whole numbers with runs joined: ``1, 3–5``."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)


def data_type(code: str) -> str:
    """A NumPy type code in words."""
    kinds = {"f": "float", "i": "integer"}
    return f"{8 * int(code[2:])}-bit {kinds[code[1]]}" if code[1:2] in kinds else code


def shape(dimensions: list[int]) -> str:
    """An array's shape: ``200 × 8``."""
    return " × ".join(integer(length) for length in dimensions)


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
