"""The model card says what plan and log say, whenever it is written; nothing about customers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.audit.entry import make_entry
from common.errors import InputError, StorageError, VerificationError
from common.parameters import arrays_digest
from common.plan_defaults import default_plan
from common.strategies import StrategyName
from common.timestamps import format_time
from server.model_card import CARD_FILES, CARD_JSON, CARD_PAGE, card_of, model_card
from server.model_card_page import STRATEGIES
from server.run_figures import epsilon_after
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation
from tests.support.local_plan import local_plan
from tests.support.memory_signer import MemorySigner


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeFederation]:
    """A finished run of three regions, one of which refused its second round."""
    with open_federation(tmp_path_factory.mktemp("card"), fake_plan()) as federation:
        federation.engines["region-3"].before_train = _refuses_round_two
        federation.run()
        yield federation


def _refuses_round_two(server_round: int) -> None:
    if server_round == 2:
        raise InputError("not this one")


def card(federation: FakeFederation) -> dict[str, Any]:
    return dict(json.loads((federation.home.folder / CARD_JSON).read_bytes()))


def test_a_published_model_has_a_card_beside_it(finished: FakeFederation) -> None:
    said, plan = card(finished), finished.plan
    assert said["model"] == arrays_digest(finished.model())
    assert (said["plan"], said["catalogue"]) == (plan.digest, plan.catalogue)
    assert {(each["name"], tuple(each["shape"])) for each in said["arrays"]} == {
        (name, array.shape) for name, array in finished.model().items()
    }
    assert said["training"]["rounds"] == said["training"]["rounds_planned"] == plan.total_rounds
    assert (said["privacy"]["epsilon"], said["privacy"]["delta"]) == (plan.epsilon, plan.delta)
    assert said["for"]
    assert said["not_for"]
    assert said["limits"]
    data = (finished.home.folder / CARD_JSON).read_bytes()
    assert canonical_json.encode(canonical_json.decode(data)) == data


def test_the_card_tells_in_how_many_rounds_each_region_is(finished: FakeFederation) -> None:
    rounds = {each["region"]: each["rounds"] for each in card(finished)["training"]["regions"]}
    assert rounds == {"region-1": 3, "region-2": 3, "region-3": 2}


def test_a_card_is_the_same_whenever_it_is_written(finished: FakeFederation) -> None:
    before = {name: (finished.home.folder / name).read_bytes() for name in CARD_FILES}
    for name in CARD_FILES:
        (finished.home.folder / name).unlink()
    # As after a crash between the model's entry and its card: the same command writes it.
    finished.run()
    assert {name: (finished.home.folder / name).read_bytes() for name in CARD_FILES} == before
    assert card_of(finished.home).files() == before


def test_a_card_is_of_public_numbers_alone(finished: FakeFederation) -> None:
    made = model_card(finished.plan, finished.records("model")[-1], finished.records("aggregate"))
    assert made.files() == card_of(finished.home).files()


def test_without_a_published_model_there_is_no_card(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        federation.run_config["last-round"] = 2
        federation.run()
        assert not any((federation.home.folder / name).exists() for name in CARD_FILES)
        with pytest.raises(InputError, match="has published no model"):
            card_of(federation.home)


def test_an_entry_that_is_not_the_coordinators_makes_no_card(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run()
        forged = {**federation.records("model")[-1], "model": "9" * 64}
        with federation.trail() as trail:
            trail.log.append([make_entry(forged, MemorySigner("nobody"))])
        with pytest.raises(VerificationError):
            card_of(federation.home)


def test_a_disk_that_refuses_is_told_of(finished: FakeFederation, tmp_path: Path) -> None:
    (tmp_path / CARD_JSON).mkdir()
    with pytest.raises(StorageError, match="model card cannot be written"):
        card_of(finished.home).write(tmp_path)


def ended_after(rounds: int, **changes: Any) -> dict[str, Any]:
    """The card of a made-up run that was over after some rounds."""
    plan = default_plan(
        **{
            "run_id": "run",
            "federation": "test.example",
            "scenario": "test",
            "regions": ["a", "b", "c"],
            "quorum": 3,
            "catalogue": "c" * 64,
            "n_items": 500,
            "train_from": "2017-01-01T00:00:00.000Z",
            "train_until": "2017-12-01T00:00:00.000Z",
            "epsilon": "8",
            "planned_customers": 5000,
            **changes,
        }
    )
    published = {"model": "a" * 64, "time": format_time(1_500_000_000_000)}
    used = [{"region": region} for region in plan.regions]
    made = model_card(plan, published, [{"regions": used} for _ in range(rounds)])
    return {"card": made.record, "page": made.files()[CARD_PAGE].decode(), "plan": plan}


def test_every_strategy_has_words() -> None:
    assert set(STRATEGIES) == set(get_args(StrategyName))
    plan = local_plan()
    published = {"model": "a" * 64, "time": format_time(1_500_000_000_000)}
    page = model_card(plan, published, []).files()[CARD_PAGE].decode()
    assert f"Strategy `{plan.strategy}`: {STRATEGIES[plan.strategy]}." in page
    assert f"| `{plan.strategy}` |" in page


def test_every_way_of_making_one_of_updates_has_words() -> None:
    shared: dict[str, Any] = {"mode": "distributed", "rule": "secure-sum"}
    page = ended_after(2, **shared, honest_survivors_min=2)["page"]
    assert "(2 honest regions in every sum)" in page
    assert "the coordinator sees the sum alone" in page
    assert "outvotes" in ended_after(2, rule="median", tolerated=1)["page"]


def test_a_run_that_ended_early_says_what_its_rounds_spent() -> None:
    early = ended_after(2)
    said, plan = early["card"], early["plan"]
    assert f"2 rounds of the {plan.total_rounds} planned" in early["page"]
    spent = Decimal(said["privacy"]["epsilon_of_rounds"])
    assert Decimal(epsilon_after(plan, 2)) <= spent < Decimal(plan.epsilon)
    assert ended_after(0)["card"]["privacy"]["epsilon_of_rounds"] == "0.0000"


@given(st.integers(1, 60), st.sampled_from(["0.5", "1", "3", "8"]))
def test_figures_are_never_rounded_down(customers: int, epsilon: str) -> None:
    made = ended_after(3, epsilon=epsilon, planned_customers=customers * 100)
    privacy, plan = made["card"]["privacy"], made["plan"]
    assert Decimal(privacy["epsilon_of_rounds"]) >= Decimal(epsilon_after(plan, 3))
    noise = Decimal(plan.mechanisms[0].noise_stddev) * Decimal(3).sqrt()
    assert Decimal("0.001") > Decimal(privacy["popularity_noise_stddev"]) - noise > Decimal("-1e-9")
