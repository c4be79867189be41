"""`fedpref-region recommend` on a finished run: a model installed, asked, served by a real process,
while customers withdraw at another one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from client import cli
from client.consent_service.demo_issuer import make_demo_issuer, trust_demo_issuer
from client.engine.home import RegionHome
from client.recommend import release
from client.recommend.config import token_file
from client.recommend.recommender import Recommender
from common.errors import EXIT_USAGE, InputError, VerificationError
from tests.support.command_line import Command, command_line
from tests.support.consent_service import free_port

REGION = "fedpref-region"
READY_S = 300.0
CUSTOMER = "customer-0001"


@pytest.fixture(scope="module")
def home(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region's home in a copy of the run, with no model installed yet."""
    run = tmp_path_factory.mktemp("recommend") / "run"
    shutil.copytree(finished_run, run, symlinks=True)
    made = run / "regions" / "region-1"
    (made / "recommend").mkdir()
    # The run's purchases are of a past year.
    (made / "recommend" / "settings.toml").write_text('[history]\nuntil = "model"\n')
    return made


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, REGION, "recommend", patch=monkeypatch, capture=capsys)


@pytest.fixture(scope="module")
def installed(home: Path) -> Path:
    """The home with the run's model installed: by the first test's command, if that has run."""
    region = RegionHome.read(home)
    if release.installed(region) is None:
        release.install_release(region, home.parents[1])
    return home


@contextmanager
def running(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that serves until it is told to stop; gives it and its line of readiness."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name(REGION), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
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


class Shop:
    """A program of the shop's, at a running service."""

    def __init__(self, home: Path, url: str) -> None:
        token = token_file(RegionHome.read(home)).read_text().strip()
        self.http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def post(self, path: str, **body: object) -> Any:
        answer = self.http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def items(self, **body: object) -> list[str]:
        return [each["item"] for each in self.post("/recommendations", **body)["items"]]


def test_a_model_is_installed_asked_and_checked(home: Path, command: Command) -> None:
    run = home.parents[1]
    status, output, errors = command("install", home, run)
    assert status == 0, errors
    assert "its log entry verifies" in output
    status, output, errors = command("check", home)
    assert status == 0, errors
    status, output, errors = command("ask", home, "--customer", CUSTOMER, "-k", "5", "--json")
    assert status == 0, errors
    answer = json.loads(output)
    assert answer["personal"] is True
    assert len(answer["items"]) == 5
    status, output, _ = command("ask", home, "--customer", "nobody-we-know")
    assert status == 0
    assert "Not personal (unknown-customer)" in output
    viewed = json.loads(
        command("ask", home, "--customer", CUSTOMER, "--event", "view=item-0150", "--json")[1]
    )
    reasons = {r["code"] for each in viewed["items"] for r in each["reasons"]}
    assert "viewed" in reasons
    for option in ("--similar", "--also-bought"):
        status, output, errors = command("ask", home, option, "item-0001", "-k", "3", "--json")
        assert status == 0, errors
        assert 1 <= len(json.loads(output)["items"]) <= 3


def test_filters_of_the_command_are_kept_to(
    installed: Path, command: Command, tmp_path: Path
) -> None:
    def ask(*arguments: object) -> list[str]:
        status, output, errors = command(
            "ask", installed, "--customer", CUSTOMER, "--json", *arguments
        )
        assert status == 0, errors
        return [each["item"] for each in json.loads(output)["items"]]

    everything = ask()
    stock = tmp_path / "stock"
    stock.write_text("\n".join(everything[:4]) + "\n")
    listed = ask("--in-stock", stock, "--exclude", everything[0])
    assert sorted(listed) == sorted(everything[1:4])
    scene = ("--daypart", "evening", "--weekday", "5", "--new-only", "--diversity", "0.5")
    assert len(ask(*scene)) == 10


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--customer", ""), 3, "empty"),
        (("--customer", CUSTOMER, "-k", "0"), 2, "-k"),
        (("--customer", CUSTOMER, "--diversity", "nan"), 3, "diversity"),
        (("--customer", CUSTOMER, "--daypart", "teatime"), 3, "teatime"),
        (("--customer", CUSTOMER, "--event", "stare=item-0001"), 3, "stare"),
        (("--customer", CUSTOMER, "--event", "view=nothing"), 3, "not in the region's catalogue"),
        (("--customer", CUSTOMER, "--event", "view"), 3, "neither an item nor a category"),
        (("--event", "view=item-0001"), EXIT_USAGE, "--customer"),
        (("--similar", "nothing"), 3, "not in the region's catalogue"),
        (("--similar", "item-0001", "--also-bought", "item-0001"), EXIT_USAGE, "two questions"),
        (("--in-stock", "/nowhere/stock"), 3, "/nowhere/stock"),
    ],
    ids=str,
)
def test_bad_questions_end_with_one_message(
    installed: Path, command: Command, arguments: tuple[str, ...], status: int, told: str
) -> None:
    ended, _, errors = command("ask", installed, *arguments)
    assert ended == status, errors
    assert told in errors
    assert "Traceback" not in errors


def another_customer(home: Path) -> str:
    """A customer with consent and purchases, whom no other test asks for."""
    with closing(Recommender.open(RegionHome.read(home))) as recommender:
        return next(each for each in recommender.customers(2) if each != CUSTOMER)


def test_a_withdrawal_while_serving_takes_effect_on_the_next_request(installed: Path) -> None:
    """Two real processes: a customer withdraws at the one, the shop asks the other."""
    customer = another_customer(installed)
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    issuer = make_demo_issuer(installed.parent / "issuer.pem")
    trust_demo_issuer(installed, issuer, public_url=url)
    token_file(RegionHome.read(installed)).unlink(missing_ok=True)
    with (
        running("recommend", "serve", installed, "--address", "127.0.0.1:0") as (server, ready),
        running("consent", "serve", installed, "--port", port),
    ):
        address = ready.split(" ready on ")[1].split(",")[0]
        shop = Shop(installed, address)

        before = shop.post("/recommendations", customer=customer, k=10)
        assert before["personal"] is True
        assert shop.post("/history", customer=customer)["items"]

        # A live event counts at once.
        listed = [each["item"] for each in before["items"]]
        new = next(item for item in ("item-0150", "item-0151") if item not in listed)
        assert shop.post("/events", customer=customer, kind="view", item=new) == {"kept": True}
        moved = shop.post("/recommendations", customer=customer, k=10)
        assert "viewed" in {r["code"] for each in moved["items"] for r in each["reasons"]}

        def act(path: str, **body: object) -> None:
            headers = {"Authorization": f"Bearer {issuer.token(customer)}"}
            answer = httpx.post(f"{url}/api/v1{path}", json=body, headers=headers, timeout=60)
            assert answer.status_code == 201, answer.text

        act("/withdrawal")
        after = shop.post("/recommendations", customer=customer, k=10)
        assert (after["personal"], after["why_not_personal"]) == (False, "no-consent")
        assert after["consent_size"] > before["consent_size"]
        nobody = shop.post("/recommendations", k=10)
        assert after["items"] == nobody["items"]
        assert shop.post("/history", customer=customer) == {"items": []}
        assert shop.post("/events", customer=customer, kind="view", item=new) == {"kept": False}

        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=READY_S)
        assert server.returncode == 0, errors
        assert "recommender stopped" in output
        assert customer not in output + errors


def test_a_tampered_release_is_not_served(
    installed: Path, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(installed.parents[1], run, symlinks=True)
    home = run / "regions" / "region-1"
    (model,) = (home / "recommend" / "release").glob("*/model.safetensors")
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    model.write_bytes(data)
    for arguments in (("serve", home), ("check", home), ("ask", home, "--customer", CUSTOMER)):
        status, output, errors = command(*arguments)
        assert status in (VerificationError.exit_code, InputError.exit_code), errors
        assert "ready" not in output
        assert "Traceback" not in errors


def test_without_a_model_there_is_nothing_to_serve(home: Path, command: Command) -> None:
    other = home.parent / "region-2"
    for arguments in (("serve", other), ("check", other), ("ask", other)):
        status, _, errors = command(*arguments)
        assert status == InputError.exit_code
        assert "fedpref-region recommend install" in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--address", "0.0.0.0:8430"), "not a loopback address"),
        (("--address", "shop.example:1"), "not an IP address"),
        (("--socket", "r.sock", "--try-page"), "A browser cannot open"),
        (("--group", "users"), "An address has no group"),
        (("--socket", "r.sock", "--group", "no-such-group-here"), "no-such-group-here"),
    ],
    ids=str,
)
def test_it_listens_on_this_machine_alone(
    installed: Path, command: Command, arguments: tuple[str, ...], told: str
) -> None:
    status, _, errors = command("serve", installed, *arguments)
    assert status in (EXIT_USAGE, InputError.exit_code)
    assert told in errors


def test_a_batch_has_the_lists_that_are_asked_for(
    installed: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "lists.parquet"
    status, output, errors = command("batch", installed, "--out", out, "-k", "5")
    assert status == 0, errors
    assert str(out) in output
    asked = json.loads(command("ask", installed, "--customer", CUSTOMER, "-k", "5", "--json")[1])
    rows = {row["customer"]: row for row in pq.read_table(out).to_pylist()}
    assert rows[CUSTOMER]["items"] == [each["item"] for each in asked["items"]]
