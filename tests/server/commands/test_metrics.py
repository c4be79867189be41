"""``fedpref-server metrics``: of a home or a deployment, where it is told, till it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from common import canonical_json
from common.durable_file import write_durably
from common.errors import InputError
from server.commands.metrics import observed_at
from server.queue import Queued, State
from tests.support.fake_federation import fake_plan

ROOT = Path(__file__).resolve().parents[3]
FEDERATION = """\
[federation]
name = "test.example"
quorum = 2
witness_quorum = 1

[server]
hosts = ["127.0.0.1"]
port = {port}
admin_port = {admin_port}
metrics = "127.0.0.1:0"

[[regions]]
name = "region-1"
jurisdiction = "DE"

[[regions]]
name = "region-2"
jurisdiction = "FR"

[run.first]
epsilon = "1"
delta = "0.000001"
train_from = "2024-01-01T00:00:00.000Z"
train_until = "2024-03-01T00:00:00.000Z"
planned_customers = 60
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    write_durably(folder / "plan.json", canonical_json.encode(fake_plan().to_record()))
    return folder


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    root = tmp_path / "deployment"
    (root / "server" / "runs" / "first").mkdir(parents=True)
    (root / "coordinator" / "queue").mkdir(parents=True)
    (root / "federation.toml").write_text(FEDERATION.format(port=9, admin_port=7))
    plan = canonical_json.encode(fake_plan().to_record())
    write_durably(root / "server" / "runs" / "first" / "plan.json", plan)
    queue: list[tuple[str, State]] = [
        ("old", "finished"),
        ("first", "running"),
        ("second", "waiting"),
        ("third", "waiting"),
    ]
    for number, (run, state) in enumerate(queue, 1):
        record = Queued(number, run, state, "2026-11-29T09:00:00.000Z").to_record()
        name = f"{number:06d}-{run}.json"
        write_durably(root / "coordinator" / "queue" / name, canonical_json.encode(record))
    return root


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Runs the command till the body ends; gives the address that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "metrics", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    try:
        yield said.split()[2].removesuffix("/metrics.")
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_home_alone_is_served_till_it_is_told_to_stop(home: Path) -> None:
    with serving(str(home), "--listen", "127.0.0.1:0") as address:
        with urlopen(f"{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        with urlopen(f"{address}/readyz", timeout=30) as answer:
            ready = json.loads(answer.read())
    assert 'fedpref_server_run_state{run="run-1",state="waiting"} 1.0' in text
    assert "queued" not in text
    assert ready == {"checks": {"disk": "ok", "home": "ok"}, "ready": True}


def test_a_deployment_is_served_where_it_declares(deployment: Path) -> None:
    with serving(str(deployment)) as address:
        with urlopen(f"{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        with pytest.raises(HTTPError) as unready:
            urlopen(f"{address}/readyz", timeout=30)
        checks = json.loads(unready.value.read())["checks"]
    assert "fedpref_server_queued_runs 2.0" in text
    # Nothing listens there.
    assert checks == {
        "admin-port": "no-answer",
        "disk": "ok",
        "home": "ok",
        "regions-port": "no-answer",
    }


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a deployment nor a coordinator's home"):
        observed_at(tmp_path)
