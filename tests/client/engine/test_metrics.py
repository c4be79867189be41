"""An engine's metrics and journal: what is told, and that no number of customers is."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client.engine.home import RegionHome
from client.engine.incidents import _REASONS
from client.engine.journal import EngineJournal
from client.engine.metrics import (
    ALERTED_REASONS,
    MAX_REASONS,
    EngineMetrics,
    engine_checks,
    watched,
)
from client.engine.observing import EngineObserver, Observers, Unobserved
from common import disk
from common.errors import InputError
from common.loopback import LoopbackAddress
from common.structured_log import JsonFormatter

ROOT = Path(__file__).resolve().parents[3]
REGION, ENGINE = "region-1", "e" * 64


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> EngineMetrics:
    return EngineMetrics(REGION, ENGINE, clock_s=clock)


def exposed(metrics: EngineMetrics) -> dict[str, float]:
    """Every sample, by name and labels."""
    text = generate_latest(metrics.registry).decode()
    return {
        sample.name
        + "".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(observer: EngineObserver, *, bucket: str = "256-511") -> None:
    """Tells an observer a round's story."""
    observer.charged(0.0, 8.0)
    observer.log_size(1234)
    observer.witness_lag(2.5)
    observer.charged(1.25, 8.0)
    observer.round_done("run-1", 3, 12.5, 4096, bucket)
    observer.refused("not-permitted")
    observer.refused("not-permitted")


def test_before_anything_happens_only_what_is_known_is_told(metrics: EngineMetrics) -> None:
    found = exposed(metrics)
    assert found[f"fedpref_engine_info|engine={ENGINE}|region={REGION}"] == 1
    assert found["fedpref_engine_started_timestamp_seconds"] == 1_000
    assert found["fedpref_engine_rounds_total"] == 0
    absent = ("last_round", "customers", "epsilon", "published_log_size", "witness_lag")
    assert not [name for name in found if any(f"engine_{part}" in name for part in absent)]


def test_what_the_observer_is_told_is_exposed(metrics: EngineMetrics, clock: Clock) -> None:
    told(metrics)
    clock.now_s = 1_060.0
    found = exposed(metrics)
    expected = {
        "rounds_total": 1,
        "released_bytes_total": 4096,
        "round_seconds_count": 1,
        "round_seconds_sum": 12.5,
        "round_seconds_bucket|le=10.0": 0,
        "round_seconds_bucket|le=30.0": 1,
        "refusals_total|reason=not-permitted": 2,
        "last_round|run=run-1": 3,
        "last_round_timestamp_seconds": 1_000,
        "customers_at_least": 256,
        "epsilon_spent": 1.25,
        "epsilon_cap": 8,
        "epsilon_left": 6.75,
        "published_log_size": 1234,
        "witness_lag_seconds": 62.5,
    }
    assert {name: found[f"fedpref_engine_{name}"] for name in expected} == expected


def test_only_the_newest_run_is_named(metrics: EngineMetrics) -> None:
    """A label for each run would grow for as long as the engine is up."""
    told(metrics)
    metrics.round_done("run-2", 1, 1.0, 8, "1-1")
    names = [name for name in exposed(metrics) if "last_round|" in name]
    assert names == ["fedpref_engine_last_round|run=run-2"]


def test_a_clock_that_was_set_back_gives_no_negative_lag(
    metrics: EngineMetrics, clock: Clock
) -> None:
    metrics.witness_lag(0.0)
    clock.now_s = 0.0
    assert exposed(metrics)["fedpref_engine_witness_lag_seconds"] == 0


@pytest.mark.parametrize("bucket", ["4711", "4711-9421", "256-512", "", "customer-4711"])
def test_what_may_be_a_count_is_not_shown(metrics: EngineMetrics, bucket: str) -> None:
    told(metrics)
    told(metrics, bucket=bucket)
    found = exposed(metrics)
    assert "fedpref_engine_customers_at_least" not in found
    assert "4711" not in generate_latest(metrics.registry).decode()


@given(st.integers(min_value=1, max_value=2**40), st.data())
def test_two_numbers_of_one_interval_look_the_same(count: int, data: st.DataObject) -> None:
    low = 1 << (count.bit_length() - 1)
    other = data.draw(st.integers(min_value=low, max_value=2 * low - 1))
    texts = []
    for number in (count, other):
        floor = 1 << (number.bit_length() - 1)
        metrics = EngineMetrics(REGION, ENGINE, clock_s=lambda: 1_000.0)
        told(metrics, bucket=f"{floor}-{2 * floor - 1}")
        lines = generate_latest(metrics.registry).decode().splitlines()
        texts.append([line for line in lines if "_created" not in line])
    assert texts[0] == texts[1]


def test_there_are_no_figures_of_the_process(metrics: EngineMetrics) -> None:
    """Memory and processor time follow the number of customers."""
    told(metrics)
    assert all(name.startswith("fedpref_engine_") for name in exposed(metrics))


def test_reasons_that_alerts_name_are_counted_from_zero(metrics: EngineMetrics) -> None:
    """Of a series that begins with 1 Prometheus sees no increase."""
    found = exposed(metrics)
    for reason in ALERTED_REASONS:
        assert found[f"fedpref_engine_refusals_total|reason={reason}"] == 0
    rules = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())
    named = {
        reason
        for group in rules["groups"]
        for rule in group["rules"]
        for part in rule["expr"].split("fedpref_engine_refusals_total{")[1:]
        for reason in part.partition('"')[2].partition('"')[0].split("|")
    }
    assert named
    assert named <= set(ALERTED_REASONS)
    assert {"budget-exhausted", "not-permitted", "clock-behind"} <= {code for _, code in _REASONS}


def test_reasons_cannot_grow_without_end(metrics: EngineMetrics) -> None:
    for number in range(2 * MAX_REASONS):
        metrics.refused(f"reason-{number}")
    metrics.refused("customer 4711")
    found = [name for name in exposed(metrics) if "refusals_total" in name]
    assert len(found) == MAX_REASONS + 1
    assert exposed(metrics)["fedpref_engine_refusals_total|reason=other"] > MAX_REASONS / 2
    assert "4711" not in generate_latest(metrics.registry).decode()


def test_an_unobserved_engine_tells_nobody() -> None:
    told(Unobserved())


def test_each_of_several_observers_is_told(clock: Clock) -> None:
    first, second = (
        EngineMetrics(REGION, ENGINE, clock_s=clock),
        EngineMetrics(REGION, ENGINE, clock_s=clock),
    )
    told(Observers(first, second))
    created = "fedpref_engine_round_seconds_created"
    assert {**exposed(first), created: 0} == {**exposed(second), created: 0}
    assert exposed(first)["fedpref_engine_rounds_total"] == 1


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What the engine's logger writes, as its process does."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("engine"))
    logger = logging.getLogger("fedpref.engine")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_the_journal_says_each_thing_with_its_fields(said: io.StringIO) -> None:
    told(EngineJournal(REGION))
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    for line in lines:
        assert "fields_withheld" not in line
        assert line.pop("region") == REGION
        for name in ("time", "process", "logger"):
            del line[name]
    assert lines == [
        {"level": "info", "event": "budget", "epsilon": "0.000000", "epsilon_cap": "8.000000"},
        {"level": "info", "event": "log-published", "log_size": 1234},
        {"level": "info", "event": "log-witnessed", "witness_lag_s": 2.5},
        {"level": "info", "event": "budget", "epsilon": "1.250001", "epsilon_cap": "8.000000"},
        {
            "level": "info",
            "event": "round-done",
            "run": "run-1",
            "round": 3,
            "seconds": 12.5,
            "bytes": 4096,
            "customers": "256-511",
        },
        {"level": "warning", "event": "refused", "reason": "not-permitted"},
        {"level": "warning", "event": "refused", "reason": "not-permitted"},
    ]


def test_the_journal_withholds_what_may_be_a_count(said: io.StringIO) -> None:
    told(EngineJournal(REGION), bucket="4711")
    assert "4711" not in said.getvalue()
    assert "fields_withheld" in said.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return RegionHome(tmp_path, REGION, "test.example")


def test_an_engine_is_ready_with_its_socket_and_room_on_the_disk(
    home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = engine_checks(home, tmp_path / "engine.sock")
    assert checks["relay-socket"]() == "gone"
    (tmp_path / "engine.sock").touch()
    assert checks["relay-socket"]() == "gone"
    assert checks["disk"]() is None
    monkeypatch.setattr(disk, "FREE_DISK_MIN_BYTES", 1 << 60)
    assert checks["disk"]() == "full"


def test_a_watched_engine_serves_its_metrics_where_it_is_told(
    home: RegionHome, tmp_path: Path, said: io.StringIO
) -> None:
    address = LoopbackAddress("127.0.0.1", 0)
    with watched(home, tmp_path / "engine.sock", address) as watching:
        told(watching.observer)
        with urlopen(f"http://{watching.address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    assert 'fedpref_ready{check="relay-socket"} 0.0' in text
    assert "fedpref_engine_customers_at_least 256.0" in text
    assert '"round-done"' in said.getvalue()


def test_without_an_address_nothing_is_served(
    home: RegionHome, tmp_path: Path, said: io.StringIO
) -> None:
    with watched(home, tmp_path / "engine.sock", None) as watching:
        assert watching.address is None
        told(watching.observer)
    assert '"round-done"' in said.getvalue()


def test_an_address_in_use_is_refused(home: RegionHome, tmp_path: Path) -> None:
    with watched(home, tmp_path / "a.sock", LoopbackAddress("127.0.0.1", 0)) as watching:
        assert watching.address is not None
        with pytest.raises(InputError, match="Address already in use"):
            with watched(home, tmp_path / "b.sock", watching.address):
                pass
