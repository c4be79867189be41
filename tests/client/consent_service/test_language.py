"""Both catalogues say the same, all of it is said somewhere, and the right one is used."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest

import client.consent_service
from client.commands.choose import Way
from client.consent_service.language import messages
from client.consent_service.problems import PROBLEMS
from client.web.language import DEFAULT, LANGUAGES
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    PROFILING,
    RECOMMENDATIONS,
    STATES,
)

FOLDER = Path(client.consent_service.__file__).parent
CATALOGUES = {
    lang: json.loads((FOLDER / "locales" / f"{lang}.json").read_text(encoding="utf-8"))
    for lang in LANGUAGES
}
# Keys that pages put together from what the code names.
COMPOSED = {
    *(f"problem.{code}{end}" for code in PROBLEMS for end in ("", ".text")),
    *(f"state.{state}" for state in STATES),
    *(
        f"purpose.{purpose}{end}"
        for purpose in (FEDERATED_TRAINING, RECOMMENDATIONS, FEDERATED_ANALYTICS, PROFILING)
        for end in ("", ".text")
    ),
    *(f"now.{name}" for name in ("none", "refused", "withdrawn", "given", "lapsed")),
    "now.notice-changed",
    *(f"method.{method}" for method in ("web-form", "imported", "erasure", *Way)),
    *(f"notice.{name}" for name in ("controller", "recipients", "retention", "storage", "contact")),
}


def test_every_language_has_a_catalogue_and_the_reverse() -> None:
    assert {path.stem for path in (FOLDER / "locales").iterdir()} == set(LANGUAGES)
    assert DEFAULT in LANGUAGES


@pytest.mark.parametrize("lang", LANGUAGES)
def test_all_catalogues_have_the_same_keys_and_values_to_fill_in(lang: str) -> None:
    here, there = CATALOGUES[lang], CATALOGUES[DEFAULT]
    assert list(here) == list(there)
    for key, text in here.items():
        assert text.strip() == text != "", key
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name}
        assert fields == {n for _, n, _, _ in string.Formatter().parse(there[key]) if n}, key


def test_no_catalogue_has_a_key_twice() -> None:
    for lang in LANGUAGES:
        text = (FOLDER / "locales" / f"{lang}.json").read_text(encoding="utf-8")
        keys = re.findall(r'^\s*"([^"]+)":', text, re.MULTILINE)
        assert len(keys) == len(set(keys))


def test_every_message_is_used_and_every_used_one_is_there() -> None:
    sources = [*FOLDER.glob("templates/*.j2"), *FOLDER.glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r"""\bt\(\s*["']([^"']+)["']\s*[,)]""", text))
    assert named | COMPOSED == set(CATALOGUES[DEFAULT])


def test_no_page_has_words_of_its_own() -> None:
    """Whatever a template says in words would stay in one language."""
    for path in FOLDER.glob("templates/*.j2"):
        source = path.read_text(encoding="utf-8")
        text = re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", source, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{2,}", text) == [], path.name


def test_an_unknown_purpose_goes_by_its_own_name() -> None:
    assert messages("zh").known("purpose.dpv:Marketing", "dpv:Marketing") == "dpv:Marketing"
