"""What a process says of itself: one JSON object a line, without personal data.

Default deny. A line has an event's name and fields of `FIELDS`, each of a form that no free text
and no pseudonym has; a field that is unknown or of another form is left out, and said to be. Of any
other record only where it was made is told, and of ours its words before anything was put into
them; of an exception its types and places, since its text may quote a customer's record.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from common.timestamps import format_time
from common.validate import PARTY, is_power_of_two_interval

_EVENT = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+){0,7}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
# Pseudonyms, digests and keys all have this form: a name that has it is no name.
_LONG_HEX = re.compile(r"[0-9a-fA-F]{32,}")

_FIELDS_ATTRIBUTE = "fedpref_fields"
#: Loggers whose messages are literals of this project's own code; a test holds them to it.
_OWN_LOGGERS = ("fedpref", "common", "client", "server", "simulations")
_MOST_FRAMES = 32
_MOST_CAUSES = 4
_ROOT = Path(__file__).resolve().parents[1]

Form = Callable[[object], bool]


def _text(pattern: re.Pattern[str], longest: int) -> Form:
    def holds(value: object) -> bool:
        return (
            isinstance(value, str)
            and len(value) <= longest
            and pattern.fullmatch(value) is not None
            and _LONG_HEX.search(value) is None
        )

    return holds


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _seconds(value: object) -> bool:
    # Written so that a NaN is refused too.
    return type(value) in (int, float) and 0 <= value < 1e9  # type: ignore[operator]  # a number


#: Every field that a line may have beside what `JsonFormatter` adds, and what it must look like.
FIELDS: Mapping[str, Form] = {
    "run": _text(_RUN, 128),
    "round": _whole,
    "attempt": _whole,
    "region": _text(PARTY, 64),
    "mechanism": _text(_EVENT, 64),
    "method": _text(_EVENT, 32),
    "reason": _text(_EVENT, 64),
    "check": _text(_EVENT, 64),
    "program": _text(_EVENT, 64),
    "seconds": _seconds,
    "bytes": _whole,
    # Of what left in a round; the interval of the round entry, never a count.
    "customers": is_power_of_two_interval,
    "epsilon": _text(_DECIMAL, 20),
    "epsilon_cap": _text(_DECIMAL, 20),
    # Of a published checkpoint; never of a log between two of them.
    "log_size": _whole,
    "witness_lag_s": _seconds,
    # Of the process at the other end of a socket, as the kernel names it.
    "peer_user": _whole,
    "exit_code": _whole,
}


def say(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Logs one event.

    Args:
        logger: Whose event it is.
        level: Of `logging`.
        event: Its name, in kebab case.
        fields: What belongs to it; see `FIELDS`.
    """
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={_FIELDS_ATTRIBUTE: fields}, stacklevel=2)


def log_as_json(process: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Has all logging of this process written as JSON lines, in place of whatever was set up.

    Args:
        process: What the process is, such as ``engine``.
        stream: Where to; standard error by default, which a supervisor keeps.
        level: The least that is said.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # What cannot be written must not be shown another way, with its arguments.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """Makes a line of a record; see the module's docstring.

    Args:
        process: What the process is.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": format_time(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
        }
        fields = getattr(record, _FIELDS_ATTRIBUTE, None)
        if isinstance(fields, dict):
            line["event"] = _event(record.msg)
            line.update(_admitted(fields))
        elif record.name.split(".")[0] in _OWN_LOGGERS and isinstance(record.msg, str):
            line["event"], line["message"] = "message", record.msg
        else:
            line["event"] = "message-withheld"
            line["place"] = _place(record.pathname, record.lineno, record.funcName)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = [*_causes(record.exc_info[1])]
            line["trace"] = [*_frames(record.exc_info[2])]
        return json.dumps(line, ensure_ascii=True, allow_nan=False)


def _event(name: object) -> str:
    return name if isinstance(name, str) and _EVENT.fullmatch(name) else "event-withheld"


def _admitted(fields: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    withheld = 0
    for name, value in fields.items():
        form = FIELDS.get(name) if isinstance(name, str) else None
        if isinstance(name, str) and form is not None and (value is None or form(value)):
            yield name, value
        else:
            withheld += 1
    if withheld:
        yield "fields_withheld", withheld


def _causes(error: BaseException | None) -> Iterator[str]:
    """The types of an exception and of what it came from."""
    for _ in range(_MOST_CAUSES):
        if error is None:
            return
        yield type(error).__name__
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(trace: TracebackType | None) -> Iterator[str]:
    """Where an exception passed, outermost first; no values, no source lines."""
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(_place(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    yield from frames[-_MOST_FRAMES:]


def _place(path: str, line: int, function: str | None) -> str:
    """A file of ours by its path below the project, any other by its name alone."""
    file = Path(path)
    shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else Path(file.name)
    return f"{shown.as_posix()}:{line} {function or '?'}"
