"""What the recommender's metrics tell, and that no single request shows in them."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.recommend.metrics import LOT, Measured, RecommenderMetrics, recommender_checks
from common.metrics_http import Observed

NOW_S = 1_700_000_000.0
COUNT = "fedpref_recommender_request_seconds_count"


def exposed(metrics: RecommenderMetrics) -> dict[str, float]:
    """Every sample without labels, and the buckets by their bound."""
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_no_single_answer_shows() -> None:
    """What is exposed is the same before and after each request of a lot, but for the last."""
    metrics = RecommenderMetrics("region-1", lambda: "a" * 64)
    before = exposed(metrics)
    assert before[COUNT] == 0
    for number in range(1, LOT):
        metrics.answered(200 if number % 3 else 404, 0.003)
        assert exposed(metrics) == before
    metrics.answered(200, 0.3)
    after = exposed(metrics)
    assert after[COUNT] == LOT
    assert after["fedpref_recommender_request_seconds_bucket0.005"] == LOT - 1
    assert after["fedpref_recommender_request_seconds_bucket0.5"] == LOT
    metrics.answered(200, 0.003)
    assert exposed(metrics) == after


def test_what_the_service_fails_at_is_told_one_by_one() -> None:
    metrics = RecommenderMetrics("region-1", lambda: "a" * 64)
    names = [f"fedpref_recommender_{each}_total" for each in ("not_admitted", "failures")]
    assert [exposed(metrics)[name] for name in names] == [0, 0]
    for status in (200, 401, 404, 422, 500, 503, 401):
        metrics.answered(status, 0.001)
    assert [exposed(metrics)[name] for name in names] == [2, 2]


def test_when_store_and_model_were_last_read() -> None:
    clock = [NOW_S]
    metrics = RecommenderMetrics("region-1", lambda: "a" * 64, clock_s=lambda: clock[0])
    at, failed = (
        f"fedpref_recommender_{name}"
        for name in ("refreshed_timestamp_seconds", "refresh_failures_total")
    )
    assert (exposed(metrics)[at], exposed(metrics)[failed]) == (NOW_S, 0)
    clock[0] += 60
    metrics.refreshed(False)
    assert (exposed(metrics)[at], exposed(metrics)[failed]) == (NOW_S, 1)
    metrics.refreshed(True)
    assert (exposed(metrics)[at], exposed(metrics)[failed]) == (NOW_S + 60, 1)
    assert exposed(metrics)["fedpref_recommender_started_timestamp_seconds"] == NOW_S


def test_the_model_is_the_one_served_now() -> None:
    models = iter(["a" * 64, "b" * 64])
    metrics = RecommenderMetrics("region-1", lambda: next(models))
    found = [
        sample.labels
        for _ in range(2)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "fedpref_recommender_info"
    ]
    assert found == [{"region": "region-1", "model": name * 64} for name in "ab"]


def test_what_is_wrong_is_not_told_on() -> None:
    """A fault names files: whoever reads metrics learns only that there is one."""
    faults: list[str] = []
    metrics = RecommenderMetrics("region-1", lambda: "a" * 64)
    observed = Observed(metrics.registry, recommender_checks(lambda: faults))
    assert observed.readiness() == {"answers": "ok"}
    faults.append("The store sales.csv cannot be read.")
    assert observed.readiness() == {"answers": "less-personal"}


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def nowhere(message: Message) -> None:
    del message


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a defect")


def ask(app: ASGIApp, path: str, told: list[int]) -> None:
    """Asks an application, and notes the status that is told."""
    measured = Measured(
        app,
        api="/api/",
        unmeasured=frozenset({"/api/v1/refresh"}),
        answered=lambda status, _: told.append(status),
    )
    asyncio.run(measured({"type": "http", "path": path}, nothing, nowhere))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/v1/recommendations", [404]),
        ("/api/v1/refresh", []),
        ("/healthz", []),
        ("/try", []),
    ],
)
def test_only_the_api_is_measured(path: str, told: list[int]) -> None:
    found: list[int] = []
    ask(not_found, path, found)
    assert found == told


def test_an_answer_that_never_began_is_a_failure() -> None:
    told: list[int] = []
    with pytest.raises(RuntimeError):
        ask(fails, "/api/v1/model", told)
    assert told == [500]
