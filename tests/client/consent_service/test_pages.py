"""The pages as a browser without scripts gets them; each defence with its attack."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from client.consent_service import visitor as visitor_module
from client.consent_service.demo_issuer import DemoIssuer
from client.web.sessions import Session, Sessions
from common import canonical_json
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING, RECOMMENDATIONS
from tests.support.consent_service import URL, Service, Visit
from tests.support.html_page import parse_page

_numbers = itertools.count()
Enter = Callable[..., Visit]


@pytest.fixture
def enter(service: Service) -> Iterator[Enter]:
    opened: list[Visit] = []

    def log_in(name: str | None = None, *, lang: str = "en", **claims: bool) -> Visit:
        visit = Visit(service.app(), lang=lang)
        reference = name or f"page-customer-{next(_numbers)}"
        assert visit.log_in(service.issuer.token(reference, **claims)).status_code == 200
        opened.append(visit)
        return visit

    yield log_in
    for visit in opened:
        visit.http.close()


def text_of(visit: Visit, path: str = "/") -> str:
    answer = visit.http.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return parse_page(answer.text).text


# What a customer does


def test_nothing_is_ticked_and_both_answers_look_alike(enter: Enter) -> None:
    page = parse_page(enter().http.get("/").text)
    boxes = [box for box in page.all("input") if box.attributes["type"] == "checkbox"]
    assert [box.attributes["value"] for box in boxes] == [
        FEDERATED_TRAINING,
        RECOMMENDATIONS,
        FEDERATED_ANALYTICS,
    ]
    assert not any("checked" in box.attributes for box in boxes)
    assert not any("required" in box.attributes for box in boxes)
    agree, refuse = (
        button for button in page.all("button") if button.attributes.get("name") == "action"
    )
    assert agree.classes == refuse.classes == set()


def test_give_then_withdraw_each_with_one_button(enter: Enter, service: Service) -> None:
    visit = enter("one-button")
    given = visit.give()
    assert service.opened.registrar.consents("one-button")
    assert "Your choice is recorded." in text_of(visit, f"/receipts/{given}?new=1")
    buttons = {
        button.attributes["value"]: button
        for button in parse_page(visit.http.get("/").text).all("button")
        if button.attributes.get("name") == "action"
    }
    assert set(buttons) == {
        f"drop {FEDERATED_TRAINING}",
        f"drop {RECOMMENDATIONS}",
        f"add {FEDERATED_ANALYTICS}",
        "withdraw",
    }
    assert {frozenset(button.classes) for button in buttons.values()} == {frozenset()}
    visit.receipt_of(visit.choose("withdraw"))
    assert not service.opened.registrar.consents("one-button")
    assert "You withdrew your consent." in text_of(visit)


def test_purpose_by_purpose(enter: Enter, service: Service) -> None:
    visit = enter("purposes")
    visit.give(RECOMMENDATIONS)
    assert service.desk.position("purposes", "en").granted == {RECOMMENDATIONS}
    visit.receipt_of(visit.choose(f"add {FEDERATED_TRAINING}"))
    assert service.desk.position("purposes", "en").granted == {
        FEDERATED_TRAINING,
        RECOMMENDATIONS,
    }
    visit.receipt_of(visit.choose(f"drop {FEDERATED_TRAINING}"))
    assert service.desk.position("purposes", "en").granted == {RECOMMENDATIONS}
    visit.receipt_of(visit.choose(f"drop {RECOMMENDATIONS}"))
    assert "You withdrew" in text_of(visit)


def test_refusing_is_recorded_too(enter: Enter) -> None:
    visit = enter()
    visit.receipt_of(visit.choose("refuse"))
    assert "You refused." in text_of(visit)


def test_agreeing_to_nothing_is_no_consent(enter: Enter, service: Service) -> None:
    visit, size = enter(), service.opened.log.size
    answer = visit.choose("agree")
    assert answer.status_code == 422
    assert "Nothing is ticked" in parse_page(answer.text).text
    assert service.opened.log.size == size


def test_the_history_and_the_receipt_are_shown_and_downloaded(
    enter: Enter, service: Service
) -> None:
    visit = enter("looks-back")
    assert "There is no choice yet." in text_of(visit, "/history")
    given = visit.give()
    gone = visit.receipt_of(visit.choose("withdraw"))
    receipt = text_of(visit, f"/receipts/{gone}")
    assert "from the next round at the latest" in receipt
    service.log_round("run-p", 7, service.opened.log.size)
    assert "Round 7 of the training “run-p” was the first" in text_of(visit, f"/receipts/{gone}")
    assert "A later choice of yours" in text_of(visit, f"/receipts/{given}")
    history = text_of(visit, "/history")
    assert history.index("Withdrawn") < history.index("Agreed")
    assert "First round without you 7 (run-p)" in history
    file = visit.http.get(f"/receipts/{gone}/file")
    assert file.headers["content-disposition"] == f'attachment; filename="receipt-{gone}.json"'
    record = canonical_json.decode(file.content, max_bytes=1 << 20)
    assert isinstance(record, dict)
    assert record["v"] == "fedpref-receipt/1"
    assert record["first_excluded"] == {
        "run": "run-p",
        "round": 7,
        "consent_size": service.opened.log.size - 1,
    }


def test_a_minor_is_offered_refusing_and_a_guardian_the_rest(enter: Enter) -> None:
    minor = enter("a-child", minor=True)
    page = parse_page(minor.http.get("/").text)
    assert "a parent or guardian has to agree" in page.text
    assert not [box for box in page.all("input") if box.attributes["type"] == "checkbox"]
    answer = minor.choose("agree", FEDERATED_TRAINING)
    assert answer.status_code == 403
    assert "A parent or guardian has to agree" in parse_page(answer.text).text
    guardian = enter("a-child", minor=True, guardian=True)
    assert "You act as the guardian" in text_of(guardian)
    guardian.give(FEDERATED_TRAINING)
    page = parse_page(minor.http.get("/").text)
    actions = {button.attributes.get("value") for button in page.all("button")}
    assert f"drop {FEDERATED_TRAINING}" in actions
    assert not any(str(action).startswith("add") for action in actions)
    minor.receipt_of(minor.choose("withdraw"))


def test_a_page_that_is_out_of_date_shows_what_is(enter: Enter) -> None:
    visit = enter()
    visit.give()
    before = visit.form()
    visit.receipt_of(visit.choose("withdraw"))
    answer = visit.choose("agree", RECOMMENDATIONS, based_on=before["based_on"])
    assert answer.status_code == 409
    assert "Your choices were changed meanwhile" in parse_page(answer.text).text
    answer = visit.choose("agree", RECOMMENDATIONS, notice="0" * 64)
    assert (answer.status_code, "The notice was replaced" in answer.text) == (409, True)


@pytest.mark.parametrize("action", ["", "other", "add", "drop", "add dpv:Marketing", "agree x"])
def test_actions_that_no_button_has_change_nothing(
    enter: Enter, service: Service, action: str
) -> None:
    visit = enter()
    visit.give(RECOMMENDATIONS)
    size = service.opened.log.size
    assert visit.choose(action).status_code in {403, 409, 422}
    assert service.opened.log.size == size


def test_chinese_by_the_browser_and_by_choice(enter: Enter) -> None:
    chinese = enter(lang="zh-CN,zh;q=0.9,en;q=0.8")
    page = parse_page(chinese.http.get("/").text)
    assert page.first("html").attributes["lang"] == "zh"
    assert "您的购买记录用于什么" in page.text
    assert "pn-1-zh" in page.text
    switched = chinese.http.get("/?lang=en")
    assert parse_page(switched.text).first("html").attributes["lang"] == "en"
    assert "You decide" in text_of(chinese)
    assert "中文" in text_of(chinese)
    record = canonical_json.decode(
        chinese.http.get(f"/receipts/{chinese.give()}/file?lang=zh").content, max_bytes=1 << 20
    )
    assert isinstance(record, dict)
    assert record["lang"] == "zh"


# Signing in


def test_the_welcome_page_needs_nobody(service: Service) -> None:
    visit = Visit(service.app())
    page = text_of(visit)
    assert "Sign in to give" in page
    assert "privacy@shop.example" in page
    for path in ("/history", "/receipts/01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"):
        answer = visit.http.get(path)
        assert answer.status_code == 401
        assert "You are not signed in" in answer.text


def test_a_login_token_is_exchanged_once(service: Service) -> None:
    app, token = service.app(), service.issuer.token("exchanged")
    first, second = Visit(app), Visit(app)
    assert first.log_in(token).status_code == 200
    replayed = second.log_in(token)
    assert replayed.status_code == 401
    assert "set-cookie" not in replayed.headers
    assert "Sign in to give" in text_of(second)
    form = Visit(app)
    answer = form.http.post(
        "/login",
        data={"token": service.issuer.token("exchanged")},
        headers={"Origin": "https://shop.example"},
    )
    assert answer.status_code == 200
    assert "exchanged" in text_of(form)


def test_foreign_and_expired_tokens_sign_nobody_in(service: Service) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    visit = Visit(service.app())
    stranger = DemoIssuer(Ed25519PrivateKey.generate())
    for token in (
        stranger.token("a"),
        service.issuer.token("a", audience="urn:other"),
        service.issuer.token("a", now_s=1_000_000_000),
        "",
        "x" * 9000,
    ):
        answer = visit.log_in(token)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert token == "" or token not in answer.text


def test_a_session_id_from_before_the_login_is_worth_nothing(service: Service) -> None:
    """Session fixation: the attacker knows the id that the victim's browser had."""
    app = service.app()
    victim, attacker = Visit(app), Visit(app)
    planted = "an-id-that-the-attacker-chose"
    victim.http.cookies.set("fedpref", planted, domain="127.0.0.1")
    victim.log_in(service.issuer.token("victim"))
    issued = victim.http.cookies.get("fedpref", domain="127.0.0.1")
    attacker.http.cookies.set("fedpref", planted, domain="127.0.0.1")
    assert attacker.http.get("/history").status_code == 401
    # A session that was known does not live on either.
    known = Visit(app)
    known.log_in(service.issuer.token("attacker"))
    old = known.http.cookies["fedpref"]
    known.log_in(service.issuer.token("victim"))
    assert known.http.cookies["fedpref"] not in {old, issued, planted}
    attacker.http.cookies.clear()
    attacker.http.cookies.set("fedpref", old, domain="127.0.0.1")
    assert attacker.http.get("/history").status_code == 401


def test_signing_out_ends_the_session(enter: Enter) -> None:
    visit = enter()
    cookie, form = visit.http.cookies["fedpref"], visit.form()
    assert (
        visit.http.post("/logout", data={"csrf": "x"}, headers=visit.own_origin).status_code == 403
    )
    answer = visit.http.post("/logout", data={"csrf": form["csrf"]}, headers=visit.own_origin)
    assert answer.status_code == 200
    assert "You are signed out" in answer.text
    visit.http.cookies.set("fedpref", cookie, domain="127.0.0.1")
    assert visit.http.get("/history").status_code == 401


def test_the_session_cookie_is_for_this_site_and_not_for_scripts(service: Service) -> None:
    visit = Visit(service.app())
    header = visit.log_in(service.issuer.token("cookie")).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=900"} <= set(header.split("; "))
    assert "Secure" not in header
    https = "https://consent.shop.example"
    secure = Visit(service.app(url=https), url=https)
    header = secure.log_in(service.issuer.token("cookie")).headers["set-cookie"]
    assert header.startswith("__Host-fedpref=")
    assert "Secure" in header
    assert "Domain" not in header


def test_a_session_ends_by_itself(service: Service) -> None:
    clock = [0.0]
    sessions = Sessions(lifetime_s=900, idle_s=300, limit=10, clock_s=lambda: clock[0])
    visit = Visit(service.app(sessions=sessions))
    visit.log_in(service.issuer.token("sleepy"))
    for clock[0] in (299, 598, 897):
        assert visit.http.get("/history").status_code == 200
    clock[0] = 900
    assert visit.http.get("/history").status_code == 401
    visit.log_in(service.issuer.token("sleepy"))
    clock[0] = 1200
    assert visit.http.get("/history").status_code == 401


# Requests forged by other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{URL}.evil.example"},
        {"Origin": ""},
        {"Referer": "https://evil.example/" + URL},
        {},
    ],
)
def test_a_form_of_another_site_changes_nothing(
    enter: Enter, service: Service, headers: dict[str, str]
) -> None:
    visit = enter()
    form, size = visit.form(), service.opened.log.size
    data = {**form, "action": "agree", "purpose": FEDERATED_TRAINING}
    answer = visit.http.post("/choices", data=data, headers=headers)
    assert answer.status_code == 403
    assert "This did not come from this page" in answer.text
    assert service.opened.log.size == size
    kept = visit.http.post("/choices", data=data, headers={"Referer": f"{URL}/"})
    visit.receipt_of(kept)


@pytest.mark.parametrize("csrf", ["", "x", "é"])
def test_a_form_without_this_sessions_secret_changes_nothing(
    enter: Enter, service: Service, csrf: str
) -> None:
    visit, other = enter(), enter()
    size = service.opened.log.size
    for forged in (csrf, other.form()["csrf"]):
        answer = visit.choose("agree", FEDERATED_TRAINING, csrf=forged)
        assert answer.status_code == 403
        assert "This page is out of date" in answer.text
    assert service.opened.log.size == size


def test_without_the_secret_and_the_origin_a_forged_form_gives_consent(
    enter: Enter, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack that the two defences stop: shown by taking both away, one after the other."""
    visit = enter("forged")
    form = visit.form()

    def attack() -> int:
        data = {"action": "agree", "purpose": FEDERATED_TRAINING, "notice": form["notice"]}
        return visit.http.post(
            "/choices", data=data, headers={"Origin": "https://evil.example"}
        ).status_code

    assert attack() == 403
    with monkeypatch.context() as without:
        without.setattr(visitor_module, "check_origin", lambda *_: None)
        assert attack() == 403
    with monkeypatch.context() as without:
        without.setattr(Session, "accepts", lambda *_: True)
        assert attack() == 403
        without.setattr(visitor_module, "check_origin", lambda *_: None)
        assert attack() == 303
    assert service.opened.registrar.consents("forged")


# Never another customer's data


def test_no_route_shows_another_customers_data(enter: Enter, service: Service) -> None:
    """Every route, asked by a customer who knows all ids of another one."""
    secret = "the-other-customer"
    other = enter(secret)
    given = other.give()
    gone = other.receipt_of(other.choose("withdraw"))
    me = enter()
    mine = me.give()
    routes = [
        "/",
        "/history",
        *(f"/receipts/{each}{end}" for each in (given, gone) for end in ("", "/file", "?new=1")),
        f"/?customer_ref={secret}&sub={secret}",
        f"/history?customer_ref={secret}",
        "/login",
        f"/receipts/{mine}/../{gone}",
        "/openapi.json",
        "/static/consent.css",
    ]
    for route in routes:
        answer = me.http.get(route, headers={"X-Customer": secret})
        for trace in (given, gone, secret):
            assert trace not in answer.text.replace(route, ""), route
        if "/receipts/" in route:
            assert answer.status_code == 404, route
    # Nor does choosing touch another's records, whatever the form says.
    before = service.desk.history(secret)
    me.choose("withdraw", based_on=gone, customer_ref=secret)
    assert service.desk.history(secret) == before
    missing = me.http.get("/receipts/01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B")
    foreign = me.http.get(f"/receipts/{given}")
    assert (missing.status_code, missing.text) == (foreign.status_code, foreign.text)


def test_a_reference_is_shown_as_text(service: Service) -> None:
    visit = Visit(service.app())
    visit.log_in(service.issuer.token("<script>alert(1)</script>\"'"))
    page = visit.http.get("/").text
    assert "<script" not in page
    assert "<script>alert(1)</script>\"'" in parse_page(page).text


def test_hidden_fields_cover_every_form(enter: Enter) -> None:
    visit = enter()
    visit.give()
    for path in ("/", "/history"):
        for form in parse_page(visit.http.get(path).text).all("form"):
            fields = {field.attributes.get("name") for field in form.all("input")}
            assert "csrf" in fields, form.attributes


def test_problems_are_pages_for_people_and_json_for_programs(service: Service) -> None:
    with TestClient(service.app(), base_url=URL) as http:
        answer = http.get("/history")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "not-signed-in"
    chinese = Visit(service.app(), lang="zh").http.get("/nowhere")
    assert chinese.status_code == 404
    assert "此处没有内容" in chinese.text
    assert re.search(r'<html lang="zh">', chinese.text)
    assert json.loads(json.dumps(dict(chinese.headers)))["vary"].startswith("Accept")


def test_sessions_are_compared_without_a_shortcut() -> None:
    session = Session(SimpleNamespace(), csrf="secret", ends_s=1, used_s=0)  # type: ignore[arg-type]
    assert session.accepts("secret")
    assert not session.accepts("secre")
    assert not session.accepts("\ud800")
    assert not replace(session, csrf="other").accepts("secret")
    assert Headers({"a": "b"})["a"] == "b"
