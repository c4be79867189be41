"""A hostile coordinator cannot change what is said of items: not by a plan, not by a file.

The attacker wants items of its choice to look alike: it relabels them, and asks the regions to
train and to serve over that catalogue.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.engine.permit_desk import sign_permit
from client.engine.service import open_engine
from common.catalogue import Catalogue
from common.errors import PolicyError
from common.plan import RunPlan
from tests.client.engine.test_permit import header, named, put_in_force
from tests.support.cosigning import ask, publish
from tests.support.small_federation import APP, make_federation


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan]:
    folder, plan, _ = make_federation(
        tmp_path_factory.mktemp("features") / "run", regions=1, quorum=1
    )
    return folder.root, plan


@pytest.fixture
def home(provisioned: tuple[Path, RunPlan], tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned[0], tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def plan(provisioned: tuple[Path, RunPlan]) -> RunPlan:
    return provisioned[1]


def relabelled(home: RegionHome) -> Catalogue:
    """The same items, each said to be of the attacker's own category."""
    honest = Catalogue.load(home.catalogue)
    return Catalogue.of(honest.items, category=["pushed"] * honest.n_items)


def over(plan: RunPlan, catalogue: Catalogue, run: str) -> RunPlan:
    return RunPlan.from_record({**named(plan, run).to_record(), "catalogue": catalogue.digest})


def replace_file(home: RegionHome, catalogue: Catalogue) -> None:
    """What a new kit that is installed over an old one does."""
    home.catalogue.unlink()
    catalogue.save(home.catalogue)


def test_a_plan_over_relabelled_items_gets_nothing_from_a_region(
    home: RegionHome, plan: RunPlan
) -> None:
    pushed = over(plan, relabelled(home), "run-2")
    with open_engine(home) as engine:
        # Nothing in the plan's form gives it away: whoever signs permits may sign it.
        sign_permit(engine, pushed, app=APP, valid_for_s=60)
        reply, arrays = ask(engine, header(pushed), {})
        assert reply["status"] == "refused"
        assert arrays == {}
        assert engine.ledger.charges == ()


def test_a_pinned_catalogue_stands_above_the_file_that_a_kit_brought(
    home: RegionHome, plan: RunPlan
) -> None:
    pushed = over(plan, relabelled(home), "run-2")
    put_in_force(home, catalogues=[plan.catalogue])
    replace_file(home, relabelled(home))
    with open_engine(home) as engine, pytest.raises(PolicyError, match="allow catalogue = "):
        sign_permit(engine, pushed, app=APP, valid_for_s=60)


def test_a_permit_over_other_items_ends_with_the_policy_that_pins_the_right_ones(
    home: RegionHome, plan: RunPlan
) -> None:
    pushed = over(plan, relabelled(home), "run-2")
    with open_engine(home) as engine:
        sign_permit(engine, pushed, app=APP, valid_for_s=60)
    put_in_force(home, catalogues=[plan.catalogue])
    replace_file(home, relabelled(home))
    with open_engine(home) as engine:
        assert publish(engine, header(pushed))["reason"] == "not-permitted"
        assert engine.ledger.charges == ()


def test_without_the_pin_the_attack_would_succeed(home: RegionHome, plan: RunPlan) -> None:
    pushed = over(plan, relabelled(home), "run-2")
    replace_file(home, relabelled(home))
    with open_engine(home) as engine:
        sign_permit(engine, pushed, app=APP, valid_for_s=60)
        assert publish(engine, header(pushed))["status"] == "ok"
