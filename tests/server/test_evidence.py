"""Two runs of one deployment, from kits to bundles: each verifies, also after a rollback.

The apps and engines are the real ones, in one process; only Flower's processes are left out, which
tests/deployment has.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from client.app import app as client_app
from client.engine.service import open_engine
from client.installation.commissioning import commission_as_engine_user
from client.settings import RegionSettings
from common.audit.bundle_folder import SCOPE_CROSS_BORDER
from common.audit.export import export_bundle
from common.audit.verify import verify_bundle
from common.engine_channel import register_channel
from common.errors import InputError
from common.timestamps import now_ms
from server.app import app as server_app
from server.current_model import publish_current, roll_back
from server.deployment import Deployment
from server.evidence import bundle_run
from server.model_card import CARD_FILES, CARD_PAGE, card_of
from server.provisioning.enrolment import enrol
from server.provisioning.officers import read_roots
from server.provisioning.plans import missing_plans
from server.status import read_status
from simulations.in_process_grid import run_in_process
from tests.support.small_deployment import (
    REGIONS,
    declaration,
    installed,
    one_user,  # noqa: F401 - used by itself
    provisioned,
    run_table,
)

RUNS = ("first", "second")


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose two runs are finished, one after the other, in one home."""
    folder = tmp_path_factory.mktemp("evidence")
    deployment, config = provisioned(folder, declaration(run={"second": run_table()}))
    installed(folder)
    enrol(deployment, config, [folder / "regions" / r / "enrolment.json" for r in REGIONS])
    missing_plans(deployment, config, REGIONS)
    plans = [deployment.home(run).plan for run in RUNS]
    with ExitStack() as stack:
        for number, region in enumerate(REGIONS):
            commission_as_engine_user(
                folder / "regions" / region, registry=deployment.home().registry, plans=plans
            )
            home = RegionSettings.read(folder / "regions" / region).home
            stack.enter_context(register_channel(number, stack.enter_context(open_engine(home))))
        for run in RUNS:
            run_in_process(
                server_app,
                client_app,
                n_nodes=len(REGIONS),
                run_config={"server-home": str(deployment.server), "run": run},
            )
            publish_current(deployment.home())
    return folder


def regions(folder: Path) -> list[Path]:
    return [folder / "regions" / region for region in REGIONS]


def test_runs_share_a_log_and_nothing_else(founded: Path) -> None:
    deployment = Deployment(founded / "deployment")
    found = [read_status(deployment.home(run), last_events=1) for run in RUNS]
    assert [len(each.rounds) for each in found] == [2, 2]
    assert len({each.published for each in found}) == 2
    assert {each.events[-1]["event"] for each in found} == {"run-finished"}
    assert {each.events[-1]["run"] for each in found} == {each.plan.run_id for each in found}
    for run in RUNS:
        assert deployment.home(run).checkpoint.is_dir()
    assert not (deployment.server / "plan.json").exists()


@pytest.mark.parametrize("run", RUNS)
def test_the_evidence_of_each_run_verifies(founded: Path, tmp_path: Path, run: str) -> None:
    deployment = Deployment(founded / "deployment")
    verdict = bundle_run(deployment.home(run), regions(founded), tmp_path / "bundle")
    assert verdict.verified, verdict.first_failure
    rooted = verify_bundle(tmp_path / "bundle", root_key_ids=tuple(read_roots(deployment)))
    assert rooted.verified
    assert rooted.run == deployment.home(run).read_plan().run_id
    card = card_of(deployment.home(run))
    for name, data in card.files().items():
        assert (deployment.home(run).folder / name).read_bytes() == data
        assert (tmp_path / "bundle" / name).read_bytes() == data


def test_another_card_than_the_bundle_was_made_with_is_noticed(
    founded: Path, tmp_path: Path
) -> None:
    home = Deployment(founded / "deployment").home("first")
    bundle_run(home, regions(founded), tmp_path / "bundle")
    page = tmp_path / "bundle" / CARD_PAGE
    page.write_text(page.read_text().replace("## What it is not for", "## What it is also for"))
    failure = verify_bundle(tmp_path / "bundle").first_failure
    assert failure is not None
    assert (failure.code, failure.file) == ("file-changed", CARD_PAGE)


def test_what_crosses_a_border_verifies_and_has_no_consent(founded: Path, tmp_path: Path) -> None:
    deployment = Deployment(founded / "deployment")
    bundle_run(deployment.home("first"), regions(founded), tmp_path / "bundle")
    exported = export_bundle(
        tmp_path / "bundle",
        tmp_path / "abroad",
        scope=SCOPE_CROSS_BORDER,
        region=None,
        signer=deployment.home().signer("aggregator"),
        created_at_ms=now_ms(),
    )
    assert all(exported.left_out[region] for region in REGIONS)
    assert verify_bundle(tmp_path / "abroad").verified
    assert {path.name for path in (tmp_path / "abroad").iterdir()} == {
        "bundle",
        "model.safetensors",
        *CARD_FILES,
    }
    for path in (tmp_path / "abroad").rglob("*"):
        assert not path.is_file() or b"fedpref.consent+json" not in path.read_bytes()


def test_a_model_published_again_leaves_all_evidence_valid(founded: Path, tmp_path: Path) -> None:
    deployment = Deployment(founded / "deployment")
    roll_back(deployment.home("first"))
    for run in RUNS:
        verdict = bundle_run(deployment.home(run), regions(founded), tmp_path / run)
        assert verdict.verified, verdict.first_failure


def test_every_region_of_the_plan_is_needed(founded: Path, tmp_path: Path) -> None:
    home = Deployment(founded / "deployment").home("first")
    with pytest.raises(InputError, match="that of region-3 is not among the folders"):
        bundle_run(home, regions(founded)[:2], tmp_path / "bundle")
    with pytest.raises(InputError, match="not a region's home"):
        bundle_run(home, [founded / "shops"], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
