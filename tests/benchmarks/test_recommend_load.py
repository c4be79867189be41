"""The load tool counts what it should: from due times, with what was refused or lost in it."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.recommend_load import (
    EVENTS,
    RECOMMENDATIONS,
    Load,
    Target,
    customer_requests,
    main,
    put_load,
)
from common.errors import InputError
from common.loopback import LoopbackAddress
from tests.support.consent_service import free_port, serving
from tests.support.recommender_service import TOKEN, RecommenderService


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    port = free_port()
    service = RecommenderService(host=f"127.0.0.1:{port}")
    with serving(service.app(), port):
        yield Target(TOKEN, LoopbackAddress("127.0.0.1", port))


def test_every_request_is_answered_and_counted(target: Target) -> None:
    requests = customer_requests(target, ["ada", "bo"], count=40)
    event = {"customer": "ada", "kind": "view", "item": "item-003"}
    requests.append(target.request(EVENTS, event))
    load = put_load(target, requests, rate=400.0, connections=4)
    assert (len(load.times_ms), load.refused, load.lost) == (41, 0, 0)
    assert list(load.times_ms) == sorted(load.times_ms)
    assert load.rate > 0


def test_refusals_are_counted_as_such(target: Target) -> None:
    bad = target.request(RECOMMENDATIONS, {"k": 0})
    good = target.request(RECOMMENDATIONS, {"k": 1})
    load = put_load(target, [bad, good, bad], rate=400.0, connections=1, warm_up=0)
    assert (len(load.times_ms), load.refused, load.lost) == (1, 2, 0)
    assert load.quantile_ms(0.99) == math.inf


@contextmanager
def hanging_up() -> Iterator[LoopbackAddress]:
    """A server that reads and goes away."""
    port = free_port()
    ready, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", port):
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        ready.wait()
        yield LoopbackAddress("127.0.0.1", port)
    finally:
        ended.set()
        thread.join()


def test_what_is_not_answered_is_lost() -> None:
    with hanging_up() as address:
        target = Target(TOKEN, address)
        requests = [target.request(RECOMMENDATIONS, {})] * 3
        load = put_load(target, requests, rate=100.0, connections=2, warm_up=0)
    assert (load.times_ms, load.refused, load.lost) == ((), 0, 3)


def test_quantiles_are_of_all_requests() -> None:
    load = Load(tuple(float(ms) for ms in range(1, 100)), refused=1, lost=0, seconds=2.0)
    assert load.quantile_ms(0.5) == 50.0
    assert load.quantile_ms(0.99) == 99.0
    assert load.quantile_ms(1.0) == math.inf
    assert load.rate == 49.5
    assert Load((), 0, 0, 0.0).rate == 0.0


def test_the_command_says_what_it_measured(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, customers = tmp_path / "token", tmp_path / "customers"
    token.write_text(f"{TOKEN}\n")
    customers.write_text("ada\nbo\n")
    status = main(token, customers, address=str(target.address), rate=200.0, seconds=0.1)
    assert status == 0
    said = capsys.readouterr().out
    assert "20 answered, 0 refused, 0 lost" in said
    assert "p99 " in said
    customers.write_text("\n")
    with pytest.raises(InputError, match="names no customer"):
        main(token, customers)
