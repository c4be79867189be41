"""From the store to a round's data set: what is new in the store is in the next round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data import quality
from client.data.dataset import PreferenceDataset
from client.data.prepared_files import DamagedRowsError
from client.engine.home import RegionHome
from client.engine.kept_store import KeptStore
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from client.engine.service import open_engine
from common.errors import PolicyError
from common.plan import RunPlan
from common.timestamps import format_time
from server.aggregation import first_model
from simulations.evaluation_data import _everyone_consents
from simulations.provision import RegionSetUp, open_region
from tests.support.cosigning import ask
from tests.support.small_federation import START_MS, home_of, make_federation

Federation = tuple[RegionHome, RunPlan, RegionSetUp]


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every use of the store is late enough to look for what is new."""
    store = KeptStore.__init__

    def eager(self: KeptStore, home: RegionHome, threshold: float) -> None:
        ticks = iter(range(0, 1_000_000, 1000))
        store(self, home, threshold, clock_s=lambda: float(next(ticks)))

    monkeypatch.setattr(KeptStore, "__init__", eager)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    folder, plan, set_ups = make_federation(tmp_path, regions=1, quorum=1)
    return home_of(folder), plan, set_ups[0]


def sell(home: RegionHome, customer: str, item: str, count: int) -> None:
    """Adds purchases to the store."""
    rows = [
        f"{customer},{item},{format_time(START_MS + number * 60_000)},late-{number},x\n"
        for number in range(count)
    ]
    path = home.source.resolve().parent / "transactions.csv"
    path.write_text(path.read_text("utf-8") + "".join(rows), "utf-8")


def test_a_days_sales_are_in_the_next_round(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, plan, set_up = federation
    seen: list[PreferenceDataset] = []
    dataset_of = RegionData.dataset

    def watch(self, plan, eligible):  # type: ignore[no-untyped-def]
        seen.append(dataset_of(self, plan, eligible))
        return seen[-1]

    monkeypatch.setattr(RegionData, "dataset", watch)
    with open_region(home, set_up) as region:
        customer = next(c for c in region.customers if region.registrar.consents(c))
        reply, first = ask(region.engine, _request(plan, 1), {})
        assert reply["status"] == "ok"
        sell(home, customer, "item-39", 7)
        model = first_model(first["popularity"].astype(np.float64), plan)
        reply, _ = ask(region.engine, _request(plan, 2), model)
        assert reply["status"] == "ok"
        sid = region.engine.subjects.pseudonyms()[customer]
    before, after = seen
    assert after.counts.values.sum() == before.counts.values.sum() + 7
    row = after.sids.index(sid)
    items = dict(zip(*_row(after, row), strict=True))
    assert items[39] == dict(zip(*_row(before, row), strict=True)).get(39, 0) + 7


def _row(dataset: PreferenceDataset, row: int) -> tuple[list[int], list[float]]:
    rows = dataset.rows(row, row + 1)
    return rows.indices.tolist(), rows.values.tolist()


def _request(plan: RunPlan, server_round: int) -> dict[str, object]:
    return {
        "run": plan.run_id,
        "round": server_round,
        "attempt": 1,
        "mechanism": plan.mechanism_of(server_round).name,
        "plan": plan.digest,
        "cosignatures": [],
    }


def test_the_same_data_make_the_same_data_set(federation: Federation) -> None:
    home, plan, _ = federation
    data = RegionData(home, read_policy(home.policy))
    everyone = _eligible(home, plan)
    first = data.dataset(plan, everyone)
    assert data.dataset(plan, everyone) is first
    sell(home, data.customer_refs()[0], "item-00", 1)
    assert data.dataset(plan, everyone) is not first


def _eligible(home: RegionHome, plan: RunPlan):  # type: ignore[no-untyped-def]
    from client.data.consent_filter import EligibleCustomers

    with open_engine(home) as engine:
        pseudonyms = engine.subjects.pseudonyms()
    return EligibleCustomers.from_replay(
        _everyone_consents(pseudonyms.values(), START_MS),
        purpose=plan.purpose,
        at_ms=START_MS,
        consent_size=len(pseudonyms),
        subject_ids=pseudonyms,
    )


def test_rows_that_are_damaged_under_a_round_fail_it_and_the_next_one_has_them(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, plan, _ = federation
    everyone = _eligible(home, plan)
    expected = RegionData(home, read_policy(home.policy)).dataset(plan, everyone)
    monkeypatch.setattr(quality, "HELD_ROWS", 0)
    data = RegionData(home, read_policy(home.policy))
    data.checked_transactions()
    for path in home.prepared.glob("*.rows"):
        # In place: what is open is damaged too.
        with path.open("r+b") as file:
            file.seek(20)
            file.write(b"damage")
    with pytest.raises(DamagedRowsError, match="does not decrypt"):
        data.dataset(plan, everyone)
    again = data.dataset(plan, everyone)
    assert again.sids == expected.sids
    assert np.array_equal(again.counts.values, expected.counts.values)


def test_a_run_over_another_catalogue_is_refused(federation: Federation) -> None:
    home, plan, _ = federation
    data = RegionData(home, read_policy(home.policy))
    other = RunPlan.from_record(plan.to_record() | {"catalogue": "d" * 64})
    with pytest.raises(PolicyError, match="is not the region's"):
        data.dataset(other, _eligible(home, plan))


def test_a_backup_has_nothing_of_the_store(federation: Federation, tmp_path: Path) -> None:
    from client.engine.backup import make_backup

    home, _, _ = federation
    assert RegionData(home, read_policy(home.policy)).checked_transactions()
    assert list(home.prepared.glob("*.rows"))
    backup = make_backup(home, tmp_path / "backup")
    assert not any("prepared" in name for name in backup.files)
