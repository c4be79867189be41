"""Flower is 1.41, and its own clients are what is attacked with."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import httpx
import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.run_superexec import _SUPEREXEC_AUTH_METHODS
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet
from flwr.supernode.fleet_http_connection import http_request_response

from simulations.deployment_attacks import doors
from simulations.deployment_attacks.doors import Door, refusal, start_run, take_task
from simulations.deployment_attacks.tls import free_port


def test_it_is_flower_1_41() -> None:
    assert version("flwr").startswith("1.41.")


def test_what_asks_for_the_secret_is_what_flower_protects() -> None:
    assert frozenset({doors._ACQUIRE}) == _SUPEREXEC_AUTH_METHODS


def test_a_node_s_connection_has_the_callbacks_that_are_used() -> None:
    source = inspect.getsource(http_request_response)
    given = source[source.index("yield (") + len("yield (") :]
    order = [each.strip() for each in given[: given.index(")")].split(",") if each.strip()]
    assert order == [
        *("node.node_id", "receive", "send", "get_run", "get_fab"),
        *("pull_object", "push_object", "confirm_message_received"),
    ]


def test_flower_serves_control_and_fleet_at_one_port() -> None:
    paths = {route.path for router in (control, fleet) for route in router.routes}
    assert {"/v1/control/start-run", "/v1/control/register-node"} <= paths
    assert "/v1/fleet/push-messages" in paths


def test_a_door_with_nobody_behind_it_is_a_refusal_and_no_crash() -> None:
    door = Door(f"127.0.0.1:{free_port()}", None)
    with pytest.raises(httpx.HTTPError) as raised:
        start_run(door, b"bundle", {})
    assert refusal(raised.value) == "ConnectError"
    with pytest.raises(httpx.ConnectError):
        take_task(door, TaskType.SERVER_APP, run=None, look_for_s=1.0)


def test_a_refusal_names_the_status() -> None:
    response = httpx.Response(404, request=httpx.Request("POST", "https://127.0.0.1/"))
    error = httpx.HTTPStatusError("no", request=response.request, response=response)
    assert refusal(error) == "HTTP 404"
