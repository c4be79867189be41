"""What holds on every route: headers, limits, hosts, and a log without personal data."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from client.consent_service.app import create_app
from common.consent import FEDERATED_TRAINING
from tests.support.consent_service import URL, Service, Visit

ROUTES = [
    "/",
    "/history",
    "/login",
    "/nowhere",
    "/openapi.json",
    "/api/v1/notice",
    "/api/v1/choices",
]


def client(service: Service, **limits: int) -> TestClient:
    return TestClient(service.app(**limits), base_url=URL, raise_server_exceptions=False)


@pytest.mark.parametrize("route", [*ROUTES, "/static/consent.css", "/static/nothing.css"])
def test_strict_headers_are_on_every_answer(service: Service, route: str) -> None:
    with client(service) as http:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "TRACE"):
            headers = http.request(method, route).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "script-src" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert "strict-transport-security" not in headers
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers
        cached = route == "/static/consent.css"
        expected = "public, max-age=3600" if cached else "no-store"
        assert http.get(route).headers["cache-control"] == expected


def test_pages_have_no_script_and_no_inline_style(service: Service) -> None:
    visit = Visit(service.app())
    pages = [visit.http.get("/").text]
    visit.log_in(service.issuer.token("inline"))
    record_id = visit.give()
    pages += [visit.http.get(path).text for path in ("/", "/history", f"/receipts/{record_id}")]
    for page in pages:
        for forbidden in (
            "<script",
            "<style",
            " style=",
            " onclick",
            "javascript:",
            "http://",
            "https://",
        ):
            assert forbidden not in page


def test_strict_transport_security_is_the_operators_choice(service: Service) -> None:
    url = "https://consent.shop.example"
    settings = service.settings(url=url)
    told = settings.model_copy(
        update={"service": settings.service.model_copy(update={"hsts": True})}
    )
    app = create_app(told, service.desk, service.tokens(told))
    with TestClient(app, base_url=url) as http:
        assert "max-age=31536000" in http.get("/").headers["strict-transport-security"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:8421", "127.0.0.1.evil.org:8420", ""])
def test_another_host_name_finds_nothing(service: Service, host: str) -> None:
    """DNS rebinding: a foreign page's own name was made to lead here."""
    with client(service) as http:
        answer = http.get("/api/v1/notice", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "foreign-host")


def test_a_large_request_is_refused_before_it_is_read(service: Service) -> None:
    visit = Visit(service.app())
    visit.log_in(service.issuer.token("large"))
    answer = visit.choose("agree", FEDERATED_TRAINING, based_on="x" * 20_000)
    assert answer.status_code == 413

    def drip() -> object:
        for _ in range(40):
            yield b"x" * 1000

    for path in ("/api/v1/choices", "/login"):
        token = service.issuer.token("large")
        streamed = visit.http.post(
            path,
            content=drip(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/x-www-form-urlencoded"
                if path == "/login"
                else "application/json",
            },
        )
        assert streamed.status_code == 413, path
    announced = visit.http.post("/login", headers={"Content-Length": "20000"}, content=b"")
    assert announced.status_code == 413
    lying = visit.http.post("/login", headers={"Content-Length": "-1"}, content=b"")
    assert lying.status_code == 400


def test_too_many_forms_of_one_request_are_refused(service: Service) -> None:
    visit = Visit(service.app())
    visit.log_in(service.issuer.token("many-fields"))
    answer = visit.choose("agree", *[f"dpv:P{number}" for number in range(33)])
    assert answer.status_code == 422


def test_who_asks_too_often_has_to_wait(service: Service) -> None:
    with client(service, requests_per_minute=5) as http:
        answers = [http.get("/api/v1/notice") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["code"] == "too-many-requests"


def test_a_person_who_asks_too_often_gets_a_page(service: Service) -> None:
    visit = Visit(service.app(requests_per_minute=1), lang="zh")
    visit.http.get("/")
    answer = visit.http.get("/")
    assert answer.status_code == 429
    assert "操作过于频繁" in answer.text


def test_one_customers_limit_is_not_anothers(service: Service) -> None:
    app = service.app(reads_per_minute=3)
    mine, theirs = Visit(app), Visit(app)
    mine.log_in(service.issuer.token("eager"))
    theirs.log_in(service.issuer.token("calm"))
    assert [mine.http.get("/history").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert theirs.http.get("/history").status_code == 200
    # The same customer in another session, or by a token, is the same customer.
    again = Visit(app)
    again.log_in(service.issuer.token("eager"))
    assert again.http.get("/history").status_code == 429
    token = service.issuer.token("eager")
    answer = again.http.get("/api/v1/history", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 429


def test_choices_and_logins_have_limits_of_their_own(service: Service) -> None:
    visit = Visit(service.app(changes_per_hour=1, logins_per_minute=3))
    visit.log_in(service.issuer.token("undecided"))
    visit.give()
    visit.receipt_of(visit.choose("withdraw"))
    size = service.opened.log.size
    answer = visit.choose("agree", FEDERATED_TRAINING)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 60
    assert service.opened.log.size == size
    statuses = [visit.log_in("guess").status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert visit.log_in(service.issuer.token("undecided")).status_code == 429
    assert visit.http.get("/history").status_code == 200


def test_nobody_has_to_wait_for_their_withdrawal(service: Service) -> None:
    app = service.app(changes_per_hour=2)
    visit = Visit(app)
    visit.log_in(service.issuer.token("changeable"))
    for _ in range(2):
        visit.give()
        visit.receipt_of(visit.choose("withdraw"))
    size = service.opened.log.size
    assert visit.choose("agree", FEDERATED_TRAINING).status_code == 429
    # There is nothing to withdraw, and nothing is logged.
    assert visit.choose("withdraw").status_code == 409
    assert service.opened.log.size == size
    bearer = {"Authorization": f"Bearer {service.issuer.token('programmed')}"}
    with client(service, changes_per_hour=1) as http:
        notice = http.get("/api/v1/notice").json()["sha256"]
        body = {"purposes": {FEDERATED_TRAINING: True}, "notice_sha256": notice, "based_on": None}
        given = [
            http.post("/api/v1/choices", json=body, headers=bearer).status_code for _ in range(2)
        ]
        assert given == [201, 429]
        assert http.post("/api/v1/withdrawal", headers=bearer).status_code == 201


def test_guesses_of_bearer_tokens_are_limited_too(service: Service) -> None:
    with client(service, logins_per_minute=2) as http:
        headers = {"Authorization": "Bearer a.b.c"}
        statuses = [http.get("/api/v1/history", headers=headers).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


def test_the_log_names_no_customer_no_token_and_no_record(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedpref")
    visit = Visit(service.app())
    token = service.issuer.token("a-very-private-name")
    visit.log_in(token)
    record_id = visit.give()
    visit.http.get(f"/receipts/{record_id}")
    visit.http.get(f"/receipts/{record_id}/a-very-private-name")
    visit.http.get("/?q=a-very-private-name")
    lines = [entry.getMessage() for entry in caplog.records if entry.name.startswith("fedpref")]
    assert any(line.startswith("GET /login 200") for line in lines)
    assert any(line.startswith("GET /receipts/{record_id} 200") for line in lines)
    for trace in ("a-very-private-name", token, record_id, visit.http.cookies["fedpref"]):
        assert not any(trace in line for line in lines), trace
