"""A finished run's model, installed and served in a region of that run, end to end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.recommend.recommender import Recommender
from client.recommend.release import (
    MODEL_NAME,
    install_release,
    installed,
    load_release,
    release_folder,
)
from client.recommend.settings import RecommendSettings
from client.recommend.types import Query
from common.audit.bundle_folder import SCOPE_CROSS_BORDER
from common.audit.export import export_bundle
from common.errors import InputError, VerificationError
from common.timestamps import now_ms
from server.config import ServerHome

SETTINGS = RecommendSettings.model_validate({"history": {"until": "model"}})


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, to be changed."""
    target = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(finished_run, target, symlinks=True)
    return target


@pytest.fixture(scope="module")
def home(run: Path) -> RegionHome:
    return RegionHome.read(run / "regions" / "region-1")


@pytest.fixture(scope="module")
def serving(run: Path, home: RegionHome) -> Iterator[Recommender]:
    install_release(home, run)
    recommender = Recommender.open(home, SETTINGS)
    yield recommender
    recommender.close()


def test_the_runs_model_is_served_to_those_who_consent(
    serving: Recommender, run: Path, home: RegionHome
) -> None:
    release = serving.served.release
    assert release.logged.witnessed
    assert installed(home) == (release.digest, release.logged.index)
    assert (run / MODEL_NAME).read_bytes() == (
        release_folder(home) / release.digest / MODEL_NAME
    ).read_bytes()
    customers = serving.customers(5)
    assert len(customers) == 5
    popular = serving.recommend(Query(None))
    for customer in customers:
        answer = serving.recommend(Query(customer))
        assert answer.personal
        assert answer.items != popular.items
        own = {item for item, _ in serving.history(customer)}
        assert own & {each.item for each in answer.items}
        fresh = serving.recommend(Query(customer, new_only=True))
        assert not own & {each.item for each in fresh.items}


def test_a_withdrawal_in_the_runs_region_counts_at_once(
    serving: Recommender, home: RegionHome
) -> None:
    customer = serving.customers(1)[0]
    from client.consent_service.region_records import open_records

    with open_records(home) as records:
        latest = records.registrar().latest(customer)
        assert latest is not None
        records.registrar().record([Choice.withdraw(customer, form=latest.form)])
    answer = serving.recommend(Query(customer))
    assert (answer.personal, answer.why_not_personal) == (False, "no-consent")
    assert customer not in serving.customers(1000)


def test_a_bundle_that_crosses_borders_will_do(run: Path, home: RegionHome, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    export_bundle(
        run,
        out,
        scope=SCOPE_CROSS_BORDER,
        region=None,
        signer=ServerHome(run / "server").signer("aggregator"),
        created_at_ms=now_ms(),
    )
    release = install_release(home, out)
    assert release.digest == load_release(home).digest


def test_a_tampered_bundle_is_not_installed(run: Path, home: RegionHome, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    shutil.copytree(run / "bundle", copy / "bundle")
    data = (run / MODEL_NAME).read_bytes()
    (copy / MODEL_NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = installed(home)
    with pytest.raises(VerificationError, match="does not verify"):
        install_release(home, copy)
    with pytest.raises(InputError, match="without the model beside it"):
        install_release(home, run / "bundle")
    assert installed(home) == before
