"""The HTTP API under schemathesis: whatever is asked, it answers as described, never with 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

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
from starlette.types import ASGIApp

from tests.support.consent_service import URL, Service, open_service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
HOST = {"Host": urlsplit(URL).netloc}
PLENTY = {"requests_per_minute": 1_000_000, "reads_per_minute": 1_000_000}
PLENTY |= {"changes_per_hour": 1_000_000, "logins_per_minute": 1_000_000}


class Fuzzed:
    """A service of its own, the description that it gives, and a customer to ask as."""

    def __init__(self, service: Service, app: ASGIApp | None = None) -> None:
        self.service = service
        self.schema = schemathesis.openapi.from_asgi(
            "/openapi.json", app or service.app(**PLENTY), headers=HOST
        )

    def ask(self, mode: GenerationMode, *, max_examples: int) -> int:
        """Asks every operation what it allows, or what it forbids; gives how often."""
        asked = 0
        for found in self.schema.get_all_operations():
            strategy = found.ok().as_strategy(generation_mode=mode)

            @settings(
                max_examples=max_examples,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=strategy)
            def ask(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                headers = {"Authorization": f"Bearer {self.service.issuer.token('fuzz')}"}
                case.call_and_validate(headers=HOST | headers, checks=CHECKS)

            ask()
        return asked


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with open_service(tmp_path_factory.mktemp("fuzzed")) as service:
        yield Fuzzed(service)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_breaks_the_api(fuzzed: Fuzzed, mode: GenerationMode) -> None:
    assert fuzzed.ask(mode, max_examples=12) > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_of_many_breaks_the_api(fuzzed: Fuzzed, mode: GenerationMode) -> None:
    assert fuzzed.ask(mode, max_examples=500) > 1500


def test_a_defect_behind_a_route_is_found(fuzzed: Fuzzed) -> None:
    """The suite can fail: a defect behind a route is found."""
    app = fuzzed.service.app(desk=_Broken(), **PLENTY)  # type: ignore[arg-type]
    with pytest.raises(FailureGroup) as found:
        Fuzzed(fuzzed.service, app).ask(GenerationMode.POSITIVE, max_examples=3)
    assert found.group_contains(ServerError)


class _Broken:
    def __getattr__(self, name: str) -> object:
        raise ValueError("a defect")
