"""A consent service on a made-up region: two notices, a demo login, and a browser's side of it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from httpx import Response
from starlette.types import ASGIApp

from client.consent_service.app import create_app
from client.consent_service.config import ConsentServiceSettings
from client.consent_service.demo_issuer import AUDIENCE, ISSUER, DemoIssuer
from client.consent_service.desk import ConsentDesk
from client.consent_service.desk_opening import desk_on
from client.consent_service.identity import LoginTokens
from client.consent_service.local_desk import LocalDesk
from client.consent_service.login_keys import LoginKeys
from client.web.sessions import Sessions
from common.audit.entry import make_entry
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.timestamps import format_time, now_ms
from tests.support.region_home import OpenHome, make_region_home, notice_record, open_home

URL = "http://127.0.0.1:8420"
JWKS = "login.jwks.json"
NOTICE = {
    "notice_id": "pn-1-en",
    "controller": "Example Retail GmbH, Cologne",
    "recipients": "The regions and the coordinator of small.example: noised sums, and the sizes "
    "and times of this region's log.",
    "retention": "Purchases: 24 months. Consent records: 10 years.",
    "storage": "The data centre of region-1.",
    "contact": "privacy@shop.example",
    "text": "We would like to learn what our customers prefer from the purchases you make with "
    "us. Your purchases stay in this data centre.\n\nSums over many customers leave it, with noise "
    "added to them. The noise limits what anyone can learn from them about you, by a privacy "
    "budget that is stated for each training; it does not make it impossible to learn anything."
    "\n\nYou may withdraw at any time; from the next training round on, your purchases are no "
    "longer used. What was learnt before stays in the model.",
}
NOTICE_ZH = {
    "notice_id": "pn-1-zh",
    "lang": "zh",
    "controller": "Example Retail GmbH，科隆",
    "recipients": "各区域与 small.example 的协调方：加噪声的汇总值，以及本区域日志的大小和时间。",
    "retention": "购买记录：24 个月。同意记录：10 年。",
    "storage": "region-1 的数据中心。",
    "contact": "privacy@shop.example",
    "text": "我们希望从您的购买记录中了解客户的偏好。您的购买记录不会离开本数据中心。\n\n离开的只有"
    "多位客户的汇总值，并已加入噪声。噪声按每次训练所声明的隐私预算，限制任何人从中了解到关于您的信息；"
    "但并不意味着完全无法了解任何信息。\n\n您可以随时撤回；从下一训练轮次起，不再使用您的购买记录。"
    "此前已学到的内容仍保留在模型中。",
}


@dataclass
class Service:
    """An open region with its consent desk, and what a service on it is made with."""

    opened: OpenHome
    desk: LocalDesk
    issuer: DemoIssuer
    folder: Path

    def settings(
        self, *, url: str = URL, login: dict[str, Any] | None = None, **limits: int
    ) -> ConsentServiceSettings:
        """Settings that trust the demo login."""
        return ConsentServiceSettings.model_validate(
            {
                "login": {
                    "issuer": ISSUER,
                    "audience": AUDIENCE,
                    "algorithms": ["EdDSA"],
                    "jwks": JWKS,
                    **(login or {}),
                },
                "service": {"public_url": url},
                "limits": limits,
            }
        )

    def tokens(self, settings: ConsentServiceSettings) -> LoginTokens:
        """The verifier of logins, on the issuer's JWKS file."""
        keys = LoginKeys(self.folder / settings.login.jwks, settings.login.algorithms)
        return LoginTokens(settings.login, keys)

    def app(
        self,
        *,
        desk: ConsentDesk | None = None,
        sessions: Sessions | None = None,
        url: str = URL,
        **limits: int,
    ) -> ASGIApp:
        """A new application: its own sessions, its own limits."""
        settings = self.settings(url=url, **limits)
        tokens = self.tokens(settings)
        return create_app(settings, desk or self.desk, tokens, sessions=sessions)

    def log_round(self, run: str, number: int, consent_size: int) -> None:
        """Logs what the desk reads of a round's entry: run, number, consent size, and the time."""
        record = {
            "v": "fedpref-round/1",
            "run": run,
            "round": number,
            "charge_id": f"{run}-{number}",
            "end": format_time(now_ms()),
            "consent": {"origin": self.opened.home.origin, "size": consent_size, "root": "0" * 64},
        }
        self.opened.log.append([make_entry(record, self.opened.home.signer("trainer"))])


@contextmanager
def open_service(folder: Path, *, notices: Sequence[dict[str, object]] = ()) -> Iterator[Service]:
    """Makes a region and opens its desk; without notices, with the two of this module."""
    since = {"in_force_from": format_time(now_ms() - 24 * 3600 * 1000)}
    home = make_region_home(
        folder / "home",
        notices=notices or [notice_record(**NOTICE, **since), notice_record(**NOTICE_ZH, **since)],
        lasts_s=365 * 24 * 3600,
    )
    issuer = DemoIssuer(Ed25519PrivateKey.generate())
    (folder / JWKS).write_bytes(issuer.jwks())
    with (
        open_home(home) as opened,
        desk_on(home, opened.log, opened.state, opened.subjects) as desk,
    ):
        yield Service(opened, desk, issuer, folder)


class Visit:
    """A browser without scripts: keeps cookies, and fills in the forms of the pages it got."""

    def __init__(self, app: ASGIApp, *, url: str = URL, lang: str = "en") -> None:
        self.url = url
        self.http = TestClient(
            app,
            base_url=url,
            follow_redirects=False,
            headers={"Accept": "text/html", "Accept-Language": lang},
        )

    def log_in(self, token: str) -> Response:
        """Follows a login link."""
        return self.http.get("/login", params={"token": token})

    def form(self, path: str = "/") -> dict[str, str]:
        """The hidden fields of a page's form of choices."""
        page = self.http.get(path).text
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))

    def choose(self, action: str, *purposes: str, **changes: str) -> Response:
        """Presses a button of the page of choices."""
        data: dict[str, Any] = {**self.form(), "action": action, "purpose": list(purposes)}
        return self.http.post("/choices", data={**data, **changes}, headers=self.own_origin)

    def give(self, *purposes: str) -> str:
        """Agrees, and returns the record's id."""
        answer = self.choose("agree", *(purposes or (FEDERATED_TRAINING, RECOMMENDATIONS)))
        return self.receipt_of(answer)

    @staticmethod
    def receipt_of(answer: Response) -> str:
        """The record's id that a recorded choice leads to."""
        found = re.fullmatch(r"/receipts/(\w{26})\?new=1", answer.headers.get("location", ""))
        if answer.status_code != 303 or found is None:
            raise ValueError(f"not recorded: {answer.status_code}")
        return found[1]

    @property
    def own_origin(self) -> dict[str, str]:
        """What a browser says of a form of the service's own page."""
        return {"Origin": self.url}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def serving(app: ASGIApp, port: int) -> Iterator[str]:
    """Serves an application on this machine while the body runs; gives its address."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the service did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
