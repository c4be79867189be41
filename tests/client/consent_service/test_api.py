"""The HTTP API: a program acts for one customer, by that customer's token alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from client.consent_service.desk import DecisionRefusedError
from client.consent_service.problems import PROBLEMS
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.errors import ConsentError, StorageError
from tests.support.consent_service import URL, Service, Visit

API = "/api/v1"
_numbers = itertools.count()


class Program:
    """A program with a customer's token."""

    def __init__(self, service: Service, name: str | None = None, **claims: bool) -> None:
        self.name = name or f"api-customer-{next(_numbers)}"
        self.app = service.app()
        self.http = TestClient(
            self.app,
            base_url=URL,
            headers={"Authorization": f"Bearer {service.issuer.token(self.name, **claims)}"},
            raise_server_exceptions=False,
        )

    def get(self, path: str, **options: Any) -> Response:
        return self.http.get(API + path, **options)

    def choose(self, *agreed: str, **changes: Any) -> Response:
        body = {
            "purposes": dict.fromkeys(agreed, True),
            "notice_sha256": self.get("/notice").json()["sha256"],
            "based_on": self.get("/choices").json()["record_id"],
            **changes,
        }
        return self.http.post(f"{API}/choices", json=body)


def test_a_program_gives_looks_and_withdraws_for_a_customer(service: Service) -> None:
    program = Program(service)
    before = program.get("/choices").json()
    assert (before["record_id"], before["state"]) == (None, None)
    assert set(before["standings"].values()) == {"no-record"}
    given = program.choose(FEDERATED_TRAINING, RECOMMENDATIONS)
    assert given.status_code == 201
    assert sorted(given.json()["agreed"]) == sorted([FEDERATED_TRAINING, RECOMMENDATIONS])
    receipt = program.http.get(given.headers["location"])
    assert receipt.json()["v"] == "fedpref-receipt/1"
    gone = program.http.post(f"{API}/withdrawal")
    assert (gone.status_code, gone.json()["state"]) == (201, "dpv:ConsentWithdrawn")
    assert gone.json()["ends_training"]
    assert gone.json()["first_excluded"] is None
    history = program.get("/history").json()
    assert history == [gone.json(), given.json()]
    again = program.http.post(f"{API}/withdrawal")
    assert (again.status_code, again.json()["code"]) == (409, "nothing-to-withdraw")


@pytest.mark.parametrize("place", ["purposes", "body"])
def test_a_choice_that_says_two_things_is_none(service: Service, place: str) -> None:
    program = Program(service)
    notice = program.get("/notice").json()["sha256"]
    purpose = f'"{FEDERATED_TRAINING}":'
    no, yes = f"{{{purpose}false}}", f"{{{purpose}true}}"
    twice = {"purposes": f"{{{purpose}false,{purpose}true}}", "body": f'{no},"purposes":{yes}'}
    for purposes, status in ((twice[place], 422), (yes, 201)):
        body = f'{{"purposes":{purposes},"notice_sha256":"{notice}","based_on":null}}'
        kind = {"Content-Type": "application/json"}
        answer = program.http.post(f"{API}/choices", content=body, headers=kind)
        assert answer.status_code == status
    assert len(program.get("/history").json()) == 1


def test_the_notice_is_for_everybody_in_their_language(service: Service) -> None:
    with TestClient(service.app(), base_url=URL) as http:
        assert http.get(f"{API}/notice").json()["notice_id"] == "pn-1-en"
        assert http.get(f"{API}/notice?lang=zh").json()["notice_id"] == "pn-1-zh"
        accepted = http.get(f"{API}/notice", headers={"Accept-Language": "de, zh;q=0.5"})
        assert accepted.json()["notice_id"] == "pn-1-zh"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x.y.z", "bearer ünknown"]
)
def test_without_a_token_that_holds_nothing_is_told(service: Service, authorization: str) -> None:
    headers = {"Authorization": authorization.encode()} if authorization else {}
    with TestClient(service.app(), base_url=URL, headers=headers) as http:
        for method, path in (
            ("GET", "/choices"),
            ("POST", "/choices"),
            ("POST", "/withdrawal"),
            ("GET", "/history"),
            ("GET", "/receipts/01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"),
        ):
            answer = http.request(method, API + path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["code"] in {"not-signed-in", "login-refused"}


def test_a_session_is_no_token_and_a_token_no_session(service: Service) -> None:
    """No cookie counts for the API, so that no other site's page can use it."""
    app = service.app()
    visit = Visit(app)
    visit.log_in(service.issuer.token("both-worlds"))
    assert visit.http.get("/history").status_code == 200
    assert visit.http.get(f"{API}/history").status_code == 401
    with TestClient(app, base_url=URL) as http:
        token = service.issuer.token("both-worlds")
        answer = http.get("/history", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


def test_a_token_that_signed_somebody_in_is_no_bearer_any_more(service: Service) -> None:
    app, token = service.app(), service.issuer.token("link-from-a-history")
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {token}"}) as http:
        assert http.get(f"{API}/history").status_code == 200
        assert http.get("/login", params={"token": token}).status_code == 200
        answer = http.get(f"{API}/history")
        assert (answer.status_code, answer.json()["code"]) == (401, "login-refused")


def test_no_route_of_the_api_tells_of_another_customer(service: Service) -> None:
    other, me = Program(service, "somebody-else"), Program(service)
    record_id = other.choose(FEDERATED_TRAINING).json()["record_id"]
    unknown = "01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"
    description = me.http.get("/openapi.json").json()
    asked = set()
    for path, operations in description["paths"].items():
        for method in operations:
            answers = [
                me.http.request(
                    method,
                    path.replace("{record_id}", each),
                    params={"customer_ref": other.name, "sub": other.name},
                )
                for each in (record_id, unknown)
            ]
            for answer in answers:
                assert record_id not in answer.text
                assert other.name not in answer.text
            if "{record_id}" in path:
                assert {answer.status_code for answer in answers} == {404}
                assert answers[0].json() == answers[1].json()
            asked.add((method, path))
    assert len(asked) == 6
    assert len(service.desk.history(other.name)) == 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"notice_sha256": "0" * 64}, 409, "notice-changed"),
        ({"based_on": "01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"}, 409, "choice-changed"),
        ({"purposes": {"dpv:Marketing": True}}, 422, "invalid"),
        ({"purposes": {"no term": True}}, 422, "invalid"),
        ({"purposes": {FEDERATED_TRAINING: "yes"}}, 422, "invalid"),
        ({"purposes": {FEDERATED_TRAINING: 1}}, 422, "invalid"),
        ({"purposes": {f"dpv:P{number}": True for number in range(33)}}, 422, "invalid"),
        ({"purposes": None}, 422, "invalid"),
        ({"notice_sha256": "0" * 63}, 422, "invalid"),
        ({"customer_ref": "somebody"}, 422, "invalid"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    service: Service, changes: dict[str, Any], status: int, code: str
) -> None:
    program, size = Program(service), service.opened.log.size
    answer = program.choose(FEDERATED_TRAINING, **changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert service.opened.log.size == size


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"purposes":NaN}', b"[" * 9000])
def test_malformed_bodies_are_refused(service: Service, body: bytes) -> None:
    program = Program(service)
    answer = program.http.post(
        f"{API}/choices", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}
    assert answer.json()["code"] in {"malformed", "invalid"}
    assert "msg" not in answer.text


def test_a_minor_needs_a_guardian(service: Service) -> None:
    child = Program(service, "api-child", minor=True)
    answer = child.choose(FEDERATED_TRAINING)
    assert (answer.status_code, answer.json()["code"]) == (403, "guardian-needed")
    parent = Program(service, "api-child", minor=True, guardian=True)
    assert parent.choose(FEDERATED_TRAINING).json()["guardian"] == "dpv:ConsentGiven"
    assert child.http.post(f"{API}/withdrawal").status_code == 201


class _Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object) -> None:
            raise self.error

        return fail


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageError("The disk /secret/place is full."), 503, "unavailable"),
        (ConsentError("region-1: no notice is in force."), 503, "unavailable"),
        (DecisionRefusedError("not-found", "whose"), 404, "not-found"),
        (ValueError("a defect in /secret/place"), 500, "internal"),
    ],
)
def test_a_failure_tells_nothing_of_how_it_came_about(
    service: Service, error: Exception, status: int, code: str
) -> None:
    app = service.app(desk=_Failing(error))  # type: ignore[arg-type]
    headers = {"Authorization": f"Bearer {service.issuer.token('unlucky')}"}
    with TestClient(app, base_url=URL, headers=headers) as http:
        for path in (f"{API}/history", f"{API}/choices"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()) == (status, PROBLEMS[code].record())
            assert "secret" not in answer.text
            assert answer.headers["cache-control"] == "no-store"
        assert ("retry-after" in answer.headers) == (status == 503)


def test_the_description_has_examples_and_the_schema_of_refusals(service: Service) -> None:
    description = Program(service).http.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    assert {"ProblemAnswer", "ChoiceBody", "PositionAnswer", "NoticeAnswer"} <= set(schemas)
    assert "HTTPValidationError" not in str(description)
    assert schemas["ChoiceBody"]["examples"]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert "429" in responses, (method, path)
            assert "Retry-After" in responses["429"]["headers"]
            for status, response in responses.items():
                if not status.startswith("2"):
                    content = response["content"]["application/problem+json"]
                    assert content["examples"], (method, path, status)
            protected = path != f"{API}/notice"
            assert ("security" in operation) is protected, path


def test_the_receipt_and_the_history_agree_on_ids(service: Service) -> None:
    program = Program(service)
    program.choose(RECOMMENDATIONS)
    ids = [each["record_id"] for each in program.get("/history").json()]
    for record_id in ids:
        assert program.get(f"/receipts/{record_id}").status_code == 200
    assert program.get("/receipts/not-an-id").status_code == 404
