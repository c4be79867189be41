"""The guarded SuperLink as a process: what each port answers, to whom. Pinned to flwr 1.41."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import Message

from common.errors import FederationError
from server import superlink
from server.control import ControlApi, encoded_key, open_control
from server.deployment import Deployment
from tests.support.small_deployment import (
    declaration,
    one_user,  # noqa: F401 - used by itself
    provisioned,
)


@dataclass(frozen=True)
class Served:
    """A SuperLink that runs."""

    deployment: Deployment
    port: int
    admin_port: int
    process: subprocess.Popen[bytes]

    def fleet(self, call: str, message: Message, **headers: str) -> httpx.Response:
        trust = ssl.create_default_context(cafile=str(self.deployment.ca_certificate))
        return httpx.post(
            f"https://127.0.0.1:{self.port}{call}",
            content=message.SerializeToString(),
            headers={"content-type": PROTOBUF_MEDIA_TYPE, **headers},
            verify=trust,
        )

    def admin(self, call: str, message: Message, **headers: str) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{self.admin_port}{call}",
            content=message.SerializeToString(),
            headers={"content-type": PROTOBUF_MEDIA_TYPE, **headers},
        )


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(deployment: Deployment) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "server.superlink", str(deployment.root)],
        stderr=(deployment.root / "superlink.log").open("ab"),
        env={**os.environ, "FLWR_HOME": str(deployment.superlink / ".flwr")},
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port, admin_port = free_ports(2)
    tables = declaration(server={"port": port, "admin_port": admin_port, "bind": "127.0.0.1"})
    tables["server"]["request_bytes_max"] = 1 << 20  # type: ignore[index]
    deployment, _ = provisioned(tmp_path_factory.mktemp("superlink"), tables)
    process = run(deployment)
    found = Served(deployment, port, admin_port, process)
    deadline = time.monotonic() + 60
    with open_control(admin_port, deployment.token(deployment.coordinator)) as api:
        while True:
            try:
                api.nodes()
                break
            except FederationError:
                assert process.poll() is None, (deployment.root / "superlink.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
    yield found
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture
def api(served: Served) -> Iterator[ControlApi]:
    token = served.deployment.token(served.deployment.coordinator)
    with open_control(served.admin_port, token) as opened:
        yield opened


def activation(
    key: ec.EllipticCurvePrivateKey, claimed: bytes | None = None
) -> tuple[ActivateNodeRequest, dict[str, str]]:
    """A node's first call, signed by a key, for the key it claims to have."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stated = claimed or public
    timestamp = datetime.datetime.now(datetime.UTC).isoformat()
    signature = key.sign(timestamp.encode("ascii"), ec.ECDSA(SHA256()))
    return ActivateNodeRequest(public_key=stated, heartbeat_interval=30.0), {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(stated).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode(),
        TIMESTAMP_HEADER: timestamp,
    }


def openssh(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_it_was_written_for_the_flower_that_is_installed() -> None:
    # `server.superlink` and `server.control` reach into Flower: read both again for another one.
    assert metadata.version("flwr") == "1.41.0"


def test_the_regions_port_has_neither_control_nor_runtime(served: Served) -> None:
    token = served.deployment.token(served.deployment.superlink).read_text().strip()
    for call in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task"):
        answer = served.fleet(call, ListNodesRequest(), **{"x-fedpref-admin": token})
        assert (answer.status_code, answer.content) == (404, b"")


def test_nobody_registers_a_node_by_themselves(served: Served) -> None:
    assert served.fleet("/v1/fleet/register-node", ActivateNodeRequest()).status_code == 404


def test_control_on_the_loopback_port_asks_for_the_token(served: Served) -> None:
    assert served.admin("/v1/control/list-nodes", ListNodesRequest()).status_code == 401
    wrong = {"x-fedpref-admin": "0" * 64}
    assert served.admin("/v1/control/list-nodes", ListNodesRequest(), **wrong).status_code == 401


def test_nobody_without_the_secret_takes_a_task(served: Served) -> None:
    request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
    assert served.admin("/v1/runtime/acquire-task", request).status_code in (401, 403)


def test_only_a_registered_node_with_its_own_key_is_let_in(served: Served, api: ControlApi) -> None:
    mine, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    request, headers = activation(mine)
    assert served.fleet("/v1/fleet/activate-node", request, **headers).status_code != 200
    node_id = api.register("region-1", encoded_key(openssh(mine)), "52.5,13.4")
    answer = served.fleet("/v1/fleet/activate-node", request, **activation(mine)[1])
    assert answer.status_code == 200
    activated = ActivateNodeResponse()
    activated.ParseFromString(answer.content)
    assert activated.node_id == node_id
    # Another key's signature under this node's name.
    claimed = encoded_key(openssh(mine))
    forged, headers = activation(other, claimed)
    assert served.fleet("/v1/fleet/activate-node", forged, **headers).status_code == 401
    (node,) = [each for each in api.nodes() if each.name == "region-1"]
    assert (node.node_id, node.public_key, node.status) == (node_id, claimed, "online")
    api.unregister(node_id)
    assert api.nodes() == []
    refused = served.fleet("/v1/fleet/activate-node", request, **activation(mine)[1])
    assert refused.status_code != 200


def test_a_request_that_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    request = ActivateNodeRequest(public_key=bytes(1 << 21))
    assert served.fleet("/v1/fleet/activate-node", request).status_code == 413


def test_the_regions_port_speaks_tls_1_3_only(served: Served) -> None:
    old = ssl.create_default_context(cafile=str(served.deployment.ca_certificate))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.port)) as plain:
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(plain, server_hostname="127.0.0.1")
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{served.port}/v1/fleet/activate-node")


def test_a_run_that_is_unknown_is_gone(api: ControlApi) -> None:
    assert api.status(12345) == ""
    with pytest.raises(FederationError, match="does not stop the run"):
        api.stop(12345)


def test_what_is_no_bundle_is_not_started(api: ControlApi) -> None:
    with pytest.raises(FederationError, match="does not start the run"):
        api.start(b"not a bundle", {})


def test_refusals_are_on_record_without_what_was_sent(served: Served) -> None:
    log = (served.deployment.root / "superlink.log").read_text()
    for reason in ("not-fleet-api", "no-admin-token", "not-authenticated", "too-large"):
        assert f'"reason": "{reason}"' in log
    assert "BEGIN PUBLIC KEY" not in log


def test_a_port_in_use_is_named(served: Served) -> None:
    second = run(served.deployment)
    assert second.wait(60) == 3
    log = (served.deployment.root / "superlink.log").read_text()
    assert f"The port {served.admin_port} of 127.0.0.1 cannot be used" in log
    assert "federation.toml" in log


def test_what_is_no_deployment_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What this process itself says stays as pytest has it.
    monkeypatch.setattr(superlink, "log_as_json", lambda _: None)
    monkeypatch.setattr(superlink, "_tell_flower", lambda: None)
    assert superlink.main([str(tmp_path)]) == 3
    assert "is not a deployment" in capsys.readouterr().err
