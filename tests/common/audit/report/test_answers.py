"""The report's table of what a region computed of its customers for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.report.facts import ReportFacts, read_facts
from common.audit.report.page import render_report
from tests.support.answered_bundle import (
    BIAS,
    QUERY_ID,
    R1,
    RECOMMENDATIONS,
    SCENES,
    TRAINING,
    answering,
)
from tests.support.bundle_builder import EPSILONS


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ReportFacts:
    run = tmp_path_factory.mktemp("answered") / "run"
    return read_facts(answering().answer_all().write(run))


def test_answers_are_told_with_their_query_and_what_it_spent(facts: ReportFacts) -> None:
    assert [(each.region, each.name, each.query) for each in facts.answers] == [
        (R1, SCENES, QUERY_ID),
        (R1, BIAS, QUERY_ID),
    ]
    assert [each.epsilon for each in facts.answers] == [*EPSILONS[:2]]
    assert facts.answers[0].consented == (RECOMMENDATIONS, TRAINING)
    assert facts.answers[0].bucket == "2-3"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_has_them_in_both_languages(facts: ReportFacts, lang: str) -> None:
    page = render_report(facts, lang=lang)
    title = {"en": "Computed for the region’s own use", "zh": "区域为自身用途计算的内容"}[lang]
    assert title in page
    for answer in facts.answers:
        assert answer.name in page
        assert str(answer.epsilon) in page


def test_a_bundle_without_answers_has_no_such_table(tmp_path: Path) -> None:
    federation = answering()
    federation.run()
    page = render_report(read_facts(federation.write(tmp_path)))
    assert "own use" not in page
