"""Commissioning: nothing before the keys are enrolled; then all of it, once, and again for free."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.engine.service import open_engine
from client.installation.commissioning import commission_as_engine_user
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.errors import InputError, PolicyError, StorageError, VerificationError
from server.deployment import Deployment
from server.provisioning.enrolment import enrol
from server.provisioning.plans import missing_plans
from tests.support.small_deployment import (
    CUSTOMERS,
    REGIONS,
    declaration,
    installed,
    provisioned,
    run_table,
)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded")
    tables = declaration(run={"greedy": run_table(delta="0.001")})
    deployment, config = provisioned(folder, tables)
    installed(folder)
    enrol(deployment, config, [folder / "regions" / r / "enrolment.json" for r in REGIONS])
    missing_plans(deployment, config, REGIONS)
    return folder


@pytest.fixture
def region(founded: Path, tmp_path: Path) -> Path:
    shutil.copytree(founded / "regions" / "region-1", tmp_path / "region-1")
    return tmp_path / "region-1"


def kinds(region: Path) -> list[str]:
    with AuditLog.open_read_only(RegionHome.read(region).log) as log:
        return [Envelope.decode(data).kind for _, data in log.entries()]


def test_an_enrolled_region_is_ready_for_the_run_it_permits(founded: Path, region: Path) -> None:
    deployment = Deployment(founded / "deployment")
    plan = deployment.home("first").plan
    done = commission_as_engine_user(region, registry=deployment.home().registry, plans=[plan])
    assert (done.region, done.registry_version, done.imported) == ("region-1", 1, len(CUSTOMERS))
    logged = kinds(region)
    assert logged[:3] == ["keys", "notice", "policy"]
    assert Counter(logged[3:]) == {"consent": len(CUSTOMERS), "permit": 1}
    with open_engine(RegionHome.read(region)) as engine:
        engine.preflight(deployment.home("first").read_plan())


def test_commissioning_again_logs_nothing(founded: Path, region: Path) -> None:
    deployment = Deployment(founded / "deployment")
    arguments = {
        "registry": deployment.home().registry,
        "plans": [deployment.home("first").plan],
    }
    commission_as_engine_user(region, **arguments)  # type: ignore[arg-type]
    before = kinds(region)
    done = commission_as_engine_user(region, **arguments)  # type: ignore[arg-type]
    assert (done.imported, len(done.permits)) == (0, 1)
    assert kinds(region) == before


def test_before_the_keys_are_enrolled_there_is_no_log(region: Path) -> None:
    with pytest.raises(InputError, match="no key registry"):
        commission_as_engine_user(region, registry=None, plans=[])
    assert not (region / "home" / "log.sqlite").exists()


def test_a_registry_under_other_root_keys_is_refused(region: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    deployment, config = provisioned(other)
    installed(other)
    enrol(deployment, config, [other / "regions" / r / "enrolment.json" for r in REGIONS])
    with pytest.raises(VerificationError, match="other root keys"):
        commission_as_engine_user(region, registry=deployment.home().registry, plans=[])
    assert not (region / "home" / "log.sqlite").exists()


def test_a_registry_without_the_regions_keys_is_refused(
    founded: Path, region: Path, tmp_path: Path
) -> None:
    deployment = Deployment(founded / "deployment")
    (region / "home" / "keys" / "trainer.pem").unlink()
    from common.key_rotation import make_key

    make_key(RegionHome.read(region).key_store, "trainer")
    with pytest.raises(InputError, match="does not have its trainer key"):
        commission_as_engine_user(region, registry=deployment.home().registry, plans=[])


def test_a_plan_beyond_the_policy_gets_no_permit(founded: Path, region: Path) -> None:
    deployment = Deployment(founded / "deployment")
    plan = deployment.home("greedy").plan
    with pytest.raises(PolicyError, match="delta"):
        commission_as_engine_user(region, registry=deployment.home().registry, plans=[plan])
    assert "permit" not in kinds(region)


def test_while_an_engine_runs_it_waits_for_its_end(founded: Path, region: Path) -> None:
    deployment = Deployment(founded / "deployment")
    registry = deployment.home().registry
    commission_as_engine_user(region, registry=registry, plans=[])
    with open_engine(RegionHome.read(region)), pytest.raises(StorageError, match="process"):
        commission_as_engine_user(region, registry=registry, plans=[])


def test_what_was_interrupted_goes_on(
    founded: Path, region: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(founded / "deployment")
    registry = deployment.home().registry

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("client.installation.region_home.sign_policy", killed)
        with pytest.raises(KeyboardInterrupt):
            commission_as_engine_user(region, registry=registry, plans=[])
    assert kinds(region) == ["keys", "notice"]
    commission_as_engine_user(region, registry=registry, plans=[])
    assert kinds(region)[:3] == ["keys", "notice", "policy"]


def test_a_form_that_is_missing_is_asked_for(founded: Path, region: Path) -> None:
    settings = region / "region.toml"
    text = settings.read_text()
    begin, _, rest = text.partition("[form]")
    settings.write_text(begin + rest[rest.index("\n[") + 1 :])
    with pytest.raises(InputError, match=r"\[form\] is missing"):
        commission_as_engine_user(
            region, registry=Deployment(founded / "deployment").home().registry, plans=[]
        )
