"""Flower's SuperNode as a region starts it: quick waits, bounded answers, no bundle opened."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import flwr
import httpx
import numpy as np
import pytest
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from client.node import supernode
from client.node.supernode import NodeOptions, harden
from common.errors import FormatError
from tests.support.flower_messages import request
from tests.support.node_runtime import NodeRuntime

OPTIONS = NodeOptions(
    superlink="coordinator.example:9092",
    root_certificates=Path("/region/node/ca.crt"),
    key=Path("/region/node/node_key"),
    secret_file=Path("/region/secrets/node.secret"),
    runtime_port=9094,
)


@pytest.fixture
def hardened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches, taken back at the test's end."""
    for module, names in (
        (start_client_internal, ("time", "get_fused_config_from_fab", "pull_objects")),
        (fleet_http_connection, ("HeartbeatSender", "FleetHttpClient")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    harden()


def test_flower_is_the_version_whose_internals_are_patched() -> None:
    assert flwr.__version__.startswith("1.41.")
    source = Path(start_client_internal.__file__).read_text()
    # The two waits that are paced, and no third.
    assert re.findall(r"\btime\.(\w+\(.*?\))", source) == ["sleep(3)", "sleep(0.5)", "sleep(0.5)"]


def test_flower_knows_the_options_and_runs_no_app_itself() -> None:
    args = _parse_args_run_supernode().parse_args(OPTIONS.arguments()[1:])
    assert args.superlink == "coordinator.example:9092"
    assert not args.insecure
    assert args.isolation == "process"
    assert args.host == "127.0.0.1"
    assert args.runtime_dependency_install is False
    assert args.superexec_auth_secret_file == "/region/secrets/node.secret"
    assert args.auth_supernode_private_key == "/region/node/node_key"


def test_waits_are_short_at_first_and_never_longer_than_flowers(hardened: None) -> None:
    slept: list[float] = []
    paced = supernode._PacedTime(slept.append)
    paced.sleep(3)
    paced.sleep(0.5)
    paced.sleep(0.5)
    paced.sleep(3)
    assert slept == [0.2, 0.02, 0.02, 0.2]
    assert isinstance(start_client_internal.time, supernode._PacedTime)


def test_a_bundle_is_passed_on_unopened_and_the_runs_settings_are_dropped(hardened: None) -> None:
    runtime = NodeRuntime()
    # No archive at all: Flower's own reading of it would fail.
    assert runtime.deliver(request({}), b"no archive")
    context = runtime.state.get_run_series_context(0)
    assert context is not None
    assert context.run_config == {}


def test_without_the_patch_flower_opens_what_it_is_sent() -> None:
    with pytest.raises(Exception, match="zip"):
        NodeRuntime().deliver(request({}), b"no archive")


def test_a_message_over_the_bound_is_dropped_and_the_next_one_taken(
    hardened: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supernode, "MAX_MESSAGE_BYTES", 10_000)
    runtime = NodeRuntime()
    with caplog.at_level(logging.ERROR, logger="fedpref.node"):
        assert not runtime.deliver(request({}, {"x": np.ones(10_000, "<f4")}), b"")
    assert "oversized-message" in caplog.text
    assert runtime.deliver(request({}, {"x": np.ones(10, "<f4")}, message_id="m2"), b"")


def test_an_object_that_does_not_come_holds_up_no_other_message_for_long(
    hardened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "OBJECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(supernode, "_FIRST_LOOK_S", 0.01)
    runtime = NodeRuntime()
    assert not runtime.deliver(request({}), b"", lost=True)
    assert runtime.state.get_tasks()[0].status.sub_status == "failed"
    assert runtime.deliver(request({}), b"")


def client_of(body: bytes, headers: dict[str, str]) -> httpx.Client:
    """The HTTP client of the hardened SuperNode, before a coordinator that answers so."""
    client = supernode._BoundedClient("https://coordinator.example")
    client._client._transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))
    )
    return client._client


def test_an_answer_within_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "MAX_RESPONSE_BYTES", 100)
    assert client_of(b"x" * 100, {}).get("https://coordinator.example/").content == b"x" * 100


def test_an_answer_over_the_bound_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "MAX_RESPONSE_BYTES", 100)
    with pytest.raises(FormatError, match="over"):
        client_of(b"x" * 101, {}).get("https://coordinator.example/")


def test_an_answer_that_would_be_inflated_is_refused() -> None:
    with pytest.raises(FormatError, match="compressed"):
        client_of(b"x", {"content-encoding": "gzip"}).get("https://coordinator.example/")


def test_a_heartbeat_that_fails_for_good_ends_the_process(
    hardened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(supernode.os, "kill", lambda *call: ended.append(call))

    def refused() -> bool:
        raise RuntimeError("the SuperLink does not recognise this SuperNode")

    sender = fleet_http_connection.HeartbeatSender(refused)
    sender._run()
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_a_node_whose_connection_ends_ends(monkeypatch: pytest.MonkeyPatch, hardened: None) -> None:
    monkeypatch.setattr(supernode, "flower_supernode", lambda: None)
    monkeypatch.setattr(sys, "argv", [])
    assert supernode.run_supernode(OPTIONS) == 1
    assert sys.argv[0] == "flower-supernode"


def test_telemetry_is_off_whatever_the_environment_says() -> None:
    code = (
        "from common.node_environment import be_quiet; be_quiet();"
        "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    )
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "0", ended.stderr
