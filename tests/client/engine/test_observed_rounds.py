"""What a real engine's metrics tell of its rounds, and that no customer's choice shows in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client.consent_service.registrar import Choice
from client.engine.metrics import EngineMetrics
from client.engine.service import open_engine
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.plan import RunPlan
from simulations import provision
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, publish
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
CUSTOMERS = 21


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("federation") / "run"
    return make_federation(root, regions=1, quorum=1, customers=CUSTOMERS)


@pytest.fixture
def federation(provisioned: Federation, tmp_path: Path) -> Federation:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    return RunFolder(tmp_path / "run"), plan, set_ups


@pytest.fixture
def metrics() -> EngineMetrics:
    return EngineMetrics("region-1", "e" * 64, clock_s=lambda: 1_000.0)


@pytest.fixture
def region(
    federation: Federation, metrics: EngineMetrics, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpenRegion]:
    monkeypatch.setattr(provision, "open_engine", partial(open_engine, observer=metrics))
    folder, _, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


def header(plan: RunPlan) -> dict[str, JsonValue]:
    return {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "plan": plan.digest,
        "cosignatures": [],
    }


def exposed(metrics: EngineMetrics) -> dict[str, float]:
    text = generate_latest(metrics.registry).decode()
    return {
        sample.name.removeprefix("fedpref_engine_")
        + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def newest(region: OpenRegion, kind: str) -> dict[str, JsonValue]:
    records = [Envelope.decode(data) for _, data in region.engine.log.entries()]
    return [each.record() for each in records if each.kind == kind][-1]


def test_a_round_is_told_as_its_entries_state_it(
    federation: Federation, region: OpenRegion, metrics: EngineMetrics
) -> None:
    _, plan, _ = federation
    reply, _ = ask(region.engine, header(plan), {})
    assert reply["status"] == "ok"
    found = exposed(metrics)
    entry, release = newest(region, "round"), newest(region, "release")
    charge = newest(region, "charge")
    train, consent = entry["train"], entry["consent"]
    assert isinstance(train, dict)
    assert isinstance(consent, dict)
    assert found["customers_at_least"] == int(str(train["n_bucket"]).partition("-")[0])
    assert found["published_log_size"] == consent["size"]
    assert found["released_bytes_total"] == release["bytes"]
    assert found["epsilon_spent"] == pytest.approx(float(str(charge["epsilon_total"])), abs=1e-6)
    assert found["epsilon_cap"] == float(str(charge["epsilon_cap"]))
    assert (found["rounds_total"], found[f"last_round|{plan.run_id}"]) == (1, 1)
    assert found["round_seconds_sum"] > 0
    assert found["witness_lag_seconds"] >= 0


def test_the_number_of_customers_shows_nowhere(
    federation: Federation, region: OpenRegion, metrics: EngineMetrics
) -> None:
    _, plan, _ = federation
    eligible = sum(region.registrar.consents(customer) for customer in region.customers)
    # 16 would be its interval's end, and 32 and up not be told apart from the times.
    assert 16 < eligible < 32
    ask(region.engine, header(plan), {})
    found = exposed(metrics)
    assert found["customers_at_least"] == 16
    assert not [name for name, value in found.items() if value in (eligible, CUSTOMERS)]
    text = generate_latest(metrics.registry).decode()
    for customer, sid in region.engine.subjects.pseudonyms().items():
        assert customer not in text
        assert sid not in text


def test_a_choice_is_not_seen_before_the_next_checkpoint_is_published(
    federation: Federation, region: OpenRegion, metrics: EngineMetrics
) -> None:
    """A size that grows between two rounds would tell each choice as it is made."""
    _, plan, _ = federation
    ask(region.engine, header(plan), {})
    before, size = exposed(metrics), region.engine.log.size
    leaving = [each for each in region.customers if region.registrar.consents(each)][:3]
    for customer in leaving:
        region.registrar.record([Choice.withdraw(customer)])
        assert exposed(metrics) == before
    assert region.engine.log.size == size + 3
    publish(region.engine, header(plan) | {"round": 2, "mechanism": "factors"})
    after = exposed(metrics)
    assert after["published_log_size"] == size + 3
    assert {**after, "published_log_size": 0} == {**before, "published_log_size": 0}


def test_what_is_sent_again_counts_once(
    federation: Federation, region: OpenRegion, metrics: EngineMetrics
) -> None:
    _, plan, _ = federation
    first, _ = ask(region.engine, header(plan), {})
    again, _ = region.engine.call("train", header(plan), {})
    assert first["update"] == again["update"]
    found = exposed(metrics)
    assert (found["rounds_total"], found["round_seconds_count"]) == (1, 1)


def test_refusals_are_counted_by_the_code_that_left(
    federation: Federation, region: OpenRegion, metrics: EngineMetrics
) -> None:
    _, plan, _ = federation
    refusals = [
        region.engine.call("train", header(plan) | change, {})[0]["reason"]
        for change in ({"run": "another"}, {"plan": "f" * 64}, {"round": -1}, {})
    ]
    assert refusals[-1] == "not-witnessed"
    found = exposed(metrics)
    for reason in set(refusals):
        assert found[f"refusals_total|{reason}"] == refusals.count(reason)


def test_a_restarted_engine_knows_what_is_spent(federation: Federation) -> None:
    folder, plan, _ = federation
    spent = []
    for _ in range(2):
        metrics = EngineMetrics("region-1", "e" * 64)
        with open_engine(home_of(folder), observer=metrics) as engine:
            if not spent:
                ask(engine, header(plan), {})
        spent.append(exposed(metrics)["epsilon_spent"])
    assert spent[0] > 0
    assert spent[1] == spent[0]
