"""Installing a kit: keys made in the region, settings from answers, an enrolment; and again."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from client.engine.home import KEY_ROLES, RegionHome
from client.installation.composed_settings import read_answers
from client.installation.installing import install_kit
from client.installation.node_key import node_key
from client.settings import RegionSettings, SettingsError
from common.catalogue import Catalogue
from common.enrolment import open_enrolment
from common.errors import FormatError, InputError, VerificationError
from common.kit import open_kit
from tests.support.small_deployment import BUNDLE, installed, provisioned


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded")
    provisioned(folder)
    return folder


@pytest.fixture
def folder(founded: Path, tmp_path: Path) -> Path:
    shutil.copytree(founded, tmp_path / "f")
    return tmp_path / "f"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_region_has_keys_of_its_own_and_an_enrolment_that_names_them(folder: Path) -> None:
    (done,) = installed(folder, ("region-1",))
    home = RegionHome.read(done.folder)
    enrolment = open_enrolment((done.folder / "enrolment.json").read_bytes())
    assert {role: key.key_id for role, key in enrolment.keys.items()} == {
        role: home.signer(role).key_id for role in KEY_ROLES
    }
    assert done.fingerprint == enrolment.fingerprint
    kit = open_kit((folder / "deployment/kits/region-1.kit").read_bytes(), root_key_ids=())
    assert enrolment.facts.kit_sha256 == kit.sha256
    assert enrolment.answers(kit.token)
    assert done.root_key_ids == tuple(kit.facts.root_keys)


def test_what_is_secret_is_its_owners_alone(folder: Path) -> None:
    (done,) = installed(folder, ("region-1",))
    assert mode(done.folder / "home") == 0o700
    assert mode(done.folder / "node") == 0o700
    assert mode(done.folder / "node" / "node_key") == 0o600
    assert mode(done.folder / "region.toml") == 0o600
    for path in (done.folder / "home" / "keys").iterdir():
        assert mode(path) == 0o600
    token = open_kit(
        (folder / "deployment/kits/region-1.kit").read_bytes(), root_key_ids=()
    ).token.hex()
    for path in done.folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


def test_settings_are_the_kits_and_the_answers(folder: Path) -> None:
    (done,) = installed(folder, ("region-1",))
    settings = RegionSettings.read(done.folder)
    assert settings.coordinator.address == "127.0.0.1:9443"
    assert settings.region.name == "region-1"
    import hashlib

    assert settings.policy.app_bundles == [hashlib.sha256(BUNDLE).hexdigest()]
    assert settings.policy.catalogues == [Catalogue.load(settings.home.catalogue).digest]
    assert settings.notice is not None
    assert settings.notice.file == done.folder / "answers" / "notice.toml"
    assert settings.source_table["path"] == str(folder / "shops" / "region-1" / "sales.csv")


def test_regions_on_one_machine_get_ports_of_their_own(folder: Path) -> None:
    ports = [RegionSettings.read(done.folder).node.runtime_port for done in installed(folder)]
    assert len(set(ports)) == len(ports) == 3


def test_installing_again_keeps_every_key(folder: Path) -> None:
    (first,) = installed(folder, ("region-1",))
    before = {path: path.read_bytes() for path in sorted(first.folder.rglob("*")) if path.is_file()}
    (again,) = installed(folder, ("region-1",))
    assert again == first
    after = {path: path.read_bytes() for path in sorted(first.folder.rglob("*")) if path.is_file()}
    assert after == before


def test_a_lost_node_key_is_made_anew_and_enrolled_anew(folder: Path) -> None:
    (first,) = installed(folder, ("region-1",))
    (first.folder / "node" / "node_key").unlink()
    (again,) = installed(folder, ("region-1",))
    assert again.fingerprint != first.fingerprint


def test_without_answers_the_example_is_left_to_be_answered(folder: Path, tmp_path: Path) -> None:
    done = install_kit(
        folder / "deployment/kits/region-1.kit",
        tmp_path / "regions",
        answers_of=None,
        root_key_ids=(),
    )
    assert not done.answered
    text = (done.folder / "region.toml").read_text()
    assert "[policy]" in text
    # It is TOML whose every field is known: only what it names has to be put there.
    assert RegionSettings.read(done.folder).policy.purpose == "fedpref:FederatedTraining"


def test_a_wrong_answer_is_named_and_can_be_corrected(folder: Path) -> None:
    path = folder / "shops" / "region-1" / "region.toml"
    text = path.read_text()
    path.write_text(text.replace('delta_max = "0.000001"', 'delta_max = "-1"'))
    with pytest.raises(SettingsError, match=r"\[policy\] delta_max"):
        installed(folder, ("region-1",))
    path.write_text(text)
    assert installed(folder, ("region-1",))[0].answered


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[region]\nname = 'x'\n", r"\[region\]"),
        ("[coordinator]\naddress = 'evil:1'\n", r"\[coordinator\]"),
        ("[", "not valid TOML"),
    ],
)
def test_answers_cannot_say_what_only_the_kit_can(folder: Path, text: str, says: str) -> None:
    (folder / "shops" / "region-1" / "region.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        read_answers(folder / "shops", "region-1")


def test_a_kit_of_another_federation_does_not_overwrite_a_region(
    folder: Path, tmp_path: Path
) -> None:
    installed(folder, ("region-1",))
    other = tmp_path / "other"
    from tests.support.small_deployment import declaration

    provisioned(other, declaration(federation={"name": "other.example"}))
    with pytest.raises(InputError, match=r"home of region-1 in small\.example"):
        install_kit(
            other / "deployment/kits/region-1.kit",
            folder / "regions",
            answers_of=None,
            root_key_ids=(),
        )


def test_root_keys_that_were_told_are_compared(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="other root keys"):
        install_kit(
            folder / "deployment/kits/region-1.kit",
            tmp_path / "regions",
            answers_of=None,
            root_key_ids=["0" * 64],
        )
    assert not (tmp_path / "regions").exists()


def test_what_is_no_kit_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.kit").write_bytes(b"not a kit")
    with pytest.raises(FormatError, match="no start-up kit"):
        install_kit(tmp_path / "x.kit", tmp_path / "into", answers_of=None, root_key_ids=())
    with pytest.raises(InputError, match="cannot be read"):
        install_kit(tmp_path / "y.kit", tmp_path / "into", answers_of=None, root_key_ids=())
    assert not (tmp_path / "into").exists()


def test_a_node_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node" / "node_key"
    key = node_key(path)
    assert node_key(path).private_numbers() == key.private_numbers()
    path.chmod(0o644)
    with pytest.raises(InputError, match="mode 0644"):
        node_key(path)
    path.chmod(0o600)
    path.write_bytes(b"no key")
    with pytest.raises(InputError, match="no private key as OpenSSH writes it"):
        node_key(path)
