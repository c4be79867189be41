"""The page's two catalogues agree with each other, and with what templates and code ask for."""

from __future__ import annotations

import re

from common.analytics.kano import CLASSES
from common.audit.report.language import messages
from server.insights.page import TEMPLATES
from tests.support.made_answers import questions

EN, ZH = messages("en", TEMPLATES), messages("zh", TEMPLATES)
HAN = re.compile("[\u3400-\u9fff]")
# Keys that are put together at run time, by what they begin with.
GROUPS = (
    "asked.mode.",
    "coordinate.",
    "kano.class.",
    "label.",
    "list.comma",
    "priority.",
    "question.",
    "reading.",
    "sign.",
    "trait.",
    "unit.",
    "unit_of_privacy.",
)
ENDINGS = (".title", ".lead", ".nav")


def test_both_languages_have_the_same_messages_in_the_same_order() -> None:
    assert list(EN) == list(ZH)
    assert all(EN.values())
    assert all(ZH.values())


def test_both_say_the_same_things_at_the_same_places() -> None:
    placeholder = re.compile(r"\{[a-z_0-9]*\}|</?[a-z]+>")
    for key, text in EN.items():
        assert sorted(placeholder.findall(text)) == sorted(placeholder.findall(ZH[key])), key


def test_chinese_is_chinese() -> None:
    for key, text in ZH.items():
        plain = re.sub(r"<code>.*?</code>|<[^>]*>|\{[^}]*\}", "", text)
        if re.search("[A-Za-z]{3}", plain):
            assert HAN.search(plain), key
        assert not re.search(f"{HAN.pattern}[,:;?!()]|[,:;?!()]{HAN.pattern}", plain), key
    assert not any(HAN.search(text) for text in EN.values())


def test_no_message_is_left_over() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in [*TEMPLATES.glob("*.j2"), *TEMPLATES.parent.glob("*.py")]
    )
    named = set(re.findall(r"""["']([a-z_.0-9]+)["']""", sources))
    unused = [
        key
        for key in EN
        if not key.startswith(GROUPS)
        and not key.endswith(ENDINGS)
        and key.removesuffix(".one") not in named
    ]
    assert unused == []


def test_every_question_and_class_has_a_name() -> None:
    for question in questions():
        assert f"question.{question.name}" in EN
    for each in CLASSES:
        assert f"kano.class.{each}" in EN
