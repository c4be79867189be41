"""The recommender service over a stand-in recommender, and a program's side of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi.testclient import TestClient
from starlette.types import ASGIApp

from client.recommend.api import Serving
from client.recommend.app import create_app
from client.recommend.config import ServiceSettings
from client.recommend.try_page import TryPage
from tests.support.consent_service import free_port, serving
from tests.support.fake_recommender import CATALOGUE, FakeRecommender

HOST = "127.0.0.1:8430"
URL = f"http://{HOST}"
TOKEN = "a-token-that-only-tests-have"


@dataclass
class RecommenderService:
    """A stand-in recommender and the application around it."""

    recommender: FakeRecommender = field(default_factory=FakeRecommender)
    host: str = HOST

    def app(self, *, try_page: bool = False, **settings: Any) -> ASGIApp:
        """A new application: its own sessions."""
        made = ServiceSettings(**settings)
        scenes = self.recommender.settings.scenes
        to_serve = Serving(
            self.recommender,
            TOKEN,
            "region-1",
            dayparts=tuple(scenes.dayparts),
            store_types=scenes.store_types,
            faults=lambda: self.recommender.faults,
        )
        page = TryPage(
            to_serve,
            lambda: CATALOGUE,
            lambda: self.recommender.customers(50),
            origin=f"http://{self.host}",
            session_s=made.session_s,
            idle_s=made.idle_s,
        )
        return create_app(to_serve, made, hosts={self.host}, try_page=page if try_page else None)

    def http(self, *, token: str | None = TOKEN, **options: Any) -> TestClient:
        """A program's client."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return TestClient(
            self.app(**options),
            base_url=f"http://{self.host}",
            headers=headers,
            raise_server_exceptions=False,
        )


@contextmanager
def running(service: RecommenderService) -> Iterator[str]:
    """Serves with the try page on this machine while the body runs; gives the address."""
    port = free_port()
    service.host = f"127.0.0.1:{port}"
    with serving(service.app(try_page=True), port) as url:
        yield url
