"""What a process says of itself: declared fields, and no text that could quote a record."""

from __future__ import annotations

import ast
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.structured_log import FIELDS, JsonFormatter, log_as_json, say
from common.validate import is_power_of_two_interval

ROOT = Path(__file__).resolve().parents[2]
SECRET = "customer 4711 bought insulin"
PSEUDONYM = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, raised = root.handlers[:], root.level, logging.raiseExceptions
    written = io.StringIO()
    log_as_json("engine", stream=written)
    yield written
    root.handlers[:], logging.raiseExceptions = before, raised
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    say(
        logging.getLogger("fedpref.engine"),
        logging.WARNING,
        "refused",
        region="region-1",
        round=2,
        reason="not-permitted",
    )
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "warning",
        "process": "engine",
        "logger": "fedpref.engine",
        "event": "refused",
        "region": "region-1",
        "round": 2,
        "reason": "not-permitted",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"customer": "4711"},
        {"detail": SECRET},
        {"reason": SECRET},
        {"reason": PSEUDONYM},
        {"region": PSEUDONYM},
        {"run": f"run:{PSEUDONYM}"},
        {"customers": 4711},
        {"customers": "4711"},
        {"customers": "4711-9421"},
        {"round": "2"},
        {"round": True},
        {"seconds": float("nan")},
        {"seconds": SECRET},
        {"bytes": -1},
        {7: "seven"},
    ],
    ids=str,
)
def test_a_field_that_is_unknown_or_of_another_form_is_left_out(
    stream: io.StringIO, fields: dict[str, object]
) -> None:
    logger = logging.getLogger("fedpref.engine")
    logger.info("refused", extra={"fedpref_fields": fields})
    (line,) = lines(stream)
    assert line["event"] == "refused"
    assert line["fields_withheld"] == 1
    assert line.keys() == {"time", "level", "process", "logger", "event", "fields_withheld"}


@given(
    name=st.one_of(st.sampled_from([*FIELDS]), st.text(max_size=8)),
    value=st.one_of(
        st.text(max_size=80), st.integers(), st.floats(), st.none(), st.just(PSEUDONYM), st.binary()
    ),
)
def test_no_field_carries_what_its_form_does_not_allow(name: str, value: object) -> None:
    record = logging.LogRecord("fedpref.x", logging.INFO, __file__, 1, "event", None, None)
    record.fedpref_fields = {name: value}
    line = json.loads(JsonFormatter("test").format(record))
    shown = line.keys() - {"time", "level", "process", "logger", "event"}
    assert shown <= {name} & FIELDS.keys() or shown == {"fields_withheld"}
    assert PSEUDONYM not in json.dumps(line)
    if isinstance(value, str) and " " in value:
        assert shown == {"fields_withheld"}


def test_an_events_name_is_no_place_for_text(stream: io.StringIO) -> None:
    say(logging.getLogger("fedpref.engine"), logging.INFO, f"refused {SECRET}")
    assert lines(stream)[0]["event"] == "event-withheld"


def test_arguments_of_our_messages_stay_inside(stream: io.StringIO) -> None:
    logging.getLogger("fedpref.engine").warning("the refusal %s could not be logged", SECRET)
    (line,) = lines(stream)
    assert line["message"] == "the refusal %s could not be logged"
    assert SECRET not in stream.getvalue()


def test_of_others_messages_only_the_place_is_told(stream: io.StringIO) -> None:
    logging.getLogger("sqlalchemy.engine").warning(f"row: {SECRET}")
    warnings.warn(SECRET, stacklevel=1)
    first, second = lines(stream)
    assert first["event"] == second["event"] == "message-withheld"
    assert str(first["place"]).startswith("tests/common/test_structured_log.py:")
    assert SECRET not in stream.getvalue()


def fail(secret: str) -> None:
    raise ValueError(secret)


def test_of_an_exception_its_types_and_places_are_told(stream: io.StringIO) -> None:
    logger = logging.getLogger("fedpref.engine")
    try:
        try:
            fail(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error
    except RuntimeError:
        logger.exception("a defect")
    (line,) = lines(stream)
    assert line["error"] == ["RuntimeError", "ValueError"]
    (place,) = line["trace"]  # type: ignore[misc]
    assert place.startswith("tests/common/test_structured_log.py:")
    assert SECRET not in stream.getvalue()
    assert SECRET not in repr(line)


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("a"), TypeError("b")
    first.__cause__, second.__cause__ = second, first
    record = logging.LogRecord(
        "fedpref.x", logging.ERROR, __file__, 1, "event", None, (ValueError, first, None)
    )
    assert len(json.loads(JsonFormatter("test").format(record))["error"]) == 4


@pytest.mark.parametrize(
    ("interval", "holds"),
    [
        ("1-1", True),
        ("256-511", True),
        ("256-512", False),
        ("255-509", False),
        ("0-0", False),
        ("0256-511", False),
        ("256-0511", False),
        ("256", False),
        ("-256-511", False),
        (256, False),
        (None, False),
    ],
)
def test_only_powers_of_two_make_an_interval(interval: object, holds: bool) -> None:
    assert is_power_of_two_interval(interval) is holds


@given(st.integers(min_value=1, max_value=10**12))
def test_an_interval_tells_the_number_of_binary_digits_only(count: int) -> None:
    low = 1 << (count.bit_length() - 1)
    assert is_power_of_two_interval(f"{low}-{2 * low - 1}")
    assert is_power_of_two_interval(f"{count}-{2 * count - 1}") is (count == low)


def test_our_own_messages_are_literals() -> None:
    """A message of ours is shown before its arguments are put in: it must be no f-string."""
    calls = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    composed = []
    for package in ("common", "client", "server", "simulations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                owner = node.func.value
                logs = isinstance(owner, ast.Name) and "log" in owner.id.lower()
                if not logs or node.func.attr not in calls or not node.args:
                    continue
                message = node.args[1] if node.func.attr == "log" else node.args[0]
                if owner.id == "logger" and path.name == "structured_log.py":
                    continue
                if not (isinstance(message, ast.Constant) and isinstance(message.value, str)):
                    composed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert composed == []
