"""Which language a visitor gets, and how it writes times."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.consent_service.language import messages
from client.web.language import negotiate, read_messages
from common.errors import FormatError


@pytest.mark.parametrize(
    ("accepted", "chosen", "lang"),
    [
        (None, None, "en"),
        ("", None, "en"),
        ("zh", None, "zh"),
        ("zh-Hant-TW", None, "zh"),
        ("de-DE,de;q=0.9,zh;q=0.4,en;q=0.3", None, "zh"),
        ("en;q=0.1,zh;q=0.2", None, "zh"),
        ("zh;q=0", None, "en"),
        ("ZH", None, "zh"),
        ("fr", None, "en"),
        ("*", None, "en"),
        (";;,,;q=9,zh;q=high", None, "en"),
        ("x" * 100_000, None, "en"),
        (",".join(["fr"] * 50 + ["zh"]), None, "en"),
        ("zh", "en", "en"),
        ("en", "zh", "zh"),
        ("en", "fr", "en"),
        ("en", "../zh", "en"),
    ],
)
def test_the_language_is_the_one_chosen_else_the_browsers(
    accepted: str | None, chosen: str | None, lang: str
) -> None:
    assert negotiate(accepted, chosen) == lang


def test_times_are_written_as_in_the_language() -> None:
    time = "2026-03-01T09:05:00.000Z"
    assert messages("en").moment(time) == "1 March 2026, 09:05 UTC"
    assert messages("zh").moment(time) == "2026年3月1日 09:05 UTC"


@pytest.mark.parametrize("content", ['["a"]', '{"a": 1}', '"text"'])
def test_a_catalogue_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text(content)
    with pytest.raises(FormatError, match="not an object of texts"):
        read_messages(tmp_path, "en")
