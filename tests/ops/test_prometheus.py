"""Rules and dashboard as they are shipped, loaded by Debian's Prometheus from real endpoints."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from common.engine_socket import SocketChannel
from common.timestamps import now_ms
from server.events import EventWriter
from tests.support.small_federation import home_of, make_federation

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
TIMEOUT_S = 120.0
Rule = dict[str, Any]


def rules() -> list[Rule]:
    loaded = yaml.safe_load((OPS / "alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=OPS, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_prometheus_accepts_rules_and_example() -> None:
    checked = run("promtool", "check", "config", "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


def test_each_alert_fires_by_what_it_is_about_and_nothing_else_does() -> None:
    tested = run("promtool", "test", "rules", "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = yaml.safe_load((OPS / "alerts_test.yml").read_text())["tests"]
    named = {case["name"] for case in cases}
    assert {rule["alert"] for rule in rules()} <= named


def test_a_rule_whose_bound_is_wrong_fails_its_test(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(OPS / name, tmp_path / name)
    text = (tmp_path / "alerts.yml").read_text()
    assert "0.1 * fedpref_engine_epsilon_cap" in text
    (tmp_path / "alerts.yml").write_text(
        text.replace("0.1 * fedpref_engine_epsilon_cap", "0.01 * fedpref_engine_epsilon_cap")
    )
    tested = run("promtool", "test", "rules", str(tmp_path / "alerts_test.yml"))
    assert tested.returncode != 0
    assert "FedprefBudgetLow" in tested.stdout + tested.stderr


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Fedpref")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "remedy"}


def test_panels_do_not_overlap_and_each_has_its_source() -> None:
    dashboard = json.loads((OPS / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))


class Prometheus:
    """A Prometheus that scrapes some targets and has the shipped rules."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        self._folder, self._targets = folder, targets
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        config = yaml.safe_load((OPS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "300ms", "evaluation_interval": "300ms"}
        config["rule_files"] = [str(OPS / "alerts.yml")]
        jobs = [each for each in config["scrape_configs"] if each["job_name"] in self._targets]
        config["scrape_configs"] = jobs
        for job in jobs:
            job["scrape_timeout"] = "250ms"
            job["static_configs"] = [{"targets": [self._targets[job["job_name"]]]}]
        path = self._folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        command = [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            f"--web.listen-address={self._address}",
            "--log.level=error",
        ]
        process = subprocess.Popen(command, cwd=self._folder)
        try:
            yield
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)

    def ask(self, path: str) -> Any:
        with urlopen(f"http://{self._address}/api/v1/{path}", timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def wait_for(self, what: str, path: str, holds: Any) -> Any:
        """Asks until an answer is as it should be."""
        deadline, answer = time.monotonic() + TIMEOUT_S, None
        while time.monotonic() < deadline:
            try:
                answer = self.ask(path)
                if found := holds(answer):
                    return found
            except OSError:
                # It is just starting.
                pass
            time.sleep(0.1)
        pytest.fail(f"{what}: not in time; the last answer was {answer}")


@contextmanager
def command(*arguments: str) -> Iterator[str]:
    """Runs a command that serves metrics, and gives their address once it says so."""
    module = {"fedpref-region": "client.cli", "fedpref-server": "server.cli"}[arguments[0]]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1:[0-9]+)/metrics", said)
        assert found, said
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)
    assert process.returncode == 0


def test_both_endpoints_are_scraped_and_an_alert_fires(tmp_path: Path) -> None:
    folder, plan, _ = make_federation(tmp_path / "run", regions=1, quorum=1, customers=8)
    with EventWriter(folder.server / "events.jsonl", plan.run_id) as events:
        events.write("run-failed", reason="a test's own", time_ms=now_ms())
    engine_socket = tmp_path / "engine.sock"
    with ExitStack() as stack:
        targets = {
            "fedpref-engine": stack.enter_context(
                command(
                    *("fedpref-region", "engine", str(home_of(folder).root)),
                    *("--socket", str(engine_socket), "--metrics", "127.0.0.1:0"),
                )
            ),
            "fedpref-server": stack.enter_context(
                command("fedpref-server", "metrics", str(folder.server), "--listen", "127.0.0.1:0")
            ),
        }
        prometheus = Prometheus(tmp_path, targets)
        stack.enter_context(prometheus.running())
        up = prometheus.wait_for(
            "both endpoints are scraped",
            "targets",
            lambda found: (
                {
                    each["labels"]["job"]: each["lastError"]
                    for each in found["activeTargets"]
                    if each["health"] == "up"
                }.keys()
                == targets.keys()
            ),
        )
        assert up
        state = prometheus.ask("query?query=fedpref_server_run_state==1")["result"]
        assert [each["metric"]["state"] for each in state] == ["failed"]
        assert not firing(prometheus.ask("alerts"))
        # What no honest coordinator asks for.
        answer, _ = SocketChannel(engine_socket, timeout_s=60).call("train", {"run": "no-run"}, {})
        assert answer["status"] == "refused"
        fired = prometheus.wait_for("an alert fires", "alerts", firing)
        assert fired == {"FedprefCoordinatorMistaken"}
        loaded = {
            rule["name"]
            for group in prometheus.ask("rules?type=alert")["groups"]
            for rule in group["rules"]
        }
        assert loaded == {rule["alert"] for rule in rules()}


def firing(found: Any) -> set[str]:
    """The alerts that fire."""
    return {each["labels"]["alertname"] for each in found["alerts"] if each["state"] == "firing"}
