"""Provisioning: whole or not at all, and no secret where others can read it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from common.errors import FedprefError, InputError
from common.kit import open_kit
from server.deployment import Deployment
from server.provisioning import provision as module
from server.provisioning.officers import officers_at_hand, read_roots
from server.provisioning.provision import make_certificate, make_secrets, provision
from tests.support.small_deployment import REGIONS, declaration, provisioned, write_shops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return provisioned(tmp_path_factory.mktemp("federation"))[0]


def test_it_has_all_that_a_coordinator_needs(made: Deployment) -> None:
    home = made.home()
    for role in ("log", "aggregator", "witness"):
        assert len(home.signer(role).key_id) == 64
    for path in (made.certificate, made.ca_certificate, made.bundle, made.catalogue, made.config):
        assert path.is_file()
    for folder in (made.superlink, made.coordinator):
        assert made.secret(folder).read_bytes() == made.secret(made.superlink).read_bytes()
        assert made.token(folder).read_bytes() == made.token(made.coordinator).read_bytes()
    assert made.secret(made.superlink).read_bytes() != made.token(made.superlink).read_bytes()


def test_every_region_has_a_kit_that_verifies_under_the_officers_keys(made: Deployment) -> None:
    roots = read_roots(made)
    assert set(roots) == {each.key_id for each in officers_at_hand(made.officers)}
    tokens = set()
    for region in REGIONS:
        kit = open_kit((made.kits / f"{region}.kit").read_bytes(), root_key_ids=tuple(roots))
        assert kit.facts.region == region
        assert kit.files["ca.crt"] == made.ca_certificate.read_bytes()
        tokens.add(kit.token)
    assert len(tokens) == len(REGIONS)


def test_no_regions_key_is_made(made: Deployment) -> None:
    keys = {path.relative_to(made.root).parts[0] for path in made.root.rglob("*.pem")}
    assert keys == {"server", "root"}


def test_secrets_are_their_owners_alone(made: Deployment) -> None:
    public = {".crt", ".toml", ".parquet", ".fab", ".md"}
    for path in made.root.rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        inside = path.relative_to(made.root)
        if path.is_dir():
            continue
        readable = mode & (stat.S_IRGRP | stat.S_IROTH)
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH), inside
        if readable:
            assert path.suffix in public or path.name == "roots.json", inside


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    config = write_shops(tmp_path / "shops")
    target = tmp_path / "deployment"
    target.mkdir()
    (target / "kept").write_text("x")
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"x")
    with pytest.raises(InputError, match="not empty"):
        provision(config, target, app=bundle)
    assert [path.name for path in target.iterdir()] == ["kept"]


def test_what_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_shops(tmp_path / "shops")
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"x")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_kit", full)
    with pytest.raises(FedprefError, match="No space left on device"):
        provision(config, tmp_path / "out" / "deployment", app=bundle)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    config = write_shops(tmp_path / "shops", declaration(federation={"catalogue": "gone.parquet"}))
    with pytest.raises(InputError, match=r"gone\.parquet is missing"):
        provision(config, tmp_path / "deployment", app=config)
    with pytest.raises(InputError, match=r"declaration .* cannot be read"):
        provision(tmp_path / "gone.toml", tmp_path / "deployment")
    config = write_shops(tmp_path / "shops")
    with pytest.raises(InputError, match=r"app bundle .* cannot be read"):
        provision(config, tmp_path / "deployment", app=tmp_path / "gone.fab")
    assert not (tmp_path / "deployment").exists()


def test_certificate_and_secrets_can_be_made_anew(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    before = (deployment.certificate.read_bytes(), deployment.token(deployment.superlink))
    old_token = before[1].read_bytes()
    make_certificate(deployment, config)
    make_secrets(deployment)
    assert deployment.certificate.read_bytes() != before[0]
    assert before[1].read_bytes() != old_token
    assert deployment.token(deployment.coordinator).read_bytes() == before[1].read_bytes()
    deployment.ca_key.unlink()
    with pytest.raises(InputError, match="CA's key"):
        make_certificate(deployment, config)
