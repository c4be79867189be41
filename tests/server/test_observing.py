"""The coordinator's metrics: worked out from log and events, the same again after a restart."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from common import canonical_json
from common.durable_file import write_durably
from common.errors import FederationError, InputError, PolicyError, StorageError
from common.plan import epsilon_bound
from server.config import ServerHome
from server.events import EventWriter
from server.observed_home import ObservedEvents, ObservedLog, StatedByRegion
from server.observing import ALERTED_REASONS, ServerMetrics
from server.run_figures import epsilon_after, update_bytes
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FakeFederation]:
    with open_federation(tmp_path, fake_plan()) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """The home of a run whose second region was refused in round 2; read only."""
    with open_federation(tmp_path_factory.mktemp("finished"), fake_plan()) as opened:

        def refuse(server_round: int) -> None:
            if server_round == 2:
                raise PolicyError("Not permitted.")

        opened.engines["region-2"].before_train = refuse
        opened.run()
        return opened.home


def exposed(metrics: ServerMetrics) -> dict[str, float]:
    """Every sample, by name and labels without the prefix."""
    text = generate_latest(metrics.registry).decode()
    return {
        sample.name.removeprefix("fedpref_server_")
        + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_that_was_never_started_waits(federation: FakeFederation) -> None:
    found = exposed(ServerMetrics(federation.home))
    assert found["run_state|run-1|waiting"] == 1
    assert found["run_round|run-1"] == 0
    assert found["run_rounds_planned|run-1"] == 3
    assert found["run_epsilon_spent|run-1"] == 0
    assert found["log_size"] == 0
    assert "witness_lag_seconds" not in found
    assert not federation.home.log.exists()


def test_a_finished_run_is_told_from_log_and_events(finished: ServerHome) -> None:
    plan = finished.read_plan()
    found = exposed(ServerMetrics(finished))
    expected = {
        "info|test.example": 1,
        "run_state|run-1|finished": 1,
        "run_state|run-1|running": 0,
        "run_round|run-1": 3,
        "run_epsilon_planned|run-1": 1,
        "run_round_timeout_seconds|run-1": 60,
        "updates_total": 8,
        "round_seconds_count": 3,
        "incidents_total|not-permitted|region-2": 1,
        "incidents_total|not-permitted|region-1": None,
        "region_customers_at_least|region-1": 8,
        "region_customers_at_least|region-2": 8,
        "region_epsilon_spent|region-3": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["run_epsilon_spent|run-1"] == pytest.approx(
        epsilon_bound(plan.privacy_events(), float(plan.delta))
    )
    first, later = (update_bytes(plan, each.name) for each in plan.mechanisms)
    assert found["update_bytes_total"] == 3 * first + 5 * later
    assert found["run_published_timestamp_seconds|run-1"] > 1.7e9
    assert found["run_last_event_timestamp_seconds|run-1"] > 1.7e9
    assert found["log_size"] > 4


def test_who_looks_again_counts_the_same(finished: ServerHome) -> None:
    metrics = ServerMetrics(finished)
    first = exposed(metrics)
    created = "round_seconds_created"
    assert {**exposed(metrics), "witness_lag_seconds": 0} == {**first, "witness_lag_seconds": 0}
    anew = exposed(ServerMetrics(finished))
    for found in (first, anew):
        del found["witness_lag_seconds"], found[created]
    assert first == anew


def test_the_lag_grows_from_the_last_time_others_cosigned(finished: ServerHome) -> None:
    events = ObservedEvents(finished.events)
    events.read_on()
    assert events.witnessed_ms is not None
    later_s = events.witnessed_ms / 1000 + 90
    found = exposed(ServerMetrics(finished, clock_s=lambda: later_s))
    assert found["witness_lag_seconds"] == pytest.approx(90)


def test_a_run_is_followed_as_it_goes_on(federation: FakeFederation) -> None:
    metrics = ServerMetrics(federation.home)
    assert exposed(metrics)["run_state|run-1|waiting"] == 1
    federation.run_config["last-round"] = 1
    federation.run()
    found = exposed(metrics)
    assert (found["run_round|run-1"], found["run_state|run-1|paused"]) == (1, 1)
    assert found["round_seconds_count"] == 1
    del federation.run_config["last-round"]
    federation.run()
    found = exposed(metrics)
    assert (found["run_round|run-1"], found["run_state|run-1|finished"]) == (3, 1)
    assert found["round_seconds_count"] == 3


def test_a_failed_run_says_so_till_it_goes_on(federation: FakeFederation) -> None:
    def refuse(_: int) -> None:
        raise PolicyError("Not permitted.")

    for engine in federation.engines.values():
        engine.before_train = refuse
    metrics = ServerMetrics(federation.home)
    with pytest.raises(FederationError):
        federation.run()
    found = exposed(metrics)
    assert found["run_state|run-1|failed"] == 1
    assert found["incidents_total|below-quorum|"] == 1
    with EventWriter(federation.home.events, "run-1") as events:
        events.write("round-started", round=1)
    assert exposed(metrics)["run_state|run-1|failed"] == 0


def test_runs_of_one_home_share_its_log(finished: ServerHome, tmp_path: Path) -> None:
    root = tmp_path / "server"
    shutil.copytree(finished.root, root)
    plan = finished.read_plan()
    for name, run in (("first", "run-1"), ("second", "run-2")):
        (root / "runs" / name).mkdir(parents=True)
        record = plan.to_record() | {"run_id": run}
        write_durably(root / "runs" / name / "plan.json", canonical_json.encode(record))
    (root / "events.jsonl").rename(root / "runs" / "first" / "events.jsonl")
    found = exposed(ServerMetrics(ServerHome(root)))
    assert (found["run_round|run-1"], found["run_round|run-2"]) == (3, 0)
    assert found["run_state|run-1|finished"] == found["run_state|run-2|waiting"] == 1
    assert found["updates_total"] == 8


def test_reasons_that_alerts_name_are_counted_from_zero(federation: FakeFederation) -> None:
    """Of a series that begins with 1 Prometheus sees no increase."""
    found = exposed(ServerMetrics(federation.home))
    for region in ("", *federation.plan.regions):
        for reason in ALERTED_REASONS:
            assert found[f"incidents_total|{reason}|{region}"] == 0
    rules = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())
    named = {
        reason
        for group in rules["groups"]
        for rule in group["rules"]
        for part in rule["expr"].split("fedpref_server_incidents_total{")[1:]
        for reason in part.partition('"')[2].partition('"')[0].split("|")
    }
    assert named
    assert named <= set(ALERTED_REASONS)


def test_what_is_around_the_home_is_told_too(finished: ServerHome) -> None:
    def more() -> list[Metric]:
        return [GaugeMetricFamily("fedpref_server_queued_runs", "Queued.", value=2)]

    assert exposed(ServerMetrics(finished, more=more))["queued_runs"] == 2


def test_a_home_that_cannot_be_read_fails_the_scrape(finished: ServerHome, tmp_path: Path) -> None:
    shutil.copytree(finished.root, tmp_path / "server")
    home = ServerHome(tmp_path / "server")
    metrics = ServerMetrics(home)
    assert metrics.check() is None
    home.log.write_bytes(b"no database" * 100)
    with pytest.raises(StorageError):
        metrics.check()
    with pytest.raises(StorageError):
        generate_latest(metrics.registry)


def test_a_log_that_went_back_is_refused(federation: FakeFederation, finished: ServerHome) -> None:
    log = ObservedLog(finished.log)
    log.read_on()
    assert log.size > 0
    with federation.trail() as trail:
        short = trail.log.size
    assert 0 < short < log.size
    log._path = federation.home.log
    with pytest.raises(StorageError, match=f"had {log.size} entries and has {short}"):
        log.read_on()


def test_a_malformed_entry_is_named(finished: ServerHome, tmp_path: Path) -> None:
    log = ObservedLog(finished.log)
    with pytest.raises(InputError, match=r"Entry 7 of the log .* is malformed"):
        log._take(7, b"no envelope")


def test_events_that_a_hand_changed_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = ObservedEvents(path)
    events.read_on()
    assert events.state == "waiting"
    with EventWriter(path, "run-1") as writer:
        writer.write("round-started", round=1)
        writer.write("region-replied", region="region-1", customers="16-31", epsilon_total="0.5")
        writer.write("region-replied", region="region-2", customers="4711", epsilon_total="x")
    with path.open("ab") as file:
        file.write(b'no event\n[]\n{"event":"run-failed"}\n{"event":"run-fin')
    events.read_on()
    assert events.state == "running"
    assert events.stated == {
        "region-1": StatedByRegion(16, 0.5),
        "region-2": StatedByRegion(None, None),
    }
    with EventWriter(path, "run-1") as writer:
        writer.write("run-finished")
    events.read_on()
    assert events.state == "finished"


def test_epsilon_of_some_rounds_never_goes_down() -> None:
    plan = fake_plan()
    spent = [epsilon_after(plan, rounds) for rounds in range(plan.total_rounds + 1)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert spent[-1] <= float(plan.epsilon) * (1 + 1e-9)


def test_the_log_is_opened_for_reading_only(finished: ServerHome) -> None:
    """A coordinator that writes holds the lock; whoever looks must not need it."""
    with sqlite3.connect(finished.log) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert exposed(ServerMetrics(finished))["log_size"] > 0
        writer.rollback()
