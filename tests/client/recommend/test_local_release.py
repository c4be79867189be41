"""A region's releases to itself: prepared once, verified whenever they are read, or not used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from client.engine.home import RegionHome
from client.engine.sealed_answers import SealedAnswer
from client.recommend import local_preparation
from client.recommend.local_preparation import Prepared, draft_query, prepare, statistics
from client.recommend.local_release import LocalReleases, local_path, publish
from client.recommend.local_statistics import (
    ALSO_BOUGHT,
    REGIONAL_BIAS,
    SCENES,
    STORE_TYPES,
    Clock,
)
from client.recommend.types import Scene
from common.audit.bundle import write_bundle
from common.audit.entry import make_entry
from common.audit.verify import verify_bundle
from common.catalogue import Catalogue
from common.envelope import Envelope
from common.errors import BudgetError, InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.registry_install import registry_envelopes
from common.timestamps import now_ms, parse_time
from simulations.made_up_tables import write_tables
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.small_federation import N_ITEMS, home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
CLOCK = Clock({"morning": (6, 11), "noon": (11, 14), "evening": (18, 22)}, "Europe/Berlin")
VOCABULARY = np.arange(0, N_ITEMS, 2)
KINDS_OF_STORES = ("city", "hypermarket", "neighbourhood")
DIGEST = "d" * 64


def model_state() -> ModelState:
    generator = np.random.default_rng(2)
    return ModelState(
        popularity=np.abs(generator.normal(5, 1, N_ITEMS)).astype(np.float32),
        vocabulary=VOCABULARY.astype(np.int64),
        item_weights=np.ones(len(VOCABULARY), dtype=np.float32),
        item_factors=generator.normal(size=(len(VOCABULARY), 2)).astype(np.float32),
    )


@dataclass(frozen=True)
class Served:
    """What of a published release is needed here."""

    model: ModelState
    plan: RunPlan
    digest: str = DIGEST


@dataclass(frozen=True)
class Asking:
    """An open region, and what it asks."""

    region: OpenRegion
    plan: RunPlan

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue.load(self.home.catalogue)

    @property
    def home(self) -> RegionHome:
        return self.region.engine.home

    def prepare(self, *names: str, epsilon: str = "1", anyway: bool = True) -> list[Prepared]:
        window = {
            "start_ms": parse_time(self.plan.train_from),
            "end_ms": parse_time(self.plan.train_until),
        }
        served = Served(model_state(), self.plan)
        asked = statistics(
            names,
            self.catalogue,
            CLOCK,
            served,  # type: ignore[arg-type]
            store_types=KINDS_OF_STORES,
            **window,
        )
        draft = draft_query(
            self.region.engine, asked, epsilon=epsilon, catalogue=self.catalogue, **window
        )
        return prepare(self.region.engine, draft, anyway=anyway)

    def load(self, *, model_digest: str = DIGEST) -> LocalReleases:
        return LocalReleases.load(
            self.home,
            self.region.engine.log,
            self.region.engine.registry,
            catalogue=self.catalogue,
            model_digest=model_digest,
            model=model_state(),
        )


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation") / "run", regions=1, quorum=1)


@pytest.fixture
def asking(provisioned: Federation, tmp_path: Path) -> Iterator[Asking]:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as region:
        yield Asking(region, plan)


ALL = (SCENES, REGIONAL_BIAS, ALSO_BOUGHT)


def test_what_was_prepared_is_read_back_as_factors_and_lists(asking: Asking) -> None:
    prepared = asking.prepare(*ALL, epsilon="1.9")
    assert [each.name for each in prepared] == [*ALL]
    local = asking.load()
    assert (set(local.answers), local.left_out) == ({*ALL}, {})
    assert local.clock == CLOCK
    n_categories = len(asking.catalogue.category_names)
    for scene in (Scene("noon"), Scene(weekday=3), Scene("noon", 3), Scene("noon", 3, "mall")):
        factor = local.scene_factor(scene)
        assert factor is not None
        assert (factor.shape, factor.dtype) == ((n_categories,), np.float32)
        assert (factor > 0).all()
    both = local.scene_factor(Scene("noon", 3))
    alone = [local.scene_factor(Scene("noon")), local.scene_factor(Scene(weekday=3))]
    np.testing.assert_allclose(both, alone[0] * alone[1], rtol=1e-6)  # type: ignore[operator]
    for unknown in (Scene(), Scene("midnight"), Scene(store_type="mall")):
        assert local.scene_factor(unknown) is None
    bias = local.regional_bias
    assert bias is not None
    assert bias.shape == (N_ITEMS,)
    assert (np.delete(bias, VOCABULARY) == 1).all()
    assert local.also_bought(1, 5) is None


def test_what_is_bought_where_comes_from_the_further_table(asking: Asking) -> None:
    # The store's own rows say nothing of stores: an answer would be noise, and paid for.
    with pytest.raises(InputError, match="no kind of store 'city'"):
        asking.prepare(STORE_TYPES)
    assert asking.region.engine.ledger.charges == ()
    write_tables(asking.home.source, asking.catalogue, seed=1)
    (prepared,) = asking.prepare(STORE_TYPES, epsilon="1.9")
    assert prepared.query.part(STORE_TYPES).parameters == {"store_types": [*KINDS_OF_STORES]}
    local = asking.load()
    assert (set(local.answers), local.left_out) == ({STORE_TYPES}, {})
    factor = local.scene_factor(Scene("noon", 3, "city"))
    assert factor is not None
    assert (factor > 0).all()
    assert local.scene_factor(Scene("noon", 3, "airport")) is None


def test_nothing_prepared_is_nothing_known(asking: Asking) -> None:
    for local in (asking.load(), LocalReleases.none()):
        assert (dict(local.answers), dict(local.left_out)) == ({}, {})
        assert local.scene_factor(Scene("noon", 3)) is None
        assert local.regional_bias is None
        assert local.also_bought(0, 5) is None


def test_also_bought_is_ranked_and_never_the_item_itself(asking: Asking) -> None:
    local = asking.load()
    pairs = np.zeros((len(VOCABULARY), len(VOCABULARY)), dtype=np.float32)
    pairs[0, 3] = pairs[3, 0] = 4.0
    pairs[0, 5] = pairs[5, 0] = 9.0
    known = LocalReleases({}, {}, None, None, None, local.vocabulary, pairs)
    found = known.also_bought(0, 5)
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([10, 6], [9.0, 4.0])
    one = known.also_bought(0, 1)
    assert one is not None
    assert one[0].tolist() == [10]
    assert known.also_bought(2, 5) is None


def test_noise_that_would_swamp_an_answer_is_told_before_anything_is_spent(asking: Asking) -> None:
    size = asking.region.engine.log.size
    with pytest.raises(BudgetError, match=r"Nothing was spent.*scenes"):
        asking.prepare(SCENES, anyway=False)
    assert asking.region.engine.log.size == size
    assert asking.region.engine.ledger.charges == ()


def test_interrupted_it_goes_on_and_done_it_spends_anew(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = asking.region.engine

    def full(*_: object) -> Path:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(local_preparation, "publish", full)
        with pytest.raises(OSError, match="full"):
            asking.prepare(SCENES, REGIONAL_BIAS)
    assert len(engine.ledger.charges) == 1
    asking.prepare(SCENES, REGIONAL_BIAS)
    assert len(engine.ledger.charges) == 2
    first = {name: local_path(asking.home, name).read_bytes() for name in (SCENES, REGIONAL_BIAS)}
    # A published file that is lost is put back; one that is there asks anew.
    local_path(asking.home, SCENES).unlink()
    asking.prepare(SCENES, REGIONAL_BIAS)
    assert len(engine.ledger.charges) == 2
    assert local_path(asking.home, SCENES).read_bytes() == first[SCENES]
    asking.prepare(SCENES, REGIONAL_BIAS)
    assert len(engine.ledger.charges) == 4
    assert local_path(asking.home, SCENES).read_bytes() != first[SCENES]


def test_a_file_that_does_not_hold_is_left_out_and_said_to_be(
    asking: Asking, tmp_path: Path
) -> None:
    asking.prepare(SCENES, REGIONAL_BIAS)
    scenes, bias = (local_path(asking.home, name) for name in (SCENES, REGIONAL_BIAS))
    kept = scenes.read_bytes()

    def left_out(words: str) -> None:
        local = asking.load()
        assert words in local.left_out[SCENES]
        assert local.scene_factor(Scene("noon")) is None
        assert local.regional_bias is not None
        scenes.write_bytes(kept)

    flipped = bytearray(kept)
    flipped[-1] ^= 1
    scenes.write_bytes(flipped)
    left_out("damaged")
    scenes.write_bytes(b"")
    left_out("damaged")
    scenes.write_bytes(bias.read_bytes())
    left_out("of another round, mechanism")

    sealed = SealedAnswer.decode(kept, scenes)
    other = {"scenes": sealed.arrays["scenes"] + np.float32(1)}
    publish(asking.home, SCENES, SealedAnswer(sealed.query, sealed.entry, 0, other))
    left_out("of another values")

    # Signed by the region itself, but never logged.
    record = Envelope.decode(sealed.entry).record() | {"attempt": 2}
    unlogged = make_entry(record, asking.home.signer("trainer"))
    publish(asking.home, SCENES, SealedAnswer(sealed.query, unlogged, 0, sealed.arrays))
    left_out("not in the region's log")

    by_another_role = make_entry(
        Envelope.decode(sealed.entry).record(), asking.home.signer("permit")
    )
    publish(asking.home, SCENES, SealedAnswer(sealed.query, by_another_role, 0, sealed.arrays))
    left_out("not the region's")


def test_what_is_over_another_model_is_left_out(asking: Asking) -> None:
    asking.prepare(SCENES, REGIONAL_BIAS)
    local = asking.load(model_digest="e" * 64)
    assert set(local.answers) == {SCENES}
    assert "another model" in local.left_out[REGIONAL_BIAS]


def test_what_is_over_another_catalogue_is_left_out(asking: Asking) -> None:
    asking.prepare(SCENES)
    other = Catalogue.of([f"other-{number}" for number in range(N_ITEMS)])
    local = LocalReleases.load(
        asking.home,
        asking.region.engine.log,
        asking.region.engine.registry,
        catalogue=other,
        model_digest=DIGEST,
        model=model_state(),
    )
    assert "another catalogue" in local.left_out[SCENES]


def test_a_model_is_needed_where_its_vocabulary_is(asking: Asking) -> None:
    window = {"start_ms": 0, "end_ms": 1}
    for name in (REGIONAL_BIAS, ALSO_BOUGHT):
        with pytest.raises(InputError, match="no model is installed"):
            statistics([name], asking.catalogue, CLOCK, None, **window)
    with pytest.raises(InputError, match="nothing that a region can prepare"):
        statistics(["everything"], asking.catalogue, CLOCK, None, **window)


def test_the_verifier_holds_the_regions_own_log(asking: Asking, tmp_path: Path) -> None:
    asking.prepare(*ALL, epsilon="1.9")
    run_folder = tmp_path / "audited"
    run_folder.mkdir()
    home = asking.home
    plan = (home.permits / f"{asking.plan.run_id}.plan.json").read_bytes()
    write_bundle(
        run_folder,
        federation=home.federation,
        run=asking.plan.run_id,
        registry=registry_envelopes(home.registry),
        plan=plan,
        logs={home.region: asking.region.engine.log},
        artifacts=[],
        signer=home.signer("controller"),
        created_at_ms=now_ms(),
    )
    verdict = verify_bundle(run_folder)
    # There is no server's log, and nobody else has seen this one: nothing else is wrong.
    assert {failure.step for failure in verdict.failures} <= {8}
    assert verdict.steps[5].counts["answers"] == 3
    assert verdict.steps[6].counts["charges"] == 3
