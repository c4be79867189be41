"""Questions as records: both ways, strictly."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.key_union import KeyUnion
from common.analytics.question_records import _KINDS, Question, question_of, question_record
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.errors import FormatError
from tests.support.made_clusters import made_clusters

QUESTIONS: list[Question] = [
    Groups.counts("counts", ("a", "b", "ü"), most=2),
    Groups("sums", ("a", "b"), 12.5, unit="€"),
    Shares("shares", (("day", "night"), ("mon", "tue", "wed")), wanted=0.5),
    Cuts("cuts", (0.0, 0.5, 3.25, 10.0), probabilities=(0.25, 0.75), unit="days"),
    Funnel("funnel", ("view", "cart", "buy")),
    Trend("trend", ("a", "b"), 2, threshold=-0.5),
    Score.nps(),
    Uplift("uplift", treated_share=0.25),
    Kano("kano", ("delivery", "returns"), 2),
    KeyUnion("keys", 4, 1e-8, keys=32, key_bytes=16),
    made_clusters("clusters", np.array([[-0.5, 0.1], [0.5, 1.0]]), steps=3),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: str(each.name))
def test_a_question_comes_back_whole(question: Question) -> None:
    record = question_record(question)
    data = canonical_json.encode(record)
    again = question_of(canonical_json.decode(data))  # type: ignore[arg-type]
    assert question_record(again) == record
    assert type(again) is type(question)
    assert (again.name, again.size, again.parameters) == (
        question.name,
        question.size,
        question.parameters,
    )


def test_every_field_of_every_kind_is_stated() -> None:
    for kind, (made, forms) in _KINDS.items():
        assert set(forms) == {each.name for each in fields(made)}, kind
    assert {made for made, _ in _KINDS.values()} == {type(each) for each in QUESTIONS}


names = st.text(min_size=1, max_size=8).filter(str.strip)


@given(st.lists(names, min_size=1, max_size=6, unique=True), st.integers(1, 9))
def test_labels_of_any_text_come_back(labels: list[str], most: int) -> None:
    question = Groups.counts("counts", tuple(labels), most=most)
    assert question_of(question_record(question)) == question


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "none"},
        {"kind": 7},
        {"labels": []},
        {"labels": ["a", "a"]},
        {"labels": "ab"},
        {"labels": [1, 2]},
        {"bound": "0"},
        {"bound": "NaN"},
        {"bound": "1.0000"},
        {"bound": 1},
        {"most": True},
        {"most": "2"},
        {"wanted": "inf"},
        {"another": "field"},
        {"labels": [str(number) for number in range((1 << 16) + 1)]},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_is_no_question_is_refused(change: dict[str, Any]) -> None:
    record = question_record(QUESTIONS[0]) | change
    with pytest.raises(FormatError):
        question_of(record)


@pytest.mark.parametrize("field", ["kind", "name", "labels", "bound", "most"])
def test_every_field_is_needed(field: str) -> None:
    record = question_record(QUESTIONS[0])
    del record[field]
    with pytest.raises(FormatError):
        question_of(record)
