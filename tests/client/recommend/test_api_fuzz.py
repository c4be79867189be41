"""The HTTP API under schemathesis: whatever is asked, it answers as described, never with 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup, ServerError
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.recommender_service import HOST, TOKEN, RecommenderService

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
HEADERS = {"Host": HOST, "Authorization": f"Bearer {TOKEN}"}


def ask(service: RecommenderService, mode: GenerationMode, *, max_examples: int) -> int:
    """Asks every operation what it allows, or what it forbids; gives how often."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app(), headers={"Host": HOST})
    asked = 0
    for found in schema.get_all_operations():
        strategy = found.ok().as_strategy(generation_mode=mode)

        @settings(
            max_examples=max_examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=strategy)
        def ask_once(case: schemathesis.Case) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        ask_once()
    return asked


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_breaks_the_api(mode: GenerationMode) -> None:
    assert ask(RecommenderService(), mode, max_examples=5) > 20


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_of_many_breaks_the_api(mode: GenerationMode) -> None:
    assert ask(RecommenderService(), mode, max_examples=500) > 1500


def test_a_defect_behind_a_route_is_found() -> None:
    """The suite can fail: a defect behind a route is found."""
    service = RecommenderService()
    service.recommender.failure = ValueError("a defect")
    with pytest.raises(FailureGroup) as found:
        ask(service, GenerationMode.POSITIVE, max_examples=2)
    assert found.group_contains(ServerError)
