"""UTC timestamps in the one form that records use: ``YYYY-MM-DDTHH:MM:SS.mmmZ``.

Between 1970 and 9999 each form stands for exactly one millisecond and each millisecond has exactly
one form, so that equal times are equal bytes.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from common.errors import FormatError

#: 9999-12-31T23:59:59.999Z, the last time of the form, in milliseconds since the epoch.
MAX_TIME_MS = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1)  # naive: only its distance to other naive UTC times is used
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# The bounds on hour, minute and second keep out what some Python versions read as the next day.
_FORM = re.compile(
    r"(?:19[7-9]|[2-9][0-9]{2})[0-9]-[01][0-9]-[0-3][0-9]"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z"
)


def now_ms() -> int:
    """The system clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def now() -> str:
    """The system clock, as a record states it."""
    return format_time(now_ms())


def format_time(time_ms: int) -> str:
    """States a time as records do.

    Args:
        time_ms: Milliseconds since the epoch, from 0 to `MAX_TIME_MS`.

    Raises:
        FormatError: The time is outside that range, or no whole number.
    """
    if type(time_ms) is not int or not 0 <= time_ms <= MAX_TIME_MS:
        raise FormatError(f"{time_ms!r} is not a time between 1970 and 9999 in whole milliseconds.")
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds") + "Z"


def parse_time(text: str) -> int:
    """Reads a time that a record states.

    Returns:
        Milliseconds since the epoch.

    Raises:
        FormatError: The text is not of the one form, or names a day that does not exist.
    """
    if not isinstance(text, str) or _FORM.fullmatch(text) is None:
        raise FormatError(
            f"{str(text)[:40]!r} is not a UTC time of the form 2026-01-31T23:59:59.999Z."
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(f"The time {text!r} names a day that does not exist.") from error
    return (moment - _EPOCH_UTC) // _MILLISECOND
