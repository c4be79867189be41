"""The page: every section in both languages, what it says, and what it can never do."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

import pytest

from common import canonical_json
from common.audit.report.facts import ReportFacts, read_facts
from common.audit.report.language import LANGUAGES, messages
from common.audit.report.page import _SECTIONS, MAX_ROWS, render_report
from common.audit.report.rounds import RegionRound
from common.audit.verify.verdict import LIMITS
from tests.support.bundle_builder import REGIONS, SERVER, Federation, JsonRecord, MemorySigner
from tests.support.html_page import Element
from tests.support.html_page import parse_page as parse_anew

R1, R2 = REGIONS
BUNDLES = ("honest", "eventful", "cross-border", "one-region", "altered", "unfinished")
HOSTILE = (
    "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}{0}%s"
    "\u202edesrever\u2066\u200b\x07"
)


# Pages are only read: each is parsed once.
parse_page = cache(parse_anew)


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["aria-labelledby"] == name)


def texts(element: Element, css_class: str) -> list[str]:
    return [each.text for each in element.walk() if css_class in each.classes]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", BUNDLES)
def test_every_section_is_there_with_its_heading(
    name: str, lang: str, pages: dict[tuple[str, str], str]
) -> None:
    page = parse_page(pages[name, lang])
    assert [each.attributes["aria-labelledby"] for each in page.all("section")] == list(_SECTIONS)
    assert page.first("html").attributes["lang"] == LANGUAGES[lang]
    said = messages(lang)
    for key in _SECTIONS[1:]:
        assert section(page, key).first("h2").text == said[f"{key}.title"]
    ids = {each.attributes["id"] for each in page.walk() if "id" in each.attributes}
    for link in page.all("a"):
        assert link.attributes["href"].removeprefix("#") in ids, link.attributes
    assert [item.first("a").attributes["href"] for item in page.first("nav").all("li")] == [
        f"#{key}" for key in _SECTIONS
    ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_verified_bundle_says_so_first(lang: str, pages: dict[tuple[str, str], str]) -> None:
    page, said = parse_page(pages["honest", lang]), messages(lang)
    verdict = section(page, "verdict")
    box = next(each for each in verdict.walk() if "verdict" in each.classes)
    assert "good" in box.classes
    assert box.first("h2").text == said["verdict.word.ok"]
    assert said["verdict.say.ok"] in box.text
    assert "icon" in box.first("h2").first("svg").classes
    answers = [each.text for each in verdict.all("dd")]
    assert said["verdict.integrity.ok"] in answers
    assert said["verdict.completeness.ok"] in answers
    assert said["verdict.scope.regional"] in answers
    assert texts(page, "failures") == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_altered_bundle_is_red_and_names_the_entry(
    lang: str, honest: Federation, pages: dict[tuple[str, str], str]
) -> None:
    page, said = parse_page(pages["altered", lang]), messages(lang)
    index = honest.find(R1, "consent", 3)
    place = said["entry.of"].format(party=R1, n=index)
    box = next(each for each in page.walk() if "verdict" in each.classes)
    assert "bad" in box.classes
    assert box.first("h2").text == said["verdict.word.bad"]
    assert texts(box, "where") == [place]
    assert said["code.record"] in box.text
    # The verifier's own sentence is there, as English as it is.
    assert all(quote.attributes["lang"] == "en" for quote in box.all("q"))
    assert place in " ".join(texts(page, "failures"))
    marked = {name: texts(section(page, name), "trust") for name in ("consents", "rounds", "keys")}
    assert said["trust.broken"].partition("{")[0].strip() in marked["consents"][0]
    assert place in marked["consents"][0]
    assert said["trust.holds"].partition("{")[0].strip() in marked["keys"][0]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_missing_is_told_apart(lang: str, pages: dict[tuple[str, str], str]) -> None:
    page, said = parse_page(pages["unfinished", lang]), messages(lang)
    verdict = section(page, "verdict")
    assert verdict.first("h2").text == said["verdict.word.incomplete"]
    answers = [each.text for each in verdict.all("dd")]
    assert said["verdict.integrity.ok"] in answers
    assert said["verdict.completeness.bad"] in answers
    assert "trust incomplete" in pages["unfinished", lang]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_where_nothing_can_be_ascribed_no_figure_is_shown(
    lang: str, pages: dict[tuple[str, str], str]
) -> None:
    page, said = parse_page(pages["no-registry", lang]), messages(lang)
    assert [each.attributes["aria-labelledby"] for each in page.all("section")] == [
        "verdict",
        "limits",
        "appendix",
    ]
    assert said["verdict.say.unascribed"] in section(page, "verdict").text
    assert "registry/1.json" in section(page, "verdict").text
    assert [row[2] for row in section(page, "appendix").first("table").rows()[1:]][:3] == [
        said["status.failed"],
        said["status.failed"],
        said["status.not checked"],
    ]


def test_numbers_on_the_page_are_the_bundles(
    facts: dict[str, ReportFacts], pages: dict[tuple[str, str], str]
) -> None:
    page, report = parse_page(pages["eventful", "en"]), facts["eventful"]
    customers = section(page, "consents").all("table")[0].rows()
    for row, each in zip(customers[1:], report.consents, strict=False):
        tally = each.tally
        assert row == [each.region] + [
            str(n)
            for n in (
                *(tally.total, tally.in_force, tally.expired, tally.lapsed, tally.withdrawn),
                *(tally.erased, tally.refused, each.minors, each.records),
            )
        ]
    assert customers[-1][0] == "Total"
    assert customers[-1][1] == str(sum(each.tally.total for each in report.consents))
    rounds = [row for table in section(page, "rounds").all("table") for row in table.rows()[1:]]
    assert [(row[0], row[1], row[3], row[4], row[-1]) for row in rounds] == [
        tuple(map(str, (_name(part), part.size, part.bucket, part.in_force, part.index)))
        for part in report.rounds
    ]
    spent = section(page, "budget").first("table").rows()[1:]
    assert [(row[0], row[3], row[4]) for row in spent] == [
        (each.region, each.stated, each.recomputed) for each in report.budgets
    ]
    left = section(page, "released").all("table")[-1].rows()[1:]
    assert [row[4].replace(" ", "") for row in left] == [each.update for each in report.releases]
    logs = section(page, "witnesses").first("table").rows()[1:]
    assert [(row[0], row[1]) for row in logs] == [
        (each.party, str(each.size)) for each in report.logs
    ]


def _name(part: RegionRound) -> str:
    return f"{part.number} {part.mechanism}"


def test_the_eventful_pages_tell_of_every_event(pages: dict[tuple[str, str], str]) -> None:
    for lang in LANGUAGES:
        page, said = parse_page(pages["eventful", lang]), messages(lang)
        incidents = section(page, "incidents").text
        assert said["reason.discarded-for-withdrawal"] in incidents
        assert said["incidents.discarded"].format(n=1) in incidents
        assert "It was so." in incidents
        withdrawals = section(page, "withdrawals").text
        assert said["withdrawals.kind.erased"] in withdrawals
        assert said["withdrawals.later"] not in withdrawals
        keys = section(page, "keys").text
        assert said["keys.turn"].format(turn=2, n=2) in keys
        assert re.sub(r"\{.*", "", said["keys.state.revoked"]) in keys
        assert "pn-2" in section(page, "consents").text
        assert said["basis.eu-gdpr:A6-1-a"] in section(page, "consents").text


def test_a_cross_border_page_says_what_it_cannot_have(
    pages: dict[tuple[str, str], str], eventful_federation: Federation
) -> None:
    for lang in LANGUAGES:
        html, said = pages["cross-border", lang], messages(lang)
        page = parse_page(html)
        assert said["verdict.say.ok.cross"] in section(page, "verdict").text
        assert said["verdict.scope.cross-border"] in section(page, "verdict").text
        for name in ("consents", "withdrawals"):
            assert said["consents.absent"] in section(page, name).text
        assert said["can.3"] not in section(page, "limits").text
        assert said["status.not in this bundle"] in section(page, "appendix").text
        for customer in range(eventful_federation.customers):
            assert eventful_federation.sid(R1, customer) not in html


def test_no_page_shows_a_pseudonym(pages: dict[tuple[str, str], str], honest: Federation) -> None:
    for html in pages.values():
        for customer in range(honest.customers):
            assert honest.sid(R1, customer)[:16] not in html.replace(" ", "")


def test_what_cannot_be_proved_is_on_every_page(pages: dict[tuple[str, str], str]) -> None:
    for (_, lang), html in pages.items():
        text = section(parse_page(html), "limits").text
        for number in range(1, len(LIMITS) + 1):
            assert messages(lang)[f"limit.{number}"] in text


def test_the_page_runs_nothing_and_loads_nothing(pages: dict[tuple[str, str], str]) -> None:
    for html in pages.values():
        page = parse_page(html)
        tags = {element.tag for element in page.walk()}
        assert not tags & {"script", "link", "iframe", "object", "img", "form", "base"}
        for element in page.walk():
            names = element.attributes.keys()
            assert not {name for name in names if name.startswith("on")}
            assert "style" not in names
        (policy,) = (
            each.attributes["content"]
            for each in page.all("meta")
            if each.attributes.get("http-equiv") == "Content-Security-Policy"
        )
        style = html.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; style-src 'sha256-{digest}'; font-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        urls = re.findall(r"(?:https?:)?//[\w.]+", html.replace(style, ""))
        assert urls == []


def test_the_same_bundle_gives_the_same_page(
    bundles: dict[str, Path], pages: dict[tuple[str, str], str]
) -> None:
    assert render_report(read_facts(bundles["eventful"]), lang="zh") == pages["eventful", "zh"]
    stamped = render_report(
        read_facts(bundles["eventful"]), lang="zh", made_at="2026-05-06T07:08:09.010Z"
    )
    assert "2026-05-06 07:08:09" in parse_page(stamped).first("header").text
    assert "2026-05-06" not in pages["eventful", "zh"]


def test_sentences_stand_apart_as_their_language_has_it(pages: dict[tuple[str, str], str]) -> None:
    chinese = [html for (_, lang), html in pages.items() if lang == "zh"]
    assert chinese
    for html in chinese:
        assert not re.search("。 +[\u4e00-\u9fff]", html)
    scope = parse_page(pages["eventful", "en"]).first("main").text
    assert ". Signed by " in scope


@pytest.mark.parametrize(("lang", "purpose"), [("en", "federated training"), ("zh", "联邦")])
def test_caps_by_model_and_purpose_are_told_one_by_one(
    lang: str, purpose: str, tmp_path: Path
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-policy/1" and party == R1:
            record["policy"]["epsilon_caps_per_model"] = {"another": "2", "preference-model": "9"}
            record["policy"]["epsilon_caps_per_purpose"] = {"fedpref:FederatedTraining": "8.5"}
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    facts = read_facts(Federation(alter=alter).run().write(tmp_path))
    assert facts.verdict.verified
    rows = section(parse_anew(render_report(facts, lang=lang)), "policies").all("tr")
    said = messages(lang)
    told = {
        row.first("th").text: [cell.text for cell in row.all("td")] for row in rows if row.all("th")
    }
    assert told[said["policy.epsilon_caps_per_model"]][0] == "another: 2 preference-model: 9"
    by_purpose = told[said["policy.epsilon_caps_per_purpose"]][0]
    assert purpose in by_purpose.lower()
    assert by_purpose.endswith(": 8.5")


@pytest.mark.parametrize(
    ("lang", "seals"), [("en", "sealed updates: 90 d"), ("zh", "已封存的更新: 90 天")]
)
def test_bounds_on_what_runs_and_leaves_are_told(lang: str, seals: str, tmp_path: Path) -> None:
    bound = {"name": "popularity", "dtype": "<f4", "shape_max": [200, 3]}

    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-policy/1" and party == R1:
            record["policy"] |= {
                "app_bundles": ["a1" * 32, "b2" * 32],
                "catalogues": ["c3" * 32],
                "arrays": [bound, {**bound, "name": "factor_gradient"}],
                "retention_days": {"seals": 90},
                "epsilon_max_per_run": "3",
            }
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    facts = read_facts(Federation(alter=alter).run().write(tmp_path))
    rows = section(parse_anew(render_report(facts, lang=lang)), "policies").all("tr")
    said = messages(lang)
    told = {
        row.first("th").text: row.all("td")[0].text
        for row in rows
        if row.all("th")
        if row.all("td")
    }
    assert told[said["policy.app_bundles"]] == f"{'a1' * 8} {'b2' * 8}"
    assert told[said["policy.catalogues"]] == "c3" * 8
    assert told[said["policy.arrays"]] == "popularity <f4 200 × 3 factor_gradient <f4 200 × 3"
    assert told[said["policy.retention_days"]] == seals
    assert told[said["policy.epsilon_max_per_run"]] == "3"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arrays", ["popularity"]),
        ("arrays", [{"name": "popularity"}]),
        ("app_bundles", [5]),
        ("retention_days", {"seals": "x" * 9}),
    ],
)
def test_a_malformed_bound_is_shown_as_it_is_and_breaks_no_page(
    name: str, value: object, tmp_path: Path
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-policy/1" and party == R1:
            record["policy"][name] = value
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()

    facts = read_facts(Federation(alter=alter).run().write(tmp_path))
    assert not facts.verdict.verified
    page = parse_anew(render_report(facts, lang="en"))
    assert messages("en")[f"policy.{name}"] in section(page, "policies").text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> ReportFacts:
    """A bundle that verifies, with hostile text wherever a record may have text."""

    def alter(_party: str, record: JsonRecord) -> None:
        kind = record["v"]
        if kind == "fedpref-notice/1":
            for name in ("notice_id", "lang", "controller", "recipients", "retention"):
                record[name] = f"{name} {HOSTILE}"
            record |= {"storage": HOSTILE, "contact": HOSTILE, "text": f"one\n{HOSTILE}\n" * 3}
            record["purposes"] = [HOSTILE]
        elif kind == "fedpref-consent/1":
            for name in ("method", "legal_basis", "jurisdiction", "controller", "withdrawal"):
                record[name] = f"{name} {HOSTILE}"
            record["notice"]["id"] = f"notice_id {HOSTILE}"
        elif kind == "fedpref-policy/1":
            record["policy"]["more"] = [HOSTILE]
            model = HOSTILE.encode("ascii", "ignore").decode()
            record["policy"]["epsilon_caps_per_model"] = {"preference-model": "9", model: "1"}
            record["policy"][HOSTILE.encode("ascii", "ignore").decode()] = HOSTILE
            encoded = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(encoded).hexdigest()
        elif kind == "fedpref-incident/1":
            record["detail"] = HOSTILE * 50

    federation = Federation(alter=alter)
    federation.keys["<b>\u202ewho", "witness"] = MemorySigner("hostile witness")
    federation.run()
    federation.incident(R1, 1, "made-up-reason")
    return read_facts(federation.write(tmp_path_factory.mktemp("hostile")))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_hostile_text_stays_text(hostile: ReportFacts, lang: str) -> None:
    assert hostile.verdict.verified, hostile.verdict.failures
    html = render_report(hostile, lang=lang)
    page = parse_page(html)
    assert not {element.tag for element in page.walk()} & {"script", "img"}
    assert "alert(1)" in page.text
    assert "{{7*7}}{0}%s" in page.text
    assert "49" not in re.findall(r"\{?(\d+)\}?\{0\}%s", page.text)
    body = html.partition("</head>")[2]
    assert [c for c in body if not c.isprintable() and c not in "\n\u00a0"] == []
    assert "⟨U+202E⟩" in page.text
    assert "⟨U+0007⟩" in page.text
    assert "<b>⟨U+202E⟩who" in section(page, "keys").text
    assert "made-up-reason" in section(page, "incidents").text


def test_long_tables_end_with_how_much_is_left_out(tmp_path: Path) -> None:
    federation = Federation(customers=4 * (MAX_ROWS + 5)).run()
    report = read_facts(federation.write(tmp_path))
    (first, _) = report.withdrawals
    assert len(first.items) == MAX_ROWS + 5
    page = parse_page(render_report(report))
    listing = section(page, "withdrawals").all("details")[0]
    assert len(listing.first("table").rows()) == MAX_ROWS + 1
    assert "… and 5 more." in listing.text
    assert f"{len(first.items)} " in section(page, "withdrawals").first("table").text


def test_a_lie_about_epsilon_is_shown_as_one(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if party == R1 and record["v"] == "fedpref-charge/1":
            record["epsilon_run"] = "0.1"

    report = read_facts(Federation(alter=alter).run().write(tmp_path))
    run = report.budgets[0]
    assert (run.stated, run.recomputed) != ("0.1", "0.1")
    page = parse_page(render_report(report))
    assert "ε is stated too low" in section(page, "verdict").text
    assert "broken" in pages_of_trust(page, "budget")
    assert "0.1" in section(page, "budget").first("table").rows()[1]


def pages_of_trust(page: Element, name: str) -> set[str]:
    (trust,) = (each for each in section(page, name).walk() if "trust" in each.classes)
    return trust.classes


def test_a_log_that_is_gone_is_told_of_without_a_traceback(
    honest: Federation, tmp_path: Path
) -> None:
    federation = honest.copy()
    files = {
        name: data
        for name, data in federation.bundle_files().items()
        if not name.startswith(f"logs/{R2}/")
    }
    report = read_facts(federation.write(tmp_path, files))
    assert not report.verdict.verified
    for lang in LANGUAGES:
        page = parse_page(render_report(report, lang=lang))
        assert R2 in section(page, "verdict").text
        assert [row[0] for row in section(page, "federation").first("table").rows()[1:]][:3] == [
            R1,
            R2,
            SERVER,
        ]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 300])
@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "plan.json",
        "registry/1.json",
        f"logs/{R1}/checkpoint",
        f"logs/{R1}/tile/entries/000.p/",
    ],
)
def test_whatever_is_broken_there_is_a_report(
    honest: Federation, tmp_path: Path, name: str, damage: bytes
) -> None:
    run = honest.write(tmp_path)
    (path,) = (run / "bundle").glob(f"{name}*" if name.endswith("/") else name)
    path.write_bytes(damage)
    report = read_facts(run)
    assert not report.verdict.verified
    for lang in LANGUAGES:
        page = parse_page(render_report(report, lang=lang))
        assert messages(lang)["verdict.word.bad"] == section(page, "verdict").first("h2").text
