"""What a bundle may send: what the engine answered to it, or a code of the relay's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from common.answer_book import BUNDLE_METHODS, MAX_QUESTIONS, AnswerBook
from common.canonical_json import JsonValue
from common.egress_form import ArrayLimit, EgressRefusedError
from common.errors import BudgetError, FormatError

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
OK: Header = {"status": "ok", "region": "region-1"}
DIGEST = "ab" * 32
TRAINED: Header = {
    **OK,
    "run": "run-1",
    "round": 1,
    "attempt": 1,
    "mechanism": "popularity",
    "update": DIGEST,
    "round_entry": "YWJj",
    "leaf_index": 1,
    "checkpoint": f"log\n2\n{'A' * 43}=\n\n— log AAAA\n",
    "inclusion_proof": [],
}


class Engine:
    def __init__(self, answer: Header, arrays: Arrays | None = None) -> None:
        self.answer = answer
        self.arrays = arrays or {}
        self.asked = 0

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        self.asked += 1
        return dict(self.answer), dict(self.arrays)


def test_the_engines_answer_may_be_sent() -> None:
    values = {"popularity": np.arange(3, dtype="<f4")}
    book = AnswerBook(Engine(TRAINED, values))
    answer, arrays = book.call("train", {"run": "run-1"}, {})
    book.require_answered("train", answer, arrays)
    copied = {"popularity": values["popularity"].copy()}
    book.require_answered("train", dict(reversed(answer.items())), copied)


def test_nothing_else_may() -> None:
    values = {"popularity": np.arange(3, dtype="<f4")}
    book = AnswerBook(Engine(TRAINED, values))
    with pytest.raises(EgressRefusedError):
        book.require_answered("train", TRAINED, values)
    book.call("train", {}, {})
    book.require_answered("train", TRAINED, values)
    for header, arrays in (
        ({**TRAINED, "leaf_index": 2}, values),
        ({**TRAINED, "round_entry": "c2VjcmV0"}, values),
        (TRAINED, {"popularity": np.arange(3, dtype="<f4") + 1}),
        (TRAINED, {"popularity": np.arange(3, dtype="<f4").reshape(3, 1)}),
        (TRAINED, {**values, "secret": np.ones(3, "<f4")}),
        (TRAINED, {}),
    ):
        with pytest.raises(EgressRefusedError):
            book.require_answered("train", header, arrays)
    # An answer to one question is none to another.
    with pytest.raises(EgressRefusedError):
        book.require_answered("mask", TRAINED, values)


def test_an_answer_to_another_message_is_none_to_this() -> None:
    other = AnswerBook(Engine({**OK, "kept": 1}))
    other.call("keep", {}, {})
    with pytest.raises(EgressRefusedError):
        AnswerBook(Engine({**OK, "kept": 1})).require_answered("keep", {**OK, "kept": 1}, {})


def test_the_relays_own_codes_may_be_sent_and_no_others() -> None:
    book = AnswerBook(Engine(OK))
    book.require_answered("train", {"status": "refused", "reason": "relay-failure"}, {})
    for refusal in (
        {"status": "refused", "reason": "item-77"},
        # Only the engine knows this; it would say so itself.
        {"status": "refused", "reason": "clock-behind"},
        {"status": "refused", "region": "region-1", "reason": "relay-failure"},
    ):
        with pytest.raises(EgressRefusedError):
            book.require_answered("train", refusal, {})


def test_the_engines_refusal_may_be_sent() -> None:
    refusal: Header = {"status": "refused", "region": "region-1", "reason": "clock-behind"}
    book = AnswerBook(Engine(refusal))
    book.call("train", {}, {})
    book.require_answered("train", refusal, {})


@pytest.mark.parametrize("method", ["admit", "report", "no-such-method", ""])
def test_a_bundle_asks_only_what_bundles_may(method: str) -> None:
    engine = Engine(OK)
    with pytest.raises(FormatError):
        AnswerBook(engine).call(method, {}, {})
    assert engine.asked == 0
    assert method not in BUNDLE_METHODS


def test_a_bundle_asks_a_few_times() -> None:
    engine = Engine({**OK, "kept": 1})
    book = AnswerBook(engine)
    for _ in range(MAX_QUESTIONS):
        book.call("keep", {}, {})
    with pytest.raises(FormatError):
        book.call("keep", {}, {})
    assert engine.asked == MAX_QUESTIONS


def test_an_answer_beyond_the_regions_limits_stays() -> None:
    limits = {"popularity": ArrayLimit(frozenset({"<f4"}), (2,))}
    book = AnswerBook(Engine(TRAINED, {"popularity": np.arange(3, dtype="<f4")}), limits)
    with pytest.raises(EgressRefusedError):
        book.call("train", {}, {})


def test_an_engines_error_is_passed_on() -> None:
    class Failing:
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            raise BudgetError("spent")

    with pytest.raises(BudgetError):
        AnswerBook(Failing()).call("train", {}, {})
