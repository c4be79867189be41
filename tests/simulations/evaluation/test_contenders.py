from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from client.training.evaluation import EvaluationSet, Protocol
from client.training.personalisation import bought
from common.errors import InputError, UsageError
from common.ranking import NO_ITEM, IntArray, ItemSets
from simulations.evaluation import libraries, tuning
from simulations.evaluation.contenders import (
    Alone,
    Contender,
    LinearModel,
    OwnRecent,
    Popular,
    Private,
    Question,
    Ranking,
    WithoutPrivacy,
    own_contenders,
)
from simulations.evaluation.data import EvaluationData, mapped_data
from simulations.evaluation.judge import Metrics
from simulations.evaluation.libraries import LIBRARY, library_contenders
from simulations.evaluation.plans import (
    Setting,
    plan_of,
    require_modes,
    require_strategies,
    settings_of,
)
from simulations.evaluation.protocols import Fold, Split, folds_of
from simulations.evaluation.study import _questions
from simulations.evaluation.tuning import L2_TRIED, chosen_l2
from tests.support.evaluation_store import made_up_rows, write_store

PLACES = 12
METRICS = Metrics((10, PLACES))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EvaluationData:
    more = "[evaluation]\nregions = 3\n"
    return mapped_data([write_store(tmp_path_factory.mktemp("shop"), made_up_rows(), more=more)])


@pytest.fixture(scope="module")
def fold(data: EvaluationData) -> Fold:
    return folds_of(data, Split.TEMPORAL)[0]


@pytest.fixture(scope="module")
def question(data: EvaluationData, fold: Fold) -> Question:
    (only,) = _questions(data, [fold], Split.TEMPORAL, METRICS, [100.0], [{}], 6)
    return only


@pytest.fixture(scope="module")
def setting(data: EvaluationData) -> Setting:
    plan = plan_of(
        data, Split.TEMPORAL, strategy="factors", mode="local", epsilon="8", delta="0.000001"
    )
    return Setting("factors", "local", "8", plan)


def every(setting: Setting) -> list[Contender]:
    plan = setting.plan
    found, left_out = library_contenders(by_time=True)
    assert not left_out
    return [
        Private(setting, ablated=True),
        Alone(setting),
        Popular(plan),
        OwnRecent(plan),
        WithoutPrivacy(plan),
        LinearModel(plan),
        *found,
    ]


def rankings(contender: Contender, question: Question, seed: int = 1) -> list[Ranking]:
    return list(contender.rank(question, seed))


def test_every_contender_ranks_new_items_that_are_new_and_no_item_twice(
    question: Question, setting: Setting
) -> None:
    seen = ItemSets.concatenated(
        [bought(each.history) for each in question.population.evaluated.values()]
    )
    for contender in every(setting):
        keys = {method.key for method in contender.methods}
        found = rankings(contender, question)
        assert {key for key, _, _ in found} == keys
        for key, counted, ranked in found:
            assert ranked.shape == (seen.n_customers, PLACES), key
            for row in ranked:
                shown = row[row != NO_ITEM].tolist()
                assert len(set(shown)) == len(shown), key
            if counted is Protocol.NEW:
                owners = np.broadcast_to(np.arange(len(ranked))[:, None], ranked.shape)
                assert not seen.contains(owners, ranked).any(), key


def test_no_contender_sees_an_answer(
    data: EvaluationData, fold: Fold, question: Question, setting: Setting
) -> None:
    """Other answers of the same customers change no ranking at all."""
    emptied = replace(
        fold,
        answers={
            region: ItemSets(np.zeros_like(own.indptr), own.items[:0], own.n_items)
            for region, own in fold.answers.items()
        },
    )
    (other,) = _questions(data, [emptied], Split.TEMPORAL, METRICS, [100.0], [{}], 6)
    for contender in every(setting):
        before, after = rankings(contender, question), rankings(contender, other)
        for (key, _, one), (_, _, two) in zip(before, after, strict=True):
            assert np.array_equal(one, two), key


def test_a_contender_that_looks_for_answers_finds_none(question: Question) -> None:
    class Cheat:
        methods = ()
        has_chance = False

        def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
            del seed
            asked = question.population.evaluated.values()
            ranked: IntArray = np.concatenate([each.test.items for each in asked])
            yield "cheat", Protocol.NEW, ranked

    ((_, _, found),) = rankings(Cheat(), question)
    assert not len(found)
    assert all(isinstance(e, EvaluationSet) for e in question.population.evaluated.values())


def test_chance_has_a_part_in_what_says_so(question: Question, setting: Setting) -> None:
    for contender in every(setting):
        one, same, other = (
            np.concatenate([ranked for _, _, ranked in rankings(contender, question, seed)])
            for seed in (1, 1, 2)
        )
        assert np.array_equal(one, same)
        assert np.array_equal(one, other) != contender.has_chance, contender.methods[0].key


def test_strong_generalisation_asks_for_new_items_only(
    data: EvaluationData, setting: Setting
) -> None:
    folds = folds_of(data, Split.STRONG)
    (asked, *_) = _questions(
        data, folds, Split.STRONG, METRICS, [100.0] * len(folds), [{}] * len(folds), 6
    )
    found, (left_out,) = library_contenders(by_time=False)
    assert left_out.what == "BPR (implicit)"
    for contender in (Private(setting, ablated=True), Popular(setting.plan), *found):
        assert {counted for _, counted, _ in rankings(contender, asked)} == {Protocol.NEW}
    assert rankings(OwnRecent(setting.plan), asked) == []


def test_without_the_library_its_baselines_are_named_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: name != LIBRARY or None)
    found, left_out = library_contenders(by_time=True)
    assert not found
    assert [each.what for each in left_out] == [
        "ItemKNN (implicit, cosine)",
        "iALS (implicit)",
        "BPR (implicit)",
    ]
    assert all("fedpref[evaluation]" in each.why for each in left_out)


def test_the_penalty_is_chosen_without_the_answers(
    data: EvaluationData, fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = chosen_l2(fold)
    assert chosen in L2_TRIED
    blind = replace(fold, answers={}, histories={}, train={})
    assert chosen_l2(blind) == chosen
    assert chosen_l2(replace(fold, tuning=None)) == tuning.EASE_L2
    monkeypatch.setattr(tuning, "L2_TRIED", (chosen,))
    assert chosen_l2(fold) == chosen


def test_plans_are_the_defaults_of_public_numbers(data: EvaluationData) -> None:
    found, omitted = settings_of(
        data,
        Split.TEMPORAL,
        strategies=("factors", "tied-autoencoder"),
        modes=("local", "distributed"),
        epsilons=("8",),
        delta="0.000001",
    )
    assert [each.key for each in found] == [
        "factors/local/8",
        "factors/distributed/8",
        "tied-autoencoder/local/8",
    ]
    assert [each.what for each in omitted] == ["tied-autoencoder, distributed noise"]
    assert "distributed noise is for" in omitted[0].why
    for each in found:
        assert each.plan.planned_customers == data.planned_customers
        assert each.plan.aggregation.honest_survivors_min == (
            len(data.regions) if each.mode == "distributed" else 0
        )
    (auto,), _ = settings_of(
        data,
        Split.TEMPORAL,
        strategies=("auto",),
        modes=("local",),
        epsilons=("8",),
        delta="0.000001",
    )
    assert auto.title.startswith(f"auto ({auto.plan.strategy}), local noise")


def test_two_regions_are_too_few_for_distributed_noise(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    more = "[evaluation]\nregions = 2\n"
    path = write_store(tmp_path_factory.mktemp("two"), made_up_rows(60), more=more)
    found, omitted = settings_of(
        mapped_data([path]),
        Split.STRONG,
        strategies=("factors",),
        modes=("distributed",),
        epsilons=("8",),
        delta="0.000001",
    )
    assert not found
    assert "needs 3 regions" in omitted[0].why


def test_an_epsilon_out_of_range_is_an_error(data: EvaluationData) -> None:
    with pytest.raises(InputError):
        settings_of(
            data,
            Split.TEMPORAL,
            strategies=("factors",),
            modes=("local",),
            epsilons=("1e9",),
            delta="0.000001",
        )


def test_strategies_and_modes_are_asked_for_by_name() -> None:
    assert require_strategies(["factors", "auto"]) == ("factors", "auto")
    assert "sasrec" in require_strategies(["all"])
    assert require_modes(["distributed"]) == ["distributed"]
    for names in (["facters"], ["factors", "factors"], [""]):
        with pytest.raises(UsageError, match="is no strategy"):
            require_strategies(names)
    with pytest.raises(UsageError, match="no mode 'central'"):
        require_modes(["central"])


def test_the_first_strategy_is_measured_in_each_region_alone_too(setting: Setting) -> None:
    shared = replace(setting, mode="distributed")
    other = replace(setting, strategy="gram")
    contenders = own_contenders([setting, shared, other], setting.plan)
    keys = [method.key for contender in contenders for method in contender.methods]
    assert keys[:6] == [
        "factors/local/8",
        "factors/local/8/no-factors",
        "factors/alone/8",
        "factors/distributed/8",
        "factors/distributed/8/no-factors",
        "gram/local/8",
    ]
    assert len(set(keys)) == len(keys)
