"""`fedpref-region consent` as operators use it: a login for trials, one process, and two."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest

from client import cli
from client.consent_service.demo_issuer import AUDIENCE, ISSUER
from common import canonical_json
from common.audit.federation_keys import FederationKeys
from common.audit.receipt import check_receipt
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING
from common.engine_socket import SocketChannel
from tests.support.command_line import Command, command_line
from tests.support.consent_service import NOTICE, Visit, free_port
from tests.support.cosigning import cosignatures
from tests.support.region_home import make_region_home, notice_record
from tests.support.small_federation import home_of, make_federation

REGION = "fedpref-region"
READY_S = 300.0


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, REGION, "consent", patch=monkeypatch, capture=capsys)


@contextmanager
def running(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that serves until it is told to stop; gives it and its line of readiness."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name(REGION), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
        # Ctrl-C works even where a shell had it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        if process.stdout is None or process.stderr is None:
            raise ValueError("no pipes")
        ready = process.stdout.readline()
        if "ready" not in ready:
            process.kill()
            raise AssertionError(process.stderr.read())
        yield process, ready
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=READY_S)


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(number)
    output, errors = process.communicate(timeout=READY_S)
    return process.returncode, output, errors


def open_files(process: subprocess.Popen[str]) -> set[str]:
    return {str(each.readlink()) for each in Path(f"/proc/{process.pid}/fd").iterdir()}


# The login for trials


def test_the_demo_login_is_made_labelled_and_used(command: Command, tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home")
    key = tmp_path / "issuer.pem"
    code, output, _ = command("issuer", "new", key, "--home", home.root)
    assert code == 0
    assert output.startswith("DEMO ONLY")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    code, token, _ = command("token", "--issuer-key", key, "--customer", "alice")
    assert code == 0
    claims = jwt.decode(token.strip(), options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["sub"]) == (ISSUER, AUDIENCE, "alice")
    assert {"minor", "guardian"}.isdisjoint(claims)
    _, token, _ = command(
        *("token", "--issuer-key", key, "--customer", "bob", "--minor", "--guardian"),
        *("--audience", "urn:here"),
    )
    claims = jwt.decode(token.strip(), options={"verify_signature": False})
    assert (claims["minor"], claims["guardian"], claims["aud"]) == (True, True, "urn:here")
    code, _, errors = command("token", "--issuer-key", key, "--customer", "bob", "--guardian")
    assert (code, "Only a minor" in errors) == (2, True)
    code, _, errors = command("issuer", "new", key)
    assert (code, "cannot be written" in errors) == (3, True)
    code, _, errors = command("token", "--issuer-key", tmp_path / "none", "--customer", "bob")
    assert (code, "cannot be read" in errors) == (3, True)


# Starting


def test_what_keeps_the_service_from_starting_is_said(command: Command, tmp_path: Path) -> None:
    code, _, errors = command("serve", tmp_path)
    assert (code, "not a region's home" in errors) == (3, True)
    home = make_region_home(tmp_path / "home", notices=[notice_record(**NOTICE)])
    code, _, errors = command("serve", home.root)
    assert (code, "consent.toml" in errors, "issuer new" in errors) == (3, True, True)
    command("issuer", "new", tmp_path / "issuer.pem", "--home", home.root)
    code, _, errors = command("serve", home.root, "--engine-socket", tmp_path / "none.sock")
    assert (code, "does not answer" in errors) == (3, True)
    code, _, errors = command("serve", home.root, "--host", "192.0.2.1")
    assert (code, "cannot listen" in errors) == (3, True)
    with running("consent", "serve", home.root, "--port", free_port()):
        code, _, errors = command("serve", home.root, "--port", free_port())
    assert code == 10
    assert "Another process" in errors
    assert "--consent-socket" in errors


def test_one_process_serves_and_stops_cleanly(command: Command, tmp_path: Path) -> None:
    home = make_region_home(tmp_path / "home", notices=[notice_record(**NOTICE)])
    key, port = tmp_path / "issuer.pem", free_port()
    url = f"http://127.0.0.1:{port}"
    command("issuer", "new", key, "--home", home.root, "--public-url", url)
    with running("consent", "serve", home.root, "--port", port) as (process, ready):
        assert f"ready on 127.0.0.1 port {port} for {url}" in ready
        token = command("token", "--issuer-key", key, "--customer", "alice")[1].strip()
        with Browser(url) as browser:
            browser.log_in(token)
            record_id = browser.give(FEDERATED_TRAINING)
            assert browser.http.get("/nowhere?alice").status_code == 404
        code, output, errors = stopped(process, signal.SIGTERM)
    assert code == 0
    assert "stopped" in output
    assert errors == ""
    assert not {"alice", token, record_id} & set(re.findall(r"[\w.-]+", output + errors))
    # What was acknowledged is there, and the log is free for the next.
    with running("consent", "serve", home.root, "--port", port) as (process, _):
        with Browser(url) as browser:
            browser.log_in(command("token", "--issuer-key", key, "--customer", "alice")[1].strip())
            assert browser.http.get(f"/receipts/{record_id}").status_code == 200
        assert stopped(process, signal.SIGINT)[0] == 0


class Browser(Visit):
    """A browser without scripts, over the network."""

    def __init__(self, url: str) -> None:
        import httpx

        self.url = url
        self.http = httpx.Client(  # type: ignore[assignment]
            base_url=url, headers={"Accept": "text/html", "Accept-Language": "en"}
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()


# The engine has the log; what faces the network has neither keys nor log


def test_two_processes_a_round_between_and_the_receipt_that_names_it(
    command: Command, tmp_path: Path
) -> None:
    folder, plan, _ = make_federation(tmp_path / "run", regions=1, quorum=1)
    home = home_of(folder)
    key, port = tmp_path / "issuer.pem", free_port()
    url = f"http://127.0.0.1:{port}"
    command("issuer", "new", key, "--home", home.root, "--public-url", url)
    engine_socket, desk_socket = tmp_path / "e.sock", tmp_path / "c.sock"
    with (
        running(
            *("engine", home.root, "--socket", engine_socket),
            *("--consent-socket", desk_socket),
        ) as (engine, ready),
        running(
            *("consent", "serve", home.root, "--port", port, "--engine-socket", desk_socket)
        ) as (web, _),
    ):
        assert str(desk_socket) in ready
        assert stat.S_IMODE(desk_socket.stat().st_mode) == 0o600
        with Browser(url) as browser:
            browser.log_in(command("token", "--issuer-key", key, "--customer", "zoe")[1].strip())
            browser.give(FEDERATED_TRAINING)
            gone = browser.receipt_of(browser.choose("withdraw"))
            before = browser.http.get(f"/receipts/{gone}/file").json()
            assert before["first_excluded"] is None
            assert _round(SocketChannel(engine_socket, timeout_s=300), folder.root, plan) == "ok"
            file = browser.http.get(f"/receipts/{gone}/file")
            _holds_nothing_of(home.root, web)
            stopped(engine, signal.SIGTERM)
            answer = browser.http.get("/history")
            assert answer.status_code == 503
            assert "cannot be reached" in answer.text
            assert int(answer.headers["retry-after"]) > 0
    excluded = file.json()["first_excluded"]
    assert (excluded["run"], excluded["round"]) == (plan.run_id, 1)
    registry = [path.read_bytes() for path in sorted(home.registry.glob("*.json"))]
    checked = check_receipt(file.content, FederationKeys.from_envelopes(registry))
    # The round's checkpoint was cosigned by enough others: the receipt is proved by it.
    assert checked.logged.witnessed
    assert canonical_json.encode(file.json(), max_bytes=1 << 20) == file.content


def _round(engine: SocketChannel, run: Path, plan) -> str:  # type: ignore[no-untyped-def]
    """The coordinator's part of the first round, and the other parties' cosignatures."""
    header: dict[str, JsonValue] = {"run": plan.run_id, "round": 1}
    published, _ = engine.call("publish", {**header, "since": []}, {})
    assert published["status"] == "ok", published
    lines: list[JsonValue] = [*cosignatures(run, str(published["checkpoint"]))]
    request = {**header, "attempt": 1, "mechanism": "popularity", "plan": plan.digest}
    reply, _ = engine.call("train", {**request, "cosignatures": lines}, {})
    return str(reply["status"])


def _holds_nothing_of(home: Path, web: subprocess.Popen[str]) -> None:
    """The web process has no file of the region's home open, and no code to train with."""
    time.sleep(0.1)
    assert not [path for path in open_files(web) if path.startswith(str(home))]
    maps = Path(f"/proc/{web.pid}/maps").read_text()
    assert "libtorch" not in maps
