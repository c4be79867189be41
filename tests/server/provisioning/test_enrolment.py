"""Enrolling: only invited regions that answer their own kit, and only as the officers sign it."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from common.errors import FedprefError, InputError, VerificationError
from common.key_files import generate_key
from common.key_registry import Registry
from common.key_request import make_request
from common.registry_changes import finish_draft, sign_draft
from common.registry_draft import Draft
from common.registry_install import registry_envelopes
from common.timestamps import now_ms
from server.deployment import Deployment
from server.provisioning.enrolment import enrol, enrolled_regions, take_version
from server.provisioning.federation_config import FederationConfig, read_federation
from server.provisioning.membership import join, remove, removed_regions
from server.provisioning.officers import officers_at_hand, read_roots
from server.provisioning.plans import missing_plans
from tests.support.small_deployment import NAME, REGIONS, installed, provisioned


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provisioned federation whose kits are installed; to be copied, never changed."""
    folder = tmp_path_factory.mktemp("founded")
    provisioned(folder)
    installed(folder)
    return folder


@pytest.fixture
def folder(founded: Path, tmp_path: Path) -> Path:
    shutil.copytree(founded, tmp_path / "f")
    return tmp_path / "f"


def opened(folder: Path) -> tuple[Deployment, FederationConfig]:
    deployment = Deployment.read(folder / "deployment")
    return deployment, read_federation(deployment.config)


def enrolments(folder: Path, regions: tuple[str, ...] = REGIONS) -> list[Path]:
    return [folder / "regions" / region / "enrolment.json" for region in regions]


def registry(deployment: Deployment) -> Registry:
    return Registry.from_envelopes(
        registry_envelopes(deployment.home().registry), root_key_ids=tuple(read_roots(deployment))
    )


def test_regions_are_enrolled_with_the_coordinator_in_one_version(folder: Path) -> None:
    deployment, config = opened(folder)
    done = enrol(deployment, config, enrolments(folder))
    assert (done.version, done.draft, set(done.fingerprints)) == (1, None, set(REGIONS))
    found = registry(deployment)
    assert {entry.party for entry in found.entries} == {"server", *REGIONS}
    assert found.witness_quorum == 2
    assert enrolled_regions(deployment, config) == REGIONS
    for region in REGIONS:
        node = (deployment.nodes / f"{region}.pub").read_text()
        assert node == (folder / "regions" / region / "node" / "node_key.pub").read_text()
    plans = missing_plans(deployment, config, REGIONS)
    assert plans == [("first", None)]
    assert deployment.home("first").read_plan().regions == REGIONS
    assert deployment.home().runs() == ("first",)


def test_enrolling_again_changes_nothing(folder: Path) -> None:
    deployment, config = opened(folder)
    enrol(deployment, config, enrolments(folder))
    plan = missing_plans(deployment, config, REGIONS) and deployment.home("first").plan
    assert plan
    before = plan.read_bytes()
    done = enrol(deployment, config, enrolments(folder))
    assert (done.version, dict(done.fingerprints)) == (1, {})
    assert missing_plans(deployment, config, REGIONS) == []
    assert plan.read_bytes() == before


def test_a_kit_is_answered_once(folder: Path) -> None:
    deployment, config = opened(folder)
    enrol(deployment, config, enrolments(folder))
    assert list(deployment.tokens.iterdir()) == []
    # Whoever finds the kit later, and makes keys of their own for it, is refused.
    shutil.rmtree(folder / "regions" / "region-1")
    installed(folder, ("region-1",))
    with pytest.raises(InputError, match="no kit of region-1 that could be answered"):
        enrol(deployment, config, enrolments(folder, ("region-1",)))


def test_who_did_not_have_the_kit_is_refused(folder: Path) -> None:
    deployment, config = opened(folder)
    join(deployment, "region-1", jurisdiction="DE", location="")
    with pytest.raises(VerificationError, match="does not answer the kit that was made for"):
        enrol(deployment, config, enrolments(folder))
    assert enrolled_regions(deployment, config) == ()


def test_one_region_cannot_answer_for_another(folder: Path) -> None:
    deployment, config = opened(folder)
    (deployment.tokens / "region-1.token").write_bytes(
        (deployment.tokens / "region-2.token").read_bytes()
    )
    with pytest.raises(VerificationError, match="made for region-1"):
        enrol(deployment, config, enrolments(folder))


def test_what_is_no_enrolment_is_named(folder: Path, tmp_path: Path) -> None:
    deployment, config = opened(folder)
    for data in (b"", b"{}", b"\xff\xfe", b"[1]"):
        (tmp_path / "x.json").write_bytes(data)
        with pytest.raises(FedprefError, match=r"x\.json"):
            enrol(deployment, config, [tmp_path / "x.json"])
    with pytest.raises(InputError, match="cannot be read"):
        enrol(deployment, config, [tmp_path / "gone.json"])
    with pytest.raises(InputError, match="second enrolment"):
        enrol(deployment, config, enrolments(folder, ("region-1", "region-1")))


def test_another_version_of_the_protocol_is_refused_clearly(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, config = opened(folder)
    monkeypatch.setattr("server.provisioning.enrolment.PROTOCOL_VERSION", 2)
    with pytest.raises(VerificationError, match="speaks version 1 of the protocol, this"):
        enrol(deployment, config, enrolments(folder))


def test_officers_elsewhere_sign_a_draft_and_nothing_counts_before(folder: Path) -> None:
    deployment, config = opened(folder)
    elsewhere = folder / "offline"
    deployment.officers.rename(elsewhere)
    done = enrol(deployment, config, enrolments(folder))
    assert done.version == 0
    assert done.draft is not None
    assert enrolled_regions(deployment, config) == ()
    assert list(deployment.nodes.iterdir()) == []
    draft = Draft.decode(done.draft.read_bytes())
    for officer in officers_at_hand(elsewhere)[:2]:
        draft = sign_draft(draft, officer)
    finished = folder / "1.json"
    finished.write_bytes(finish_draft(draft))
    assert take_version(deployment, config, finished) == 1
    assert enrolled_regions(deployment, config) == REGIONS
    assert not done.draft.exists()


def test_a_version_under_other_root_keys_is_refused(folder: Path, tmp_path: Path) -> None:
    provisioned(tmp_path / "stranger")
    installed(tmp_path / "stranger")
    other, other_config = opened(tmp_path / "stranger")
    enrol(other, other_config, enrolments(tmp_path / "stranger"))
    deployment, config = opened(folder)
    with pytest.raises(VerificationError, match="other root keys"):
        take_version(deployment, config, other.home().registry / "1.json")


def test_a_removed_region_is_out_at_once_and_for_good(folder: Path) -> None:
    deployment, config = opened(folder)
    enrol(deployment, config, enrolments(folder))
    assert remove(deployment, "region-3") is None
    assert enrolled_regions(deployment, config) == ("region-1", "region-2")
    assert removed_regions(deployment) == {"region-3"}
    found = registry(deployment)
    assert found.version == 2
    assert all(
        entry.revoked_at_ms is not None for entry in found.entries if entry.party == "region-3"
    )
    assert not (deployment.nodes / "region-3.pub").exists()
    with pytest.raises(InputError, match="its name is not used again"):
        join(deployment, "region-3", jurisdiction="DE", location="")
    with pytest.raises(InputError, match="no kit of region-3"):
        enrol(deployment, config, enrolments(folder))


def test_a_declaration_keeps_its_words_when_a_region_is_added(folder: Path) -> None:
    deployment, _ = opened(folder)
    values = tomllib.loads(deployment.config.read_text())
    regions = values.pop("regions")
    lines = [f'[[regions]]\nname = "{r["name"]}"  # ours\njurisdiction = "DE"\n' for r in regions]
    text = tomli_w.dumps(values) + "\n".join(lines)
    deployment.config.write_text(text)
    join(deployment, "region-4", jurisdiction="FR", location="")
    assert deployment.config.read_text().startswith(text.rstrip("\n"))
    with pytest.raises(InputError, match="location"):
        join(deployment, "region-5", jurisdiction="FR", location="Paris")
    assert len(read_federation(deployment.config).regions) == 4


def test_a_new_region_joins(folder: Path) -> None:
    deployment, config = opened(folder)
    enrol(deployment, config, enrolments(folder))
    with pytest.raises(InputError, match="jurisdiction is needed"):
        join(deployment, "region-4", jurisdiction="", location="")
    kit = join(deployment, "region-4", jurisdiction="FR", location="48.9,2.4")
    assert kit.is_file()
    _, config = opened(folder)
    assert config.region("region-4").jurisdiction == "FR"
    installed(folder, ("region-4",))
    done = enrol(deployment, config, enrolments(folder, ("region-4",)))
    assert done.version == 2
    assert enrolled_regions(deployment, config) == (*REGIONS, "region-4")


def test_a_region_renews_its_node_key_by_a_new_kit(folder: Path) -> None:
    deployment, config = opened(folder)
    enrol(deployment, config, enrolments(folder))
    join(deployment, "region-1", jurisdiction="", location="")
    node = folder / "regions" / "region-1" / "node"
    (node / "node_key").unlink()
    installed(folder, ("region-1",))
    done = enrol(deployment, config, enrolments(folder, ("region-1",)))
    # Its signing keys stay: the registry needs no new version.
    assert done.version == 1
    assert (deployment.nodes / "region-1.pub").read_text() == (node / "node_key.pub").read_text()


def test_an_outside_witness_is_enrolled_by_its_own_request(folder: Path) -> None:
    deployment, _ = opened(folder)
    with deployment.config.open("a") as file:
        file.write('\n[[witnesses]]\nname = "auditor"\nurl = "https://witness.example"\n')
    _, config = opened(folder)
    signer = generate_key(folder / "auditor.pem", b"a passphrase of a test")
    request = folder / "request.json"

    def ask(party: str, role: str) -> None:
        request.write_bytes(
            make_request(signer, federation=NAME, party=party, role=role, at_ms=now_ms())
        )

    for party, role in (("auditor", "log"), ("region-1", "witness"), ("stranger", "witness")):
        ask(party, role)
        with pytest.raises(VerificationError, match="only the outside witnesses"):
            enrol(deployment, config, [*enrolments(folder), request])
    ask("auditor", "witness")
    enrol(deployment, config, [*enrolments(folder), request])
    assert registry(deployment).keys_of("auditor", "witness")[0].key_id == signer.key_id
    assert deployment.home().witnesses.read_text() == '["https://witness.example"]'
