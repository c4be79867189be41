"""The JSON API: what programs of the shop may ask, what they get, and what is refused."""

from __future__ import annotations

import math
import time

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from client.recommend import api
from client.recommend.problems import PROBLEMS
from client.recommend.types import (
    MAX_K,
    NOT_PERSONAL,
    REASON_CODES,
    RecommenderClosedError,
    RefreshRunningError,
)
from common.errors import FormatError, InputError, StorageError, VerificationError
from tests.support.fake_recommender import MODEL
from tests.support.recommender_service import TOKEN, URL, RecommenderService

RECOMMEND = "/api/v1/recommendations"
POSTS = {
    RECOMMEND: {"customer": "ada"},
    "/api/v1/similar": {"item": "item-001"},
    "/api/v1/also-bought": {"item": "item-001"},
    "/api/v1/events": {"customer": "ada", "kind": "view", "item": "item-003"},
    "/api/v1/history": {"customer": "ada"},
    "/api/v1/refresh": {},
}


@pytest.fixture
def service() -> RecommenderService:
    return RecommenderService()


@pytest.fixture
def http(service: RecommenderService) -> TestClient:
    return service.http()


def test_a_customer_gets_a_personal_list_with_reasons(http: TestClient) -> None:
    answer = http.post(RECOMMEND, json={"customer": "ada", "k": 3}).json()
    assert answer["personal"] is True
    assert answer["why_not_personal"] is None
    assert answer["model"] == MODEL
    assert [each["item"] for each in answer["items"]] == ["item-004", "item-008", "item-000"]
    assert answer["items"][0]["reasons"] == [
        {"code": "like", "about": "item-008"},
        {"code": "like", "about": "item-004"},
        {"code": "bought-before", "about": None},
        {"code": "popular", "about": None},
    ]


@pytest.mark.parametrize(
    ("customer", "why"),
    [(None, "no-customer"), ("stranger", "unknown-customer"), ("new", "no-history")],
)
def test_everybody_else_gets_the_same_form(
    http: TestClient, customer: str | None, why: str
) -> None:
    personal = http.post(RECOMMEND, json={"customer": "ada"}).json()
    answer = http.post(RECOMMEND, json={"customer": customer}).json()
    assert (answer["personal"], answer["why_not_personal"]) == (False, why)
    assert answer.keys() == personal.keys()
    assert len(answer["items"]) == len(personal["items"])
    assert answer["items"][0].keys() == personal["items"][0].keys()


def test_a_withdrawal_counts_from_the_next_request_on(
    http: TestClient, service: RecommenderService
) -> None:
    assert http.post(RECOMMEND, json={"customer": "ada"}).json()["personal"]
    service.recommender.consenting.discard("ada")
    assert http.post(RECOMMEND, json={"customer": "ada"}).json()["why_not_personal"] == "no-consent"
    assert http.post("/api/v1/history", json={"customer": "ada"}).json() == {"items": []}
    assert http.post("/api/v1/events", json=POSTS["/api/v1/events"]).json() == {"kept": False}


def test_a_live_event_counts_from_the_next_request_on(http: TestClient) -> None:
    def phones() -> int:
        items = http.post(RECOMMEND, json={"customer": "ada", "k": 10}).json()["items"]
        return sum(any(reason["code"] == "viewed" for reason in each["reasons"]) for each in items)

    assert phones() == 0
    assert http.post("/api/v1/events", json=POSTS["/api/v1/events"]).json() == {"kept": True}
    assert phones() > 0


def test_filters_are_passed_on(http: TestClient) -> None:
    body = {
        "customer": "ada",
        "k": 40,
        "exclude": ["item-000"],
        "in_stock": ["item-000", "item-004", "item-012"],
        "new_only": True,
        "diversity": 1,
        "scene": {"daypart": "evening", "weekday": 6},
    }
    items = http.post(RECOMMEND, json=body).json()["items"]
    assert [each["item"] for each in items] == ["item-012"]


def test_items_like_an_item_and_bought_with_it(http: TestClient) -> None:
    for path, code in (("/api/v1/similar", "like"), ("/api/v1/also-bought", "also-bought")):
        answer = http.post(path, json={"item": "item-001", "k": 2}).json()
        assert [each["item"] for each in answer["items"]] == ["item-005", "item-009"]
        assert answer["items"][0]["reasons"] == [{"code": code, "about": "item-001"}]
        unknown = http.post(path, json={"item": "nothing"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-item")


def test_what_is_served_is_told(http: TestClient, service: RecommenderService) -> None:
    model = http.get("/api/v1/model").json()
    assert model["model"] == MODEL
    assert model["region"] == "region-1"
    assert "evening" in model["dayparts"]
    assert http.post("/api/v1/refresh").json() == model
    assert service.recommender.refreshed == 1


# Who may ask


@pytest.mark.parametrize("path", [*POSTS, "/api/v1/model"])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], f"{TOKEN}x", "ü"])
def test_without_the_token_nothing_is_told(
    service: RecommenderService, path: str, token: str | None
) -> None:
    http = service.http(token=None)
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
    answer = (
        http.post(path, json=POSTS[path], headers=headers)
        if path in POSTS
        else http.get(path, headers=headers)
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "not-admitted")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert service.recommender.refreshed == 0
    assert service.recommender.events == []


def test_the_token_is_asked_for_before_anything_is_read(service: RecommenderService) -> None:
    for body in (b"", b"{", b'{"customer": 1}', b"\xff"):
        answer = service.http(token="wrong").post(RECOMMEND, content=body)
        assert answer.status_code == 401, body


def test_another_host_name_finds_nothing(service: RecommenderService) -> None:
    http = service.http(hosts=["Recommend.Shop.example"])
    assert http.get("/api/v1/model", headers={"Host": "evil.example"}).status_code == 421
    assert http.get("/api/v1/model", headers={"Host": "recommend.shop.example"}).is_success
    assert http.get("/healthz").text == "ok\n"


def test_readiness_tells_that_something_is_wrong_and_not_what(
    service: RecommenderService,
) -> None:
    http = service.http(token=None)
    assert (http.get("/readyz").status_code, http.get("/readyz").text) == (200, "ok\n")
    service.recommender.faults = ("The log secret.sqlite cannot be read.",)
    answer = http.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready\n")
    assert http.get("/healthz").is_success


# Bad input


@pytest.mark.parametrize(
    "body",
    [
        {"k": 0},
        {"k": -1},
        {"k": MAX_K + 1},
        {"k": "10"},
        {"k": 1.5},
        {"k": True},
        {"k": 10**30},
        {"customer": ""},
        {"customer": 7},
        {"customer": "a\x00b"},
        {"customer": "x" * 257},
        {"customer": "ü" * 200},
        {"customer": "ada", "unknown": 1},
        {"diversity": 1.01},
        {"diversity": -0.1},
        {"diversity": "much"},
        {"scene": {"weekday": 7}},
        {"scene": {"weekday": "1"}},
        {"scene": {"daypart": "teatime"}},
        {"scene": {"store_type": "kiosk"}},
        {"scene": {"moon": "full"}},
        {"scene": []},
        {"exclude": "item-001"},
        {"exclude": [""]},
        {"in_stock": [1]},
        {"new_only": "yes"},
        [],
        "text",
        None,
    ],
    ids=str,
)
def test_what_is_no_query_is_refused_without_repeating_it(http: TestClient, body: object) -> None:
    answer = http.post(RECOMMEND, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid"
    assert "ü" not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"diversity": NaN}', b'{"diversity": Infinity}', b"[" * 100_000],
    ids=lambda body: str(body[:20]),
)
def test_what_is_no_json_is_refused(http: TestClient, body: bytes) -> None:
    answer = http.post(RECOMMEND, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed", "invalid")


def test_a_request_that_is_too_large_is_refused(service: RecommenderService) -> None:
    http = service.http(max_body_bytes=16_384)
    answer = http.post(RECOMMEND, json={"exclude": ["x" * 200] * 100})
    assert (answer.status_code, answer.json()["code"]) == (413, "request-too-large")


@pytest.mark.parametrize(
    "body",
    [
        {"customer": "ada", "kind": "stare", "item": "item-001"},
        {"customer": "ada", "kind": "view"},
        {"kind": "view", "item": "item-001"},
        {"customer": "ada", "kind": "view", "item": "item-001", "at_ms": -1},
        {"customer": "ada", "kind": "view", "item": "item-001", "at_ms": 1 << 53},
        {"customer": "ada", "kind": "view", "item": "item-001", "at_ms": 1.5},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(
    http: TestClient, service: RecommenderService, body: object
) -> None:
    answer = http.post("/api/v1/events", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert service.recommender.events == []


def test_an_event_of_tomorrow_is_refused_and_one_of_a_moment_ahead_is_not(
    http: TestClient, service: RecommenderService
) -> None:
    now_ms = time.time_ns() // 1_000_000
    event = POSTS["/api/v1/events"]
    ahead = http.post("/api/v1/events", json={**event, "at_ms": now_ms + 86_400_000})
    assert ahead.status_code == 422
    assert "an hour ahead" in ahead.json()["detail"]
    assert http.post("/api/v1/events", json={**event, "at_ms": now_ms + 60_000}).is_success
    assert http.post("/api/v1/events", json=event).is_success
    assert now_ms <= service.recommender.events[-1].at_ms <= now_ms + 600_000


def test_an_event_about_nothing_known_is_refused(http: TestClient) -> None:
    for about in ({"item": "nothing"}, {"category": "nothing"}):
        answer = http.post("/api/v1/events", json={"customer": "ada", "kind": "view", **about})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown-item")


def test_a_scene_that_the_settings_do_not_know_is_told_what_they_know(http: TestClient) -> None:
    answer = http.post(RECOMMEND, json={"scene": {"daypart": "teatime"}})
    assert "evening" in answer.json()["detail"]


# Failures


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (StorageError("secret path"), 503, "unavailable"),
        (VerificationError("secret path"), 503, "unavailable"),
        (RecommenderClosedError("secret path"), 503, "unavailable"),
        (FormatError("secret path"), 503, "unavailable"),
        (ValueError("secret path"), 500, "internal"),
    ],
    ids=lambda value: getattr(value, "code", type(value).__name__),
)
def test_a_failure_tells_nothing_of_how_it_came_about(
    http: TestClient, service: RecommenderService, failure: Exception, status: int, code: str
) -> None:
    service.recommender.failure = failure
    for path, body in POSTS.items():
        answer = http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert "secret" not in answer.text
        assert answer.json()["type"] == f"urn:fedpref:problem:{code}"


def test_a_refresh_that_names_a_file_keeps_it_to_itself(
    http: TestClient, service: RecommenderService, caplog: pytest.LogCaptureFixture
) -> None:
    service.recommender.failure = InputError("The store secret.csv cannot be read.")
    answer = http.post("/api/v1/refresh")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "secret" not in answer.text
    assert "secret.csv" in caplog.text


def test_a_refresh_while_one_is_running_is_answered_at_once(
    http: TestClient, service: RecommenderService
) -> None:
    service.recommender.failure = RefreshRunningError("A refresh is running.")
    answer = http.post("/api/v1/refresh")
    assert (answer.status_code, answer.json()["code"]) == (409, "refresh-running")


def test_a_score_that_is_no_number_is_never_sent(
    http: TestClient, service: RecommenderService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "answer_record", lambda answer: {"items": [{"score": math.nan}]})
    answer = http.post(RECOMMEND, json={})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


@given(
    customer=st.none() | st.text(max_size=300),
    k=st.integers(-5, MAX_K + 5),
    diversity=st.floats(allow_nan=False, allow_infinity=False),
    exclude=st.lists(st.text(max_size=12), max_size=4),
)
def test_whatever_is_asked_is_answered_as_described(
    customer: str | None, k: int, diversity: float, exclude: list[str]
) -> None:
    body = {"customer": customer, "k": k, "diversity": diversity, "exclude": exclude}
    answer = _shared.post(RECOMMEND, json=body)
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        record = answer.json()
        api.RecommendationsAnswer.model_validate(record, strict=True)
        assert len(record["items"]) <= k
        assert record["why_not_personal"] in {None, *NOT_PERSONAL}
        codes = {reason["code"] for each in record["items"] for reason in each["reasons"]}
        assert codes <= set(REASON_CODES)


_shared = RecommenderService().http()


# The description


def test_the_description_has_every_route_with_its_refusals(http: TestClient) -> None:
    description = http.get("/openapi.json").json()
    assert set(description["paths"]) == {*POSTS, "/api/v1/model"}
    assert "ProblemAnswer" in description["components"]["schemas"]
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert operation["security"], path
            assert {"200", "401", "413", "421", "503"} <= set(operation["responses"]), path
            for status, response in operation["responses"].items():
                if status != "200":
                    (content,) = response["content"].items()
                    assert content[0] == "application/problem+json"
                    for code, example in content[1]["examples"].items():
                        assert example["value"] == PROBLEMS[code].record()


def test_a_records_form_is_the_descriptions(http: TestClient) -> None:
    answers = {
        RECOMMEND: api.RecommendationsAnswer,
        "/api/v1/similar": api.ItemsAnswer,
        "/api/v1/also-bought": api.ItemsAnswer,
    }
    for path, model in answers.items():
        record = http.post(path, json=POSTS[path]).json()
        assert model.model_validate(record, strict=True).model_dump() == record


def test_strict_headers_are_on_every_answer(http: TestClient) -> None:
    for path in (RECOMMEND, "/healthz", "/nowhere", "/openapi.json", "/static/try.css"):
        headers = http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert headers["cache-control"] == (
            "public, max-age=3600" if path == "/static/try.css" else "no-store"
        )
    assert http.get("/static/source-sans-3-latin.woff2").is_success


def test_without_the_operators_page_there_is_none(http: TestClient) -> None:
    for method, path in (("GET", "/try"), ("POST", "/try/sign-in"), ("POST", "/try/event")):
        assert http.request(method, path, headers={"Origin": URL}).status_code == 404
