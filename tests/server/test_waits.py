"""Every wait of the coordinator ends at a bound that its configuration names in seconds.

Time passes here only when it is waited for, so that what is waited is known to the second.
"""

from __future__ import annotations

import ast
import math
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Message
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.superlink.grid import http_grid

from common.errors import FederationError
from server.app import run_server
from server.config import ServerConfig
from server.grid_exchange import bounded_superlink
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation
from tests.support.flower_messages import as_server
from tests.support.schedule_grid import ScheduledGrid, Script, VirtualTime

ROOT = Path(__file__).resolve().parents[2]
ROUND_S, NODES_S, DESCRIBE_S, WITNESS_S = 20, 7.0, 5.0, 11.0
ROUNDS, WAVES, PASSES = 3, 2, 3
SLACK_S = 1.0
Lost = Callable[[str, int, int], bool]


class Deaf(Script):
    """A script of messages that are lost: by kind, node and how often the kind was sent to it."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(1)
        self._lost = lost
        self._sent: dict[tuple[str, int], int] = {}

    def happens(self, probability: float, what: str) -> bool:
        place, _, fault = what.partition(": ")
        if fault != "request lost":
            return False
        kind, _, node = place.rpartition(" of node ")
        key = (kind, int(node))
        self._sent[key] = self._sent.get(key, 0) + 1
        return self._lost(kind, int(node), self._sent[key])


@contextmanager
def federation(folder: Path, **plan: Any) -> Iterator[FakeFederation]:
    with open_federation(folder, fake_plan(round_timeout_s=ROUND_S, **plan)) as opened:
        yield opened


def waited(opened: FakeFederation, lost: Lost) -> tuple[float, FederationError | None]:
    """Runs the coordinator; gives for how long it waited in all, and how it ended."""
    time, error = VirtualTime(), None
    config = ServerConfig.read(
        {
            "server-home": str(opened.home.root),
            "nodes-wait-s": NODES_S,
            "describe-timeout-s": DESCRIBE_S,
            "witness-timeout-s": WITNESS_S,
        }
    )
    with time.installed(), as_server(), opened.channels():
        try:
            run_server(ScheduledGrid(len(opened.engines), time, Deaf(lost)), config)
        except FederationError as failed:
            error = failed
    return time.now_s, error


def test_with_everyone_there_hardly_anything_is_waited_for(tmp_path: Path) -> None:
    with federation(tmp_path) as opened:
        assert waited(opened, lambda *_: False)[0] < SLACK_S


def test_for_nodes_that_do_not_say_who_they_are(tmp_path: Path) -> None:
    with federation(tmp_path) as opened:
        seconds, error = waited(opened, lambda kind, *_: kind == "query.describe")
        assert NODES_S <= seconds < NODES_S + SLACK_S
        assert error is not None
        assert f"After {NODES_S:g} s only 0 of the 2" in error.message


def test_for_one_region_of_a_quorum_once_and_not_again(tmp_path: Path) -> None:
    with federation(tmp_path) as opened:
        seconds, error = waited(
            opened, lambda kind, node, sent: node == 1 and kind == "train" and sent == 1
        )
        assert error is None
        assert ROUND_S <= seconds < ROUND_S + SLACK_S


def test_for_a_quorum_twice_with_a_time_to_settle_between(tmp_path: Path) -> None:
    with federation(tmp_path, quorum=3) as opened:
        seconds, error = waited(opened, lambda kind, node, _: node == 1 and kind == "train")
        assert error is not None
        assert "region-2: no-reply" in error.message
        assert WAVES * ROUND_S <= seconds < WAVES * ROUND_S + DESCRIBE_S + SLACK_S


@pytest.mark.parametrize("kind", ["query.publish", "query.cosign"])
def test_for_the_witnessing_of_a_round(tmp_path: Path, kind: str) -> None:
    with federation(tmp_path) as opened:
        seconds, _ = waited(opened, lambda asked, node, sent: (asked, node, sent) == (kind, 1, 1))
        # In each pass each of the two questions is waited for once at most.
        assert WITNESS_S <= seconds < PASSES * 2 * WITNESS_S + SLACK_S


def test_for_the_cosignatures_to_be_kept_at_the_end(tmp_path: Path) -> None:
    with federation(tmp_path) as opened:
        seconds, error = waited(opened, lambda kind, node, _: node == 1 and kind == "query.keep")
        assert error is not None
        assert "region-2: not-kept" in error.message
        assert seconds < WAVES * (WITNESS_S + NODES_S) + SLACK_S


def test_a_plan_that_waits_less_than_the_witnesses_may_bounds_them_too(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(round_timeout_s=3)) as opened:
        seconds, _ = waited(opened, lambda kind, node, sent: (kind, node, sent) == _FIRST_PUBLISH)
        assert 3 <= seconds < PASSES * 2 * 3 + SLACK_S


_FIRST_PUBLISH = ("query.publish", 1, 1)


class LostSuperLink:
    """Flower's connection to a SuperLink that is gone, with Flower's own way to try again."""

    def __init__(self) -> None:
        self._retry_invoker = make_simple_http_retry_invoker()

    def get_nodes(self) -> object:
        return self._retry_invoker.invoke(self._fail)

    def _fail(self) -> None:
        raise httpx.ConnectError("nobody there")


def test_for_a_superlink_that_is_gone() -> None:
    grid: Any = LostSuperLink()
    assert grid._retry_invoker.max_time is None, "Flower has a bound of its own by now"
    with pytest.raises(FederationError, match=r"could not be reached for 0\.05 s: ConnectError"):
        with bounded_superlink(grid, timeout_s=0.05):
            grid.get_nodes()


def test_for_the_content_of_a_reply_that_was_announced_and_never_sent() -> None:
    def never(_: str) -> bytes:
        raise inflatable_utils.ObjectUnavailableError("not there yet")

    plain = http_grid.pull_objects
    with bounded_superlink(ScheduledGrid(1, VirtualTime(), Script(1)), timeout_s=0.05):
        with pytest.raises(inflatable_utils.ObjectPullError, match="timeout"):
            http_grid.pull_objects(["a"], never, initial_backoff=0.01, backoff_cap=0.02)
    assert http_grid.pull_objects is plain


def test_every_bound_is_in_the_apps_configuration_with_its_default() -> None:
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    fields = {str(each.alias): each for each in ServerConfig.model_fields.values()}
    assert set(app) == set(fields)
    bounds = {name for name in fields if name.endswith("-s")}
    assert len(bounds) >= 5
    for name in bounds:
        assert app[name] == fields[name].default
        limits = {type(each).__name__: each for each in fields[name].metadata}
        assert set(limits) == {"Gt", "Le"}, name
        assert math.isfinite(limits["Le"].le)


def test_nothing_else_in_the_coordinator_waits() -> None:
    """Whoever adds a wait gives it a bound, and a test here."""
    found = {
        (path.name, function.name)
        for path in (ROOT / "server").glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"sleep", "wait", "acquire", "join", "select", "arrived"}
        and not (isinstance(call.func.value, ast.Constant | ast.JoinedStr))
    }
    # Not the coordinator's: what starts, watches and ends it. They pause between two looks; whoever
    # waits for something does so till a deadline.
    outside = {
        ("dispatcher.py", "serve"),
        ("dispatcher.py", "_end_process"),
        ("programs.py", "_wait_until_ready"),
        ("tracking.py", "follow"),
        ("tracking.py", "following"),
    }
    assert found - outside == {
        ("grid_exchange.py", "exchange"),
        ("roster.py", "gather"),
        ("roster.py", "settle"),
        ("roster.py", "wait"),
        ("strategy.py", "start"),
    }
    assert outside <= found


def test_messages_are_not_kept_for_later_than_they_are_waited_for(tmp_path: Path) -> None:
    """A request says for how long it may be answered; beyond that nobody listens."""
    seen: list[Message] = []

    class Noting(ScheduledGrid):
        def push_messages(self, messages: Any) -> list[str]:
            pushed = list(messages)
            seen.extend(pushed)
            return super().push_messages(pushed)

    time = VirtualTime()
    with federation(tmp_path) as opened, time.installed(), as_server(), opened.channels():
        config = ServerConfig.read({"server-home": str(opened.home.root)})
        run_server(Noting(3, time, Deaf(lambda *_: False)), config)
    assert {message.metadata.message_type for message in seen} >= {"train", "query.keep"}
    assert max(message.metadata.ttl for message in seen) <= 180
