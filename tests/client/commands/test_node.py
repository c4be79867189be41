"""`fedpref-region node` and `relay`: not as root, quiet, and as they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from client.commands import node as commands
from client.node import supernode
from client.node.bundle import bundle_digest
from common.canonical_json import JsonValue
from common.engine_channel import serve_channel
from common.errors import InputError
from common.messages import decode_message
from common.node_environment import process_environment
from common.peers import Peers
from tests.support.app_bundles import relay_bundle
from tests.support.flower_messages import request
from tests.support.node_runtime import SECRET, NodeRuntime, node_runtime
from tests.support.shared_python import shared_scripts

Header = dict[str, JsonValue]
ROOT = Path(__file__).resolve().parents[3]
DESCRIBED: Header = {
    "region": "region-1",
    "protocol": 1,
    "engine": "ab" * 32,
    "trainer_key": "cd" * 32,
}


@pytest.mark.parametrize("name", ["node", "relay"])
def test_what_meets_the_coordinator_does_not_run_as_root(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    path = Path("x")
    given = ("h:1", path, path, path, 1) if name == "node" else (path, path, path)
    with pytest.raises(InputError, match="does not run as root"):
        getattr(commands, name)(*given)


def test_the_node_is_started_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[supernode.NodeOptions] = []

    def run(options: supernode.NodeOptions) -> int:
        given.append(options)
        return 1

    monkeypatch.setattr(supernode, "run_supernode", run)
    monkeypatch.setattr(commands, "_refuse_root", lambda _: None)
    monkeypatch.setattr("common.structured_log.log_as_json", lambda _: None)
    monkeypatch.setattr("client.node.flower_logging.tame_logging", lambda: None)
    assert commands.node("h:1", Path("ca"), Path("key"), Path("secret"), 7) == 1
    assert given == [supernode.NodeOptions("h:1", Path("ca"), Path("key"), Path("secret"), 7)]


class Engine:
    """An engine that permits one bundle."""

    def __init__(self, permitted: str) -> None:
        self.permitted = permitted
        self.asked: list[str] = []

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, dict[str, np.ndarray]]:
        self.asked.append(method)
        if method == "describe":
            return DESCRIBED, {}
        if header.get("bundle") == self.permitted:
            return {"status": "ok", "region": "region-1"}, {}
        return {"status": "refused", "region": "region-1", "reason": "bundle-not-permitted"}, {}


@pytest.fixture
def runtime() -> Iterator[NodeRuntime]:
    with node_runtime() as runtime:
        yield runtime


def test_the_relay_is_a_process_that_answers_until_it_is_told_to_end(runtime: NodeRuntime) -> None:
    """The whole of it: its own process and user, a real Runtime API, a socket of the engine's."""
    honest, evil = relay_bundle(), relay_bundle(top="import os")
    # Where root tests, an unprivileged user runs it; the engine is the test's own process.
    user = 65_534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short)
        folder.chmod(0o711)
        work, secret = folder / "work", folder / "relay.secret"
        work.mkdir(mode=0o700)
        secret.write_bytes(SECRET)
        secret.chmod(0o400)
        for path in (work, secret):
            os.chown(path, user, -1)
        engine = Engine(bundle_digest(honest))
        group = 65_534 if os.geteuid() == 0 else None
        admitted = Peers(frozenset({user}))
        with serve_channel(engine, folder / "engine.sock", admitted=admitted, group=group):
            process = start_relay(folder, runtime.port, user)
            try:
                runtime.deliver(request({}, message_type="query.describe"), honest)
                assert answer(runtime) == DESCRIBED
                runtime.deliver(request({}, message_type="query.describe"), evil, run_number=2)
                assert answer(runtime)["reason"] == "bundle-not-permitted"
                # Not even its own user's processes may read its memory, where the secret is.
                assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0
            finally:
                process.send_signal(signal.SIGTERM)
                words = process.communicate(timeout=30)[1]
        assert process.returncode == 0, words
        assert engine.asked == ["admit", "describe", "admit"]
        assert '"confinement-complete"' in words
        assert list(work.iterdir()) == []


def start_relay(folder: Path, port: int, user: int) -> subprocess.Popen[str]:
    options = ["--secret", folder / "relay.secret", "--work", folder / "work"]
    options += ["--engine-socket", folder / "engine.sock", "--runtime-port", str(port)]
    options += ["--engine-user", str(os.geteuid())]
    code = "from client.cli import main; main()"
    return subprocess.Popen(
        [shared_scripts(folder) / "python", "-c", code, "relay", *map(str, options)],
        env=process_environment(folder / "work"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **({"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}),
    )


def answer(runtime: NodeRuntime) -> Header:
    waiting = threading.Event()
    for _ in range(1200):
        if replies := runtime.replies():
            return decode_message(replies[0].content)[0]
        waiting.wait(0.05)
    raise AssertionError("the relay gave no answer within a minute")
