"""The report's table of who was granted sensitive columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.report.facts import ReportFacts, read_facts
from common.audit.report.page import render_report
from tests.support.access_bundle import ANALYST, COLUMNS, OFFICER, R1, TABLE, granting


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ReportFacts:
    return read_facts(granting().grant_all().write(tmp_path_factory.mktemp("granted") / "run"))


def test_grants_are_told_from_request_to_end(facts: ReportFacts) -> None:
    asked, revoked = facts.access
    assert (asked.region, asked.table, asked.columns) == (R1, TABLE, tuple(COLUMNS))
    assert (asked.requester, asked.approver) == (ANALYST, OFFICER)
    assert (asked.uses, asked.end, revoked.uses, revoked.end) == (2, "expired", 0, "revoked")
    assert asked.approved_at is not None
    assert asked.asked_at < asked.approved_at < str(asked.expires) <= str(asked.ended_at)


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", ["Access to sensitive columns", "expired", "revoked", "at most"]),
        ("zh", ["敏感列的访问", "到期", "撤销", "最长"]),
    ],
)
def test_the_page_has_them_in_both_languages(
    facts: ReportFacts, lang: str, words: list[str]
) -> None:
    page = render_report(facts, lang=lang)
    for word in (*words, ANALYST, OFFICER, *COLUMNS, "calls on a recall"):
        assert word in page
    assert "logged 2 requests to read" not in page or lang == "en"


def test_a_request_that_nobody_approved_has_no_approver(tmp_path: Path) -> None:
    federation = granting()
    federation.run()
    federation.ask("asked")
    (asked,) = read_facts(federation.write(tmp_path)).access
    assert (asked.approver, asked.approved_at, asked.expires, asked.end) == (None,) * 4


def test_a_bundle_without_grants_has_no_such_table(tmp_path: Path) -> None:
    federation = granting()
    federation.run()
    facts = read_facts(federation.write(tmp_path))
    assert facts.access == ()
    assert "Access to sensitive columns" not in render_report(facts)
