"""The two catalogues agree with each other and with the verifier; numbers and foreign text."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from client.engine import incidents
from common.audit import verify
from common.audit.report import language
from common.audit.report.language import LANGUAGES, TEMPLATES, Language, messages
from common.audit.report.page import _environment, render_report
from common.audit.report.trust import SECTION_STEPS
from common.audit.verify.verdict import LIMITS, STEPS
from common.key_entry import ROLES

VERIFIER = Path(verify.__file__).parent
EN, ZH = messages("en"), messages("zh")
HAN = re.compile("[\u3400-\u9fff]")
# Keys that are put together at run time, by what they begin with.
GROUPS = (
    "basis.",
    "budget.relation.",
    "budget.unit.",
    "can.",
    "code.",
    "consents.",
    "count.",
    "dtype.",
    "duration.",
    "federation.party.",
    "glance.",
    "keys.state.",
    "law.",
    "limit.",
    "mechanism.",
    "method.",
    "nav.",
    "note.",
    "notices.",
    "policy.",
    "purpose.",
    "reason.",
    "role.",
    "rule.",
    "status.",
    "step.",
    "terms.",
    "trust.",
    "verdict.",
    "withdrawals.",
    *(f"{name}.title" for name in SECTION_STEPS),
    *(f"{name}.lead" for name in SECTION_STEPS),
)


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(f"{tag} {attrs}")

    def handle_endtag(self, tag: str) -> None:
        self.found.append(f"/{tag}")


def tags(text: str) -> list[str]:
    return sorted(_Tags(text).found)


def test_both_languages_have_the_same_messages_in_the_same_order() -> None:
    assert list(EN) == list(ZH)
    assert all(EN.values())
    assert all(ZH.values())


def test_both_say_the_same_things_at_the_same_places() -> None:
    placeholder = re.compile(r"\{[a-z_0-9]*\}")
    for key, text in EN.items():
        assert sorted(placeholder.findall(text)) == sorted(placeholder.findall(ZH[key])), key
        assert tags(text) == tags(ZH[key]), key


def test_chinese_is_chinese() -> None:
    """Every message that has words has Chinese words, set with Chinese punctuation."""
    for key, text in ZH.items():
        plain = re.sub(r"<code>.*?</code>|<[^>]*>|\{[^}]*\}", "", text)
        if re.search("[A-Za-z]{3}", plain):
            assert HAN.search(plain), key
        assert not re.search(f"{HAN.pattern}[,:;?!()]|[,:;?!()]{HAN.pattern}", plain), key
    assert EN["verdict.word.ok"] == "Verified"
    assert not any(HAN.search(text) for text in EN.values())


def test_no_message_is_left_over() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in [*TEMPLATES.glob("*.j2"), *TEMPLATES.parent.glob("*.py")]
    )
    named = set(re.findall(r"""["']([a-z_.0-9]+)["']""", sources))
    unused = [
        key for key in EN if not key.startswith(GROUPS) and key.removesuffix(".one") not in named
    ]
    assert unused == []


def test_the_limits_are_the_verifiers() -> None:
    stated = [EN[f"limit.{n}"].replace("’", "'") for n in range(1, len(LIMITS) + 1)]
    assert stated == list(LIMITS)
    assert f"limit.{len(LIMITS) + 1}" not in EN
    for number in range(1, len(LIMITS) + 1):
        assert HAN.search(ZH[f"limit.{number}"])


def verifier_codes() -> set[str]:
    """Every code with which the verifier's source reports a failure."""
    codes: set[str] = set()
    for path in VERIFIER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node) in ("fail", "_fail", "_report"):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                codes |= {t for t in texts[:1] if isinstance(t, str) and " " not in t}
    return codes


def _name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_every_failure_of_the_verifier_has_a_name_in_both_languages() -> None:
    codes = verifier_codes()
    assert len(codes) > 60
    assert {code for code in codes if f"code.{code}" not in EN} == set()


def test_everything_that_the_verifier_counts_has_a_name() -> None:
    counted = {
        name
        for path in VERIFIER.glob("*.py")
        for name in re.findall(r'count\(\s*[A-Z]+,\s*"([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(counted) > 15
    assert {name for name in counted if f"count.{name}" not in EN} == set()


def test_roles_steps_and_the_regions_reasons_have_names() -> None:
    assert {role for role in ROLES if f"role.{role}" not in EN} == set()
    assert [EN[f"step.{number}"] for number in range(len(STEPS))] == [title for title, _ in STEPS]
    reasons = {reason for _, reason in incidents._REASONS}
    assert {reason for reason in reasons if f"reason.{reason}" not in EN} == set()


def test_a_word_that_is_not_known_stands_as_it_is() -> None:
    said = Language("zh").term("reason", "made-up<b>")
    assert said == "<code>made-up&lt;b&gt;</code>"
    assert Language("zh").counted("widgets", 2) == "2 widgets"


def test_one_is_not_many() -> None:
    english = Language("en")
    assert english.counted("versions", 1) == "1 version"
    assert english.counted("versions", 2) == "2 versions"
    assert english.counted("entries", 1234) == "1,234 log entries"


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (None, "–"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (59_949, "59.9 s"),
        (60_000, "1 min"),
        (3_599_000, "1 h"),
        (3_660_000, "1 h 1 min"),
        (86_400_000, "24 h"),
        (172_800_000, "2 d"),
        (180_000_000, "2 d 2 h"),
    ],
)
def test_durations(ms: int | None, said: str) -> None:
    assert Language("en").duration(ms) == said
    assert ms is None or HAN.search(Language("zh").duration(ms))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("7.999838", "8.000"),
        ("1.765649", "1.766"),
        ("1.7651", "1.766"),
        ("1.765", "1.765"),
        ("1.765000", "1.765"),
        ("8", "8.000"),
        ("0.0000001", "0.001"),
        ("inf", "inf"),
    ],
)
def test_epsilon_is_never_said_to_be_less_than_it_is(stated: str, said: str) -> None:
    assert language.epsilon(stated) == said
    if stated != "inf":
        assert float(said) >= float(stated)


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (43_200, "43.2 kB"),
        (123_456, "123 kB"),
        (5_300_000, "5.3 MB"),
    ],
)
def test_sizes(n_bytes: int, said: str) -> None:
    assert Language("en").size(n_bytes) == said.replace(" ", "\u00a0")


def test_ranges() -> None:
    assert language.ranges([3, 1, 2, 7, 9, 10]) == "1–3, 7, 9–10"
    assert language.ranges([]) == ""


def test_what_does_not_show_is_shown() -> None:
    hidden = "a\u202eb\u200bc\x00d\ne\u2066f\ufeffg\u0085h\u00adi\U000e0041j"
    seen = language.visible(hidden)
    assert seen.isprintable()
    assert "⟨U+202E⟩" in seen
    assert "⟨U+0000⟩" in seen
    assert "⟨U+E0041⟩" in seen
    assert language.visible("价格\u3000一\u00a0二") == "价格\u3000一\u00a0二"


def test_no_template_can_let_a_hidden_character_through() -> None:
    template = _environment("en").from_string("{{ text }} {{ markup }}")
    assert template.render(text="<\u202e", markup=Markup("<b>")) == "&lt;⟨U+202E⟩ <b>"


def test_foreign_text_is_escaped_shortened_and_kept_apart() -> None:
    assert language.isolated('<i a="b">&') == "<bdi>&lt;i a=&#34;b&#34;&gt;&amp;</bdi>"
    long = language.isolated("x" * 10_000)
    assert len(long) < 300
    assert "…" in long
    assert language.prose("a<\nb\u202e") == "<bdi>a&lt;</bdi><br><bdi>b⟨U+202E⟩</bdi>"


def test_what_fills_a_placeholder_cannot_be_markup_or_a_placeholder() -> None:
    said = Language("en").say("place.file", file="{0}{party.__class__}<b>%s")
    assert said == "file <bdi>{0}{party.__class__}&lt;b&gt;%s</bdi>"
    assert Language("en").say("place.file", file=Markup("<b>x</b>")) == "file <b>x</b>"


def test_a_language_that_there_is_not(facts: dict) -> None:
    assert set(LANGUAGES) == {"en", "zh"}
    with pytest.raises(KeyError):
        render_report(facts["honest"], lang="xx")
