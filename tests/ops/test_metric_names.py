"""Alerts, dashboard and documentation name the metrics that there are, and all of them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from client.engine.metrics import EngineMetrics
from client.profiles.metrics import ProfileMetrics
from client.recommend.metrics import LOT, RecommenderMetrics, recommender_checks
from common.metrics_http import Observed
from server.observed_deployment import ObservedDeployment
from server.observing import ServerMetrics
from tests.support.fake_federation import fake_plan, open_federation

ROOT = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"\bfedpref_[a-z_]+\b")
_SUFFIX = re.compile(r"_(?:bucket|sum|count|created)$")


def names(families: Iterable[Metric]) -> set[str]:
    """The names that samples of these families have."""
    return {sample.name for family in families for sample in family.samples}


def engine_names() -> set[str]:
    """All that an engine exposes after a round."""
    metrics = EngineMetrics("region-1", "e" * 64)
    Observed(metrics.registry, {"disk": lambda: None})
    metrics.charged(1.0, 8.0)
    metrics.log_size(12)
    metrics.witness_lag(1.0)
    metrics.round_done("run-1", 1, 1.0, 8, "16-31")
    return names(metrics.registry.collect())


def recommender_names() -> set[str]:
    """All that a recommender exposes after a lot of answers."""
    metrics = RecommenderMetrics("region-1", lambda: "a" * 64)
    Observed(metrics.registry, recommender_checks(tuple))
    for _ in range(LOT):
        metrics.answered(200, 0.01)
    return names(metrics.registry.collect())


def profile_names() -> set[str]:
    """All that the process which keeps profiles current exposes."""
    metrics = ProfileMetrics("region-1", every_s=5.0)
    Observed(metrics.registry, metrics.checks())
    return names(metrics.registry.collect())


def region_names() -> set[str]:
    return engine_names() | recommender_names() | profile_names()


@pytest.fixture(scope="module")
def server_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All that a coordinator's side exposes in a deployment, after a run."""
    around = ObservedDeployment("127.0.0.1", 1, 1, queued=lambda: 0)
    shown = SimpleNamespace(not_valid_after_utc=datetime.datetime.now(datetime.UTC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObservedDeployment, "_certificate", lambda _: shown)
        with open_federation(tmp_path_factory.mktemp("federation"), fake_plan()) as federation:
            federation.run()
            metrics = ServerMetrics(federation.home, more=around.metrics)
            Observed(metrics.registry, {"home": metrics.check})
            return names(metrics.registry.collect())


def test_alerts_and_panels_name_metrics_that_there_are(server_names: set[str]) -> None:
    rules = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())["groups"]
    dashboard = json.loads((ROOT / "ops" / "dashboard.json").read_text())
    texts = [rule["expr"] for group in rules for rule in group["rules"]]
    texts += [each["expr"] for panel in dashboard["panels"] for each in panel.get("targets", [])]
    named = {name for text in texts for name in _NAME.findall(text)}
    assert len(named) > 20
    assert named <= region_names() | server_names


def test_every_metric_is_in_the_operators_table(server_names: set[str]) -> None:
    cells = [
        line.split("|")[1]
        for line in (ROOT / "docs" / "operator.md").read_text().splitlines()
        if line.startswith("| `fedpref_")
    ]
    documented = {name for cell in cells for name in _NAME.findall(cell)}
    assert documented == {_SUFFIX.sub("", name) for name in region_names() | server_names}


def test_no_metric_counts_customers_or_choices(server_names: set[str]) -> None:
    about_people = {
        name
        for name in region_names() | server_names
        if re.search(r"customer|consent|subject|choice|withdraw", name)
    }
    assert about_people == {
        "fedpref_engine_customers_at_least",
        "fedpref_server_region_customers_at_least",
    }
