"""The operator's page: signed in by the token, nobody else; what it shows is what is answered."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response

import client.recommend
from client.recommend.settings import RecommendSettings
from client.recommend.try_page import COOKIE, TOLD, Looking
from client.recommend.try_view import FURTHEST
from client.recommend.types import EVENT_KINDS, NOT_PERSONAL, REASON_CODES
from client.web.language import DEFAULT, LANGUAGES
from common.errors import StorageError
from tests.support.html_page import parse_page
from tests.support.recommender_service import TOKEN, URL, RecommenderService

FOLDER = Path(client.recommend.__file__).parent
CATALOGUES = {
    lang: json.loads((FOLDER / "locales" / f"{lang}.json").read_text(encoding="utf-8"))
    for lang in LANGUAGES
}


BOUGHT_BEFORE = '<span class="reason">bought before</span>'


def test_what_the_page_asks_for_is_no_exposure() -> None:
    assert Looking(customer="ada").query().dry


class Operator:
    """A browser without scripts, in the operator's hands."""

    def __init__(self, service: RecommenderService, *, lang: str = "en") -> None:
        self.http = TestClient(
            service.app(try_page=True),
            base_url=URL,
            headers={"Accept": "text/html", "Accept-Language": lang},
            raise_server_exceptions=False,
        )

    def post(self, path: str, origin: str | None = URL, **data: str) -> Response:
        headers = {} if origin is None else {"Origin": origin}
        return self.http.post(f"/try{path}", data=data, headers=headers)

    def sign_in(self, token: str = TOKEN, origin: str | None = URL) -> Response:
        return self.post("/sign-in", origin, token=token)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]*)"', self.http.get("/try").text)
        return found[1] if found else ""

    def submit(self, path: str, **data: str) -> Response:
        return self.post(path, csrf=self.csrf, **data)


@pytest.fixture
def service() -> RecommenderService:
    return RecommenderService()


@pytest.fixture
def operator(service: RecommenderService) -> Operator:
    made = Operator(service)
    assert made.sign_in().is_success
    return made


def items_of(page: Response) -> list[str]:
    rows = parse_page(page.text).all("li")
    return [
        code.text
        for row in rows
        if "row" in (row.attributes.get("class") or "").split()
        for code in row.all("span")
        if code.attributes.get("class") == "code"
    ]


# Who may look


def test_nobody_sees_anything_without_the_token(service: RecommenderService) -> None:
    stranger = Operator(service)
    assert "ada" not in stranger.http.get("/try").text
    refused = stranger.sign_in("wrong")
    assert refused.status_code == 401
    assert COOKIE not in refused.cookies
    for path in ("/look", "/event", "/sign-out"):
        assert stranger.post(path, customer="ada").status_code == 401
    assert service.recommender.events == []


def test_the_token_as_a_bearer_is_no_session(service: RecommenderService) -> None:
    page = service.http(try_page=True).get("/try", headers={"Accept": "text/html"})
    assert "ada" not in page.text


def test_a_session_is_no_token_for_the_api(operator: Operator) -> None:
    assert operator.http.post("/api/v1/history", json={"customer": "ada"}).status_code == 401


def test_signing_in_makes_a_strict_session_and_signing_out_ends_it(operator: Operator) -> None:
    cookie = operator.sign_in().history[0].headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/try" in cookie
    kept = operator.http.cookies[COOKIE]
    operator.submit("/sign-out")
    operator.http.cookies.set(COOKIE, kept)
    assert "ada" not in operator.http.get("/try").text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_another_sites_form_does_nothing(
    operator: Operator, service: RecommenderService, origin: str | None
) -> None:
    csrf = operator.csrf
    assert operator.sign_in(origin=origin).status_code == 403
    for path in ("/look", "/event", "/sign-out"):
        answer = operator.post(path, origin, csrf=csrf, customer="ada", kind="abandon")
        assert answer.status_code == 403
    assert "ada" in operator.http.get("/try").text


def test_a_form_of_another_session_does_nothing(
    operator: Operator, service: RecommenderService
) -> None:
    other = Operator(service)
    other.sign_in()
    assert operator.post("/look", csrf=other.csrf, customer="ada").status_code == 403
    assert operator.post("/look", customer="ada").status_code == 403


# What it shows


def test_a_customer_her_list_and_her_history(operator: Operator) -> None:
    page = operator.submit("/look", customer="ada", k="5")
    text = parse_page(page.text).text
    assert page.url.path == "/try"
    assert "For ada" in text
    assert "Personal: made of her own history" in text
    assert items_of(page) == ["item-004", "item-008", "item-000", "item-012", "item-016"]
    assert BOUGHT_BEFORE in page.text
    assert "like bakery 0" in text
    assert "14 November 2023" in text


def test_no_reference_of_a_customer_is_in_an_address(operator: Operator) -> None:
    page = operator.submit("/look", customer="ada")
    assert [str(step.url) for step in (*page.history, page)] == [f"{URL}/try/look", f"{URL}/try"]
    links = re.findall(r'(?:href|action|src)="([^"]*)"', page.text)
    assert links
    assert not [link for link in links if "ada" in link]


@pytest.mark.parametrize(
    ("customer", "why"),
    [("", "nobody was named"), ("stranger", "does not know"), ("new", "no purchase")],
)
def test_who_gets_no_personal_list_is_told_why(operator: Operator, customer: str, why: str) -> None:
    page = operator.submit("/look", customer=customer)
    assert why in page.text
    assert len(items_of(page)) == 10


def test_a_withdrawal_shows_on_the_next_page(
    operator: Operator, service: RecommenderService
) -> None:
    operator.submit("/look", customer="ada")
    service.recommender.consenting.discard("ada")
    page = operator.http.get("/try")
    assert "no consent for recommendations stands" in page.text
    assert "14 November 2023" not in page.text
    assert BOUGHT_BEFORE not in page.text
    added = operator.submit("/event", kind="view", item="item-003")
    assert "not kept: no consent" in added.text


def test_an_event_moves_the_list_and_the_page_says_how(operator: Operator) -> None:
    before = items_of(operator.submit("/look", customer="ada"))
    page = operator.submit("/event", kind="view", item="item-003")
    after = items_of(page)
    assert after != before
    assert after.index("item-003") < 3
    text = parse_page(page.text).text
    assert "The list moved." in text
    assert "after viewing phones 3" in text
    gone = set(before) - set(after)
    assert gone
    for item in gone:
        assert item in text.partition("Gone from the list:")[2]
    assert page.text.count("is-new") == len(set(after) - set(before))
    for item in set(after) & set(before):
        moved = before.index(item) - after.index(item)
        row = page.text.partition(f'<span class="code">{item}</span>')[0].rpartition("<li ")[2]
        assert f"from-{max(-FURTHEST, min(FURTHEST, moved))}" in row, item
    # Looked at again, it stands still.
    assert "The list is as it was." in operator.http.get("/try").text


def test_another_customers_list_does_not_move(operator: Operator) -> None:
    operator.submit("/look", customer="ada")
    page = operator.submit("/look", customer="bo")
    assert "The list moved" not in page.text
    assert "is-new" not in page.text


def test_scene_places_and_filters_stay_chosen(operator: Operator) -> None:
    page = operator.submit(
        "/look",
        customer="ada",
        daypart="evening",
        weekday="6",
        new_only="1",
        diversity="0.5",
        k="20",
    )
    options = parse_page(page.text).all("option")
    chosen = [o.attributes["value"] for o in options if "selected" in o.attributes]
    assert chosen == ["evening", "6", "20", "0.5"]
    assert "item-004" not in items_of(page)
    assert len(items_of(page)) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"daypart": "teatime"},
        {"weekday": "7"},
        {"weekday": "x"},
        {"store_type": "kiosk"},
        {"diversity": "2"},
        {"k": "9999"},
        {"k": "-1"},
    ],
    ids=str,
)
def test_what_the_form_does_not_offer_counts_as_not_chosen(
    operator: Operator, wrong: dict[str, str]
) -> None:
    page = operator.submit("/look", customer="ada", **wrong)
    assert page.status_code == 200
    assert len(items_of(page)) == 10


def test_a_reference_that_is_none_is_told(operator: Operator) -> None:
    for customer in ("x" * 300, "a\x00b"):
        page = operator.submit("/look", customer=customer)
        assert page.status_code == 200
        assert "printable text of at most 256 bytes" in page.text
        assert 'role="alert"' not in operator.http.get("/try").text


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"kind": "view", "item": "nothing"}, "no such item"),
        ({"kind": "search", "category": "nothing"}, "no such item"),
        ({"kind": "view"}, "does not say what happened"),
        ({"kind": "stare", "item": "item-001"}, "does not say what happened"),
    ],
    ids=str,
)
def test_an_event_that_is_none_is_told(
    operator: Operator, service: RecommenderService, event: dict[str, str], told: str
) -> None:
    operator.submit("/look", customer="ada")
    page = operator.submit("/event", **event)
    assert page.status_code == 200
    assert told in page.text
    assert service.recommender.events == []


def test_an_event_of_nobody_is_told(operator: Operator) -> None:
    assert "does not say what happened" in operator.submit("/event", kind="abandon").text


def test_references_are_shown_as_text(service: RecommenderService) -> None:
    name = "<script>alert(1)</script>\"'"
    service.recommender.histories[name] = [("item-001", 1)]
    service.recommender.consenting.add(name)
    operator = Operator(service)
    operator.sign_in()
    page = operator.submit("/look", customer=name).text
    assert "<script" not in page
    assert name in parse_page(page).text


def test_pages_have_no_script_and_no_inline_style(operator: Operator) -> None:
    operator.submit("/look", customer="ada")
    page = operator.submit("/event", kind="view", item="item-003").text
    for forbidden in ("<script", "<style", " style=", " onclick", "javascript:", "https://"):
        assert forbidden not in page


def test_a_failure_is_a_page_for_people(operator: Operator, service: RecommenderService) -> None:
    service.recommender.failure = StorageError("secret")
    page = operator.http.get("/try")
    assert page.status_code == 503
    assert "Nothing can be recommended at present." in page.text
    assert "secret" not in page.text


# Words


def test_the_language_is_the_browsers_till_another_is_chosen(service: RecommenderService) -> None:
    operator = Operator(service, lang="zh")
    assert "试用推荐器" in operator.http.get("/try").text
    assert "Try the recommender" in operator.http.get("/try?lang=en").text
    assert "Try the recommender" in operator.http.get("/try").text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_all_catalogues_have_the_same_keys_and_values_to_fill_in(lang: str) -> None:
    here, there = CATALOGUES[lang], CATALOGUES[DEFAULT]
    assert list(here) == list(there)
    for key, text in here.items():
        assert text.strip() == text != "", key
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name}
        assert fields == {n for _, n, _, _ in string.Formatter().parse(there[key]) if n}, key


def test_every_message_is_used_and_every_used_one_is_there() -> None:
    sources = [*FOLDER.glob("templates/*.j2"), *FOLDER.glob("try_*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r"""\bt\(\s*["']([^"']+)["']\s*[,)]""", text))
    about = {key for key in CATALOGUES[DEFAULT] if key.endswith(".about")}
    composed = {
        *(f"problem.{code}{end}" for code in TOLD for end in ("", ".text")),
        *(f"why.{code}" for code in NOT_PERSONAL),
        *(f"reason.{code}" for code in REASON_CODES),
        *(f"kind.{kind}" for kind in EVENT_KINDS),
        *(f"weekday.{day}" for day in range(7)),
        *(f"diversity.{each}" for each in ("0", "0.25", "0.5", "1")),
        *(f"daypart.{name}" for name in RecommendSettings().scenes.dayparts),
        *about,
    }
    assert {key.removesuffix(".about") for key in about} <= {f"reason.{c}" for c in REASON_CODES}
    assert named | composed == set(CATALOGUES[DEFAULT])


def test_no_page_has_words_of_its_own() -> None:
    for path in FOLDER.glob("templates/*.j2"):
        source = path.read_text(encoding="utf-8")
        text = re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", source, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{2,}", text) == [], path.name


def test_every_move_has_its_rule_of_style() -> None:
    style = (FOLDER / "static" / "try.css").read_text(encoding="utf-8")
    for places in range(-FURTHEST, FURTHEST + 1):
        if places:
            assert f".from-{places} {{ --from: {places}; }}" in style
