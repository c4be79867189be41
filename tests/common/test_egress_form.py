"""The form of what may leave: exactly the answers of each method, and nothing beside them."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.engine.incidents import _REASONS as ENGINE_CODES
from common import messages
from common.canonical_json import JsonValue
from common.egress_form import MAX_ARRAYS, METHODS, ArrayLimit, EgressRefusedError, check_form
from common.egress_reasons import ENGINE_REASONS, REASONS, RELAY_REASONS, SECURE_SUM_REASONS
from common.reason_codes import REASON_CODES, relay_reason_code
from tests.support.answers import ANSWERS, ARRAYS, OK, TRAIN

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "0123456789abcdef" * 4
IDS = [f"{method}-{number}" for number, (method, _, _) in enumerate(ANSWERS)]


def places(value: JsonValue, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a value, the outermost last."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield from places(item, (*path, key))
    yield path


def replaced(value: JsonValue, path: tuple[str | int, ...], new: JsonValue) -> JsonValue:
    if not path:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]  # type: ignore[index,call-overload]
    inner[path[-1]] = new  # type: ignore[index,call-overload]
    return changed


@pytest.mark.parametrize(("method", "header", "arrays"), ANSWERS, ids=IDS)
def test_each_answer_may_leave_as_it_is(
    method: str, header: dict[str, JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    check_form(method, header, arrays)


@pytest.mark.parametrize(("method", "header", "arrays"), ANSWERS, ids=IDS)
def test_no_place_of_an_answer_takes_words_of_ones_own(
    method: str, header: dict[str, JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    """Wherever a record might be put, in whatever type, the answer stays."""
    words = "household 1823 bought item 77 on Monday, " * 8
    for path in places(header):
        for smuggled in (words, {"x": words}, [words], -1, True, 2**60, "a b", "\x00"):
            changed = replaced(header, path, smuggled)
            if not isinstance(changed, dict) or changed == header:
                continue
            if path[-1:] == ("step",) and method == "execute":
                continue
            with pytest.raises(EgressRefusedError):
                check_form(method, changed, arrays)


@pytest.mark.parametrize(("method", "header", "arrays"), ANSWERS, ids=IDS)
def test_no_field_may_be_missing_or_added(
    method: str, header: dict[str, JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    for name in header:
        lacking = {key: value for key, value in header.items() if key != name}
        # A refusal may be the relay's own, and what has an update's place makes another answer.
        if name == "attempted" or (name == "region" and header.get("status") == "refused"):
            continue
        with pytest.raises(EgressRefusedError):
            check_form(method, lacking, arrays)
    for extra in ("metrics", "num-examples", "seconds", "error", "message"):
        with pytest.raises(EgressRefusedError):
            check_form(method, {**header, extra: 1}, arrays)


@pytest.mark.parametrize(("method", "header", "arrays"), ANSWERS, ids=IDS)
def test_no_answer_passes_for_another_methods(
    method: str, header: dict[str, JsonValue], arrays: dict[str, np.ndarray]
) -> None:
    if header.get("status") == "refused":
        return
    for other in METHODS - {method} - ({"admit", "report"} if header == OK else set()):
        with pytest.raises(EgressRefusedError):
            check_form(other, header, arrays)
    with pytest.raises(EgressRefusedError):
        check_form("no-such-method", header, arrays)


@pytest.mark.parametrize(
    ("method", "header"),
    [(method, header) for method, header, arrays in ANSWERS if not arrays],
)
def test_arrays_leave_only_where_they_may(method: str, header: dict[str, JsonValue]) -> None:
    with pytest.raises(EgressRefusedError, match="arrays"):
        check_form(method, header, ARRAYS)


@pytest.mark.parametrize(
    "arrays",
    [
        {"popularity": np.ones(3, "<c8")},
        {"popularity": np.ones(3, ">f4")},
        {"popularity": np.ones(3, "<f2")},
        {"popularity": np.array(["household 1823"])},
        {"popularity": np.array([{"household": 1823}], dtype=object)},
        {"popularity": [1.0, 2.0]},
        {"household 1823": np.ones(3, "<f4")},
        {"": np.ones(3, "<f4")},
        {f"array_{number}": np.ones(1, "<f4") for number in range(MAX_ARRAYS + 1)},
    ],
    ids=["complex", "endian", "half", "text", "object", "list", "name", "empty", "many"],
)
def test_arrays_of_another_kind_stay(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(EgressRefusedError):
        check_form("train", TRAIN, arrays)


def test_arrays_leave_within_the_regions_own_limits() -> None:
    limits = {"popularity": ArrayLimit(frozenset({"<f4"}), (3,))}
    check_form("train", TRAIN, ARRAYS, limits)
    for arrays in (
        {"other": np.ones(3, "<f4")},
        {"popularity": np.ones(4, "<f4")},
        {"popularity": np.ones((3, 1), "<f4")},
        {"popularity": np.ones(0, "<f4")},
        {"popularity": np.ones(3, "<f8")},
    ):
        with pytest.raises(EgressRefusedError, match="policy"):
            check_form("train", TRAIN, arrays, limits)
    with pytest.raises(EgressRefusedError):
        check_form("train", TRAIN, ARRAYS, {})


def test_as_many_arrays_may_leave_as_a_message_has() -> None:
    assert MAX_ARRAYS == messages.MAX_ARRAYS
    check_form("train", TRAIN, {f"a_{number}": np.ones(1, "<f4") for number in range(MAX_ARRAYS)})


def test_too_many_bytes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.egress_form.MAX_ARRAYS_BYTES", 11)
    with pytest.raises(EgressRefusedError, match="bytes"):
        check_form("train", TRAIN, ARRAYS)


@given(reason=st.text(max_size=40) | st.sampled_from(sorted(REASONS)).map(str.upper))
def test_a_reason_is_one_of_the_list(reason: str) -> None:
    header: dict[str, JsonValue] = {"status": "refused", "region": "region-1", "reason": reason}
    if reason in REASONS:
        check_form("train", header, {})
    else:
        with pytest.raises(EgressRefusedError):
            check_form("train", header, {})


def test_what_is_refused_is_not_repeated() -> None:
    with pytest.raises(EgressRefusedError) as caught:
        check_form("train", {**TRAIN, "update": "household 1823"}, ARRAYS)
    assert "1823" not in str(caught.value)


def test_the_list_is_of_the_codes_that_are_raised() -> None:
    assert {code for _, code in ENGINE_CODES} | {"refused"} == ENGINE_REASONS
    relay = {relay_reason_code(kind("It failed.")) for kind, _ in REASON_CODES}
    relay |= {"refused", "relay-failure"}
    # The relay of a region judges bundles as well.
    assert relay | {"bundle-not-permitted"} == RELAY_REASONS
    raised: set[str] = set()
    for path in (
        *(ROOT / "common" / "secure_aggregation").glob("*.py"),
        *(ROOT / "common" / "double_masking").glob("*.py"),
        *(ROOT / "client" / "engine").glob("*.py"),
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="SecureSumRefusedError"),
                    args=[ast.Constant(value=str(code)), *_],
                ):
                    raised.add(code)
                # Where the code depends on what differs, or on the step.
                case ast.Constant(value=str(code)) if re.fullmatch(
                    r"other-[a-z]+|(un)?masked-already|step-repeated", code
                ):
                    raised.add(code)
    # Only a coordinator can see these.
    assert raised - {"masks-do-not-cancel", "too-few-reveal", "secret-differs"} == (
        SECURE_SUM_REASONS
    )
