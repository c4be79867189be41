"""One region with a consent desk for all tests of the service; every test has its own customers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.consent_service import Service, open_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with open_service(tmp_path_factory.mktemp("consent-service")) as opened:
        yield opened
