"""Plans of questions: their noise, what holds together, and the file that people write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.analytics.asked import PLANNABLE, Asking, asked
from common.analytics.further_questions import Named
from common.analytics.outlook import require_worth
from common.analytics.purchase_questions import CATEGORIES, CLUSTERS, REPEATS, SCENES
from common.catalogue import Catalogue
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING
from common.errors import BudgetError, FormatError, InputError
from common.noise_of_answers import answer_noise_stddev
from common.plan import RunPlan
from common.planned_questions import QUESTIONS_PURPOSE
from common.questions_plan import QuestionsFile, QuestionTable, outlooks, questions_plan
from tests.support.asked_federation import CATALOGUE, WINDOW, WINDOW_MS, asked_plan, secure_plan
from tests.support.local_plan import local_plan

PLAN = asked_plan()
SECURE = {"local": secure_plan("local"), "distributed": secure_plan("distributed")}


def changed(plan: RunPlan = PLAN, **fields: Any) -> dict[str, Any]:
    return {**plan.to_record(), **fields}


def planned(index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """The plan's questions, one of them changed."""
    questions: Any = PLAN.to_record()["questions"]
    return [each | fields if n == index else each for n, each in enumerate(questions)]


def mechanisms(index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    each_of: Any = PLAN.to_record()["mechanisms"]
    return [each | fields if n == index else each for n, each in enumerate(each_of)]


def test_a_record_round_trips_and_has_nothing_of_training() -> None:
    data = canonical_json.encode(PLAN.to_record())
    again = RunPlan.from_record(canonical_json.decode(data))
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert again.to_record() == PLAN.to_record()
    assert not {"rank", "vocabulary_size", "init_seed", "local_training"} & PLAN.to_record().keys()
    assert PLAN.asks
    assert not local_plan().asks


def test_a_plan_may_name_groups_by_the_thousand() -> None:
    names = [f"{n:04d} {'groceries ' * 3}" for n in range(3_000)]
    many = Catalogue.of([f"item-{n}" for n in range(3_000)], category=names)
    plan = asked_plan((CATEGORIES,), catalogue=many)
    data = plan.to_bytes()
    assert len(data) > 1 << 16
    assert RunPlan.from_record(canonical_json.decode(data, max_bytes=len(data))) == plan


def test_rounds_are_questions_and_hand_their_sums_on() -> None:
    assert PLAN.total_rounds == 3
    assert [PLAN.mechanism_of(number).name for number in (1, 2, 3)] == [CATEGORIES, SCENES, REPEATS]
    (released,) = PLAN.released_arrays(SCENES)
    assert (released.name, released.dtype, released.shape) == ("purchase_scenes", "<f4", (28,))
    assert PLAN.model_arrays(1) == ()
    assert [spec.name for spec in PLAN.model_arrays(3)] == ["category_customers", "purchase_scenes"]
    assert {spec.dtype for spec in PLAN.model_arrays(4)} == {"<f8"}
    assert secure_plan("distributed").released_arrays(SCENES)[0].dtype == "<i4"
    assert PLAN.parameter_arrays() == ()
    with pytest.raises(InputError, match="does not ask"):
        PLAN.released_arrays("popularity")


STEPPED = asked_plan((CATEGORIES, CLUSTERS, REPEATS), scope="global")


def stepped(index: int = 1, **fields: Any) -> list[dict[str, Any]]:
    """The questions of the plan with steps, one of them changed."""
    questions: Any = STEPPED.to_record()["questions"]
    return [each | fields if n == index else each for n, each in enumerate(questions)]


def test_a_question_with_steps_has_a_round_for_each_and_hands_a_row_on() -> None:
    assert [each.rounds for each in STEPPED.mechanisms] == [(1,), (2, 3, 4), (5,)]
    assert STEPPED.total_rounds == 5
    clusters = [
        {spec.name: spec.shape for spec in STEPPED.model_arrays(number)}.get("purchase_clusters")
        for number in range(1, 7)
    ]
    assert clusters == [None, None, (1, 6), (2, 6), (3, 6), (3, 6)]
    (released,) = STEPPED.released_arrays(CLUSTERS)
    assert (released.name, released.shape) == ("purchase_clusters", (6,))
    assert RunPlan.from_record(STEPPED.to_record()) == STEPPED


def test_a_share_is_parted_evenly_among_steps() -> None:
    one, steps, other = (float(each.noise_multiplier) for each in STEPPED.mechanisms)
    assert one == other
    assert steps / one == pytest.approx(math.sqrt(3), rel=1e-5)


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_epsilon_of_all_steps_is_what_dp_accounting_gives(mode: Any) -> None:
    names = (CLUSTERS, REPEATS)
    plan = (
        asked_plan(names, scope="global", epsilon="1")
        if mode == "local"
        else secure_plan(mode, names, epsilon="1")
    )
    accountant = PLDAccountant()
    for each in plan.mechanisms:
        noise = float(each.noise_multiplier)
        if mode == "distributed":
            noise = plan.shared_noise(each).noise_multiplier
        accountant.compose(GaussianDpEvent(noise), len(each.rounds))
    spent = accountant.get_epsilon(float(plan.delta))
    assert spent <= 1 + 1e-6
    assert spent == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"questions": stepped(scope="regions")}, "have the scope|has the scope global"),
        ({"questions": stepped(0, scope="regions")[::-1]}, "mechanisms are not the questions"),
        (
            {"questions": stepped(question={**STEPPED.questions[1].question, "steps": 2})},
            "mechanisms are not the questions",
        ),
        (
            {"questions": stepped(question={**STEPPED.questions[1].question, "steps": 21})},
            "1 to 20 steps",
        ),
        (
            {"questions": stepped(question={**STEPPED.questions[1].question, "centres": [["2"]]})},
            "not points within",
        ),
        ({"questions": stepped(parameters={})}, "not its question's"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_steps_that_do_not_hold_together_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match=named):
        RunPlan.from_record(changed(STEPPED, **change))


def test_where_steps_begin_is_what_a_region_permits() -> None:
    question: Any = STEPPED.questions[1]
    centres = [[repr(-float(each)) for each in row] for row in question.question["centres"]]
    moved = stepped(
        question=question.question | {"centres": centres},
        parameters=question.parameters | {"centres": centres},
    )
    assert RunPlan.from_record(changed(STEPPED, questions=moved)).digest != STEPPED.digest


@pytest.mark.parametrize("epsilon", ["0.1", "1", "8"])
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_epsilon_is_what_dp_accounting_gives_and_never_more(epsilon: str, mode: Any) -> None:
    plan = asked_plan(epsilon=epsilon) if mode == "local" else secure_plan(mode, epsilon=epsilon)
    accountant = PLDAccountant()
    for each in plan.mechanisms:
        noise = float(each.noise_multiplier)
        if mode == "distributed":
            shared = plan.shared_noise(each)
            assert shared.noise_multiplier >= noise
            noise = shared.noise_multiplier
        accountant.compose(GaussianDpEvent(noise))
    spent = accountant.get_epsilon(float(plan.delta))
    assert spent <= float(epsilon) * (1 + 1e-6)
    assert spent == pytest.approx(float(epsilon), rel=1e-2)


def test_a_share_is_of_the_precision() -> None:
    tables = (QuestionTable(name=CATEGORIES, share=3), QuestionTable(name=SCENES))
    plan = questions_plan(
        QuestionsFile(question=tables),
        Asking(tuple(CATALOGUE.category_names), *WINDOW_MS),
        run_id="r",
        federation="f",
        scenario="s",
        regions=["a", "b"],
        quorum=1,
        catalogue="c" * 64,
        n_items=40,
        window=WINDOW,
        epsilon="1",
        planned_customers=100,
    )
    first, second = (float(each.noise_multiplier) for each in plan.mechanisms)
    assert second / first == pytest.approx(math.sqrt(3), rel=1e-5)


def test_a_label_a_parameter_and_a_scope_change_the_digest() -> None:
    question = dict(PLAN.questions[1].question, wanted="2.0")
    others = [
        planned(scope="global"),
        planned(index=1, question=question),
        planned(parameters={**PLAN.questions[0].parameters, "more": 1}),
    ]
    digests = {RunPlan.from_record(changed(questions=each)).digest for each in others}
    assert len(digests | {PLAN.digest}) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"v": "fedpref-plan/1"}, "v of a plan of questions"),
        ({"rank": 4}, "has no rank"),
        ({"early_stop": None}, "has no early_stop"),
        ({"purpose": FEDERATED_TRAINING}, "who consents to"),
        ({"regions": ["global", "region-2", "region-3"]}, "a region is called global"),
        ({"questions": []}, "questions"),
        ({"questions": planned()[:2]}, "mechanisms are not the questions"),
        ({"questions": planned()[::-1]}, "mechanisms are not the questions"),
        ({"questions": [planned()[0]] * 3}, "the same twice"),
        ({"questions": planned(scope="some")}, "scope"),
        ({"questions": planned(parameters={})}, "not its question's"),
        ({"questions": planned(question={"kind": "none"})}, "no kind of question"),
        ({"mechanisms": mechanisms(steps=2)}, "once"),
        ({"mechanisms": mechanisms(sampling_probability="0.5")}, "every customer"),
        ({"mechanisms": mechanisms(clipping_norm="0.5")}, "clipping norm of 1"),
        ({"mechanisms": mechanisms(rounds=[1, 4])}, "one in each round"),
        ({"mechanisms": mechanisms(noise_multiplier="0.5")}, "more than the plan states"),
        (
            {"aggregation": {"rule": "median", "tolerated": 1, "honest_survivors_min": 0}},
            "quorum|robust",
        ),
        (
            {"aggregation": {"rule": "secure-sum", "tolerated": 0, "honest_survivors_min": 0}},
            "quorum|where the rule is sum",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_plan_that_does_not_hold_together_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match=named):
        RunPlan.from_record(changed(**change))


def test_a_plan_of_training_has_no_questions() -> None:
    with pytest.raises(FormatError, match="has no questions"):
        RunPlan.from_record(changed(local_plan(), questions=planned()))
    with pytest.raises(FormatError, match="training is not on consent"):
        RunPlan.from_record(changed(local_plan(), purpose=FEDERATED_ANALYTICS))
    with pytest.raises(FormatError, match="v of a plan of tied-autoencoder"):
        RunPlan.from_record(changed(local_plan(), v="fedpref-questions/1"))


@pytest.mark.parametrize("field", sorted(PLAN.to_record()))
def test_every_field_is_needed(field: str) -> None:
    record = PLAN.to_record()
    del record[field]
    with pytest.raises(FormatError, match=field):
        RunPlan.from_record(record)


def test_the_purpose_is_the_one_that_customers_are_asked_for() -> None:
    assert QUESTIONS_PURPOSE == FEDERATED_ANALYTICS


@given(st.integers(1, 30), st.sampled_from(["local", "distributed"]))
def test_the_noise_of_an_answer_grows_with_the_root_of_its_regions(n: int, mode: str) -> None:
    plan = SECURE[mode]
    mechanism = plan.mechanisms[0]
    one, many = (answer_noise_stddev(plan, mechanism, each) for each in (1, n))
    assert many == pytest.approx(math.sqrt(n) * one)
    least = 3 if mode == "distributed" else 1
    # K_min shares come to the noise that is accounted for, and a hair more.
    assert answer_noise_stddev(plan, mechanism, least) >= mechanism.noise_stddev
    grid = 2.0**mechanism.grid_exponent
    # What rounding costs, and that a share has 24 digits in binary.
    most = math.hypot(mechanism.noise_stddev, 2 * grid) * (1 + 2.0**-22)
    assert answer_noise_stddev(plan, mechanism, least) <= most


def test_what_noise_would_swamp_is_told_before_anything_is_asked() -> None:
    found = outlooks(asked_plan(epsilon="0.1"))
    assert [each.name for each in found] == [CATEGORIES, SCENES, REPEATS]
    with pytest.raises(BudgetError, match="Nothing was spent"):
        require_worth(found)
    require_worth(found, anyway=True)
    require_worth(outlooks(asked_plan(epsilon="8", planned_customers=3_000_000)))


def test_a_regions_answer_is_judged_by_a_regions_customers() -> None:
    own = outlooks(asked_plan(scope="regions", planned_customers=3000))[0]
    whole = outlooks(asked_plan(scope="global", planned_customers=3000))[0]
    assert (own.customers, whole.customers) == (1000, 3000)
    # A third of the customers, and noise that is smaller by √3.
    assert own.half_width == pytest.approx(whole.half_width * math.sqrt(3), rel=1e-6)


def test_every_name_can_be_planned() -> None:
    named = Named(("gift wrap",), ("city",), ("card",), "spring")
    asking = Asking(tuple(CATALOGUE.category_names), *WINDOW_MS, named=named)
    for name in PLANNABLE:
        made = asked(name, asking)
        assert made.question.name == name
        assert made.parameters.items() >= made.question.parameters.items()
    with pytest.raises(InputError, match="nothing that a plan can ask"):
        asked("everything", asking)
    with pytest.raises(InputError, match="window"):
        asked(CATEGORIES, Asking(("a",), 5, 5))


# -- the file --------------------------------------------------------------------------------------


def read(path: Path, text: str) -> QuestionsFile:
    path.write_text(text, encoding="utf-8")
    return QuestionsFile.read(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path / "questions.toml",
        """
        aggregation = "sum"

        [names]
        features = ["gift wrap", "returns"]

        [[question]]
        name = "kano"

        [[question]]
        name = "category-customers"
        share = 2.5
        scope = "regions"
        """,
    )
    assert [each.name for each in found.question] == ["kano", "category-customers"]
    assert [float(each.share) for each in found.question] == [1, 2.5]
    assert [each.scope for each in found.question] == ["global", "regions"]
    assert found.names.named().features == ("gift wrap", "returns")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "question"),
        ("question = []", "question"),
        ("[[question]]\nshare = 1", "name"),
        ('[[question]]\nname = "a"\nshare = 0', "share"),
        ('[[question]]\nname = "a"\nshare = nan', "share"),
        ('[[question]]\nname = "a"\nscope = "each"', "scope"),
        ('[[question]]\nname = "a"\nunknown = 1', "unknown"),
        ('[[question]]\nname = "a"\n[[question]]\nname = "a"', "twice"),
        ('aggregation = "median"\n[[question]]\nname = "a"', "sum or secure-sum"),
        (
            'aggregation = "secure-sum"\n[[question]]\nname = "a"\nscope = "regions"',
            "goes with the aggregation sum",
        ),
        ('[names]\nfeatures = [""]\n[[question]]\nname = "kano"', "features"),
        ("[[question", "not valid TOML"),
    ],
    ids=lambda value: value[:40].replace("\n", " "),
)
def test_a_file_that_is_none_is_refused_in_words(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        read(tmp_path / "questions.toml", text)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        QuestionsFile.read(tmp_path / "questions.toml")
    (tmp_path / "questions.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not valid TOML"):
        QuestionsFile.read(tmp_path / "questions.toml")
