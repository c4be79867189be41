"""Plans of questions: made of a list of names with their shares of one budget.

The list is a file for people (TOML)::

    aggregation = "secure-sum"

    [[question]]
    name = "category-customers"
    share = 2

A question's share is of the run's 1/σ²: a question with twice the share has noise that is 1/√2 as
large. Noise follows from ε, δ and the shares alone, and before anybody is asked it is reckoned what
it would do to each answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.aggregation_rules import NoiseMode, RuleName
from common.analytics.answers import Scope
from common.analytics.asked import Asked, Asking, asked
from common.analytics.further_questions import FOLLOW_DAYS, Named
from common.analytics.key_questions import KEY_DELTA, KEY_QUESTIONS
from common.analytics.outlook import Outlook
from common.analytics.question_records import question_record, steps_of
from common.canonical_json import JsonValue
from common.clusters_table import ClustersTable
from common.errors import FormatError, InputError
from common.noise_of_answers import answer_noise_stddev
from common.plan import RunPlan
from common.plan_defaults import calibrated_sigma, mechanism_record, on_ring
from common.plan_parts import KeyDeltaText
from common.planned_questions import QUESTIONS_PURPOSE, ROW_NORM
from common.privacy import NEIGHBORING_RELATION, PRIVACY_UNIT
from common.toml_file import read_toml
from common.validate import DECIMAL

#: What the ledger's accounts call it, in a region as for its own queries.
MODEL_NAME = "analytics"
#: Values are multiples of 2 to this power where the ring of a secure sum has room for it.
GRID_EXPONENT = -10
_MAX_FILE_BYTES = 1 << 20


PublicName = Annotated[str, Field(min_length=1, max_length=128)]
# Lists stand for tuples where people write.
PublicNames = Annotated[tuple[PublicName, ...], Field(strict=False, max_length=1000)]


class QuestionTable(BaseModel):
    """One question of a file.

    Attributes:
        name: What is asked, one of `common.analytics.asked.PLANNABLE`.
        share: Its share of the run's 1/σ², beside those of the others.
        scope: ``global`` or ``regions``: whether each region's own answer is published, too.
        key_delta: Of a question of keys that nobody can list: with what probability a key of one
            customer alone may be released; of the run's δ. None for the usual one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    share: Annotated[float | int, Field(gt=0, le=1000)] = 1
    scope: Scope = "global"
    key_delta: KeyDeltaText | None = None

    @model_validator(mode="after")
    def _consistent(self) -> QuestionTable:
        if self.name in KEY_QUESTIONS and self.scope != "regions":
            raise ValueError(f'{self.name} is decided in each region: state scope = "regions"')
        if self.name not in KEY_QUESTIONS and self.key_delta is not None:
            raise ValueError(f"{self.name} asks for no keys, and has no key_delta")
        return self

    @property
    def stated_key_delta(self) -> dict[str, JsonValue]:
        """Its δ for keys as a field of its mechanism; no field for any other question."""
        return {"key_delta": self.key_delta or KEY_DELTA} if self.name in KEY_QUESTIONS else {}

    def put_into(self, asking: Asking) -> Asking:
        """What the question is made of, with what this table says of it."""
        return replace(asking, key_delta=self.key_delta or KEY_DELTA)


class NamesTable(BaseModel):
    """The retailers' public names, of which questions about further tables are made.

    Attributes:
        features: The features that a Kano survey asks about.
        store_types: The types of stores.
        payments: The ways to pay.
        experiment: The experiment whose uplift is asked for; empty for none.
        follow_days: For how many days its customers are followed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    features: PublicNames = ()
    store_types: PublicNames = ()
    payments: PublicNames = ()
    experiment: str = Field(default="", max_length=128)
    follow_days: int = FOLLOW_DAYS

    def named(self) -> Named:
        """The names.

        Raises:
            InputError: The number of days is none.
        """
        return Named(**self.model_dump())


class QuestionsFile(BaseModel):
    """What a run asks.

    Attributes:
        aggregation: ``sum``: the coordinator sees each region's noisy answer; ``secure-sum``: their
            sum alone.
        names: Public names that questions are made of.
        clusters: By what customers are grouped, and where that begins.
        question: The questions, in order, each once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    aggregation: RuleName = "sum"
    names: NamesTable = NamesTable()
    clusters: ClustersTable = ClustersTable()
    question: tuple[QuestionTable, ...] = Field(min_length=1, max_length=1000, strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> QuestionsFile:
        names = [each.name for each in self.question]
        if len(set(names)) != len(names):
            raise ValueError("a question is asked twice")
        if self.aggregation not in ("sum", "secure-sum"):
            raise ValueError("answers are made one by sum or secure-sum")
        decided = [name for name in names if name in KEY_QUESTIONS]
        if decided and self.aggregation != "sum":
            raise ValueError(
                f"{decided[0]} goes with the aggregation sum only: which keys are released is "
                "decided by noise in one place, and a secure sum has no such place"
            )
        if self.aggregation != "sum" and any(each.scope == "regions" for each in self.question):
            raise ValueError("the scope regions goes with the aggregation sum only")
        return self

    def delta_of_noise(self, delta: str) -> str:
        """What is left of a run's δ beside what its questions of keys take of it.

        Args:
            delta: δ of the run, a decimal string.

        Raises:
            InputError: Nothing is left, or it is no decimal number.
        """
        taken = [Decimal(str(each)) for q in self.question for each in q.stated_key_delta.values()]
        if not taken:
            return delta
        if DECIMAL.fullmatch(delta) is None or not sum(taken) < Decimal(delta):
            raise InputError(
                f"A δ of {delta[:32]} leaves nothing beside {sum(taken):f} for keys.",
                remedy="Give the keys a smaller part (key_delta), such as a hundredth.",
            )
        return f"{Decimal(delta) - sum(taken):f}"

    @classmethod
    def of(
        cls, names: Sequence[str], *, scope: Scope = "global", aggregation: RuleName = "sum"
    ) -> QuestionsFile:
        """Questions of equal shares.

        Raises:
            InputError: They do not go together.
        """
        tables = [{"name": name, "scope": scope} for name in names]
        return _validated({"aggregation": aggregation, "question": tables}, "The questions")

    @classmethod
    def read(cls, path: Path) -> QuestionsFile:
        """Reads a file.

        Raises:
            InputError: It is missing, no TOML, or a field is wrong; names it.
        """
        record = read_toml(
            path,
            "The questions",
            max_bytes=_MAX_FILE_BYTES,
            remedy="Name a TOML file with a [[question]] table for each question.",
        )
        return _validated(record, f"The questions {path}")


def _validated(record: object, where: str) -> QuestionsFile:
    try:
        return QuestionsFile.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise InputError(
            f"{where}: {field}: {first['msg']}.",
            remedy="The fields are aggregation, in [names] features, store_types, payments, "
            "experiment and follow_days, in [clusters] clusters, steps, start and coordinate, and "
            "in each [[question]] name, share, scope and key_delta.",
        ) from error


def questions_plan(
    questions: QuestionsFile,
    asking: Asking,
    *,
    run_id: str,
    federation: str,
    scenario: str,
    regions: Sequence[str],
    quorum: int,
    catalogue: str,
    n_items: int,
    window: tuple[str, str],
    epsilon: str,
    planned_customers: int,
    delta: str = "0.000001",
    round_timeout_s: int = 600,
    mode: NoiseMode = "local",
    honest_survivors_min: int = 0,
) -> RunPlan:
    """A plan of questions whose noise follows from ε, δ and the shares.

    Args:
        questions: What is asked.
        asking: The public knowledge that questions are made of; what the file says of names and
            clusters is put into it.
        run_id: The run's name, unique.
        federation: The federation's name.
        scenario: The scenario's name.
        regions: The regions' names.
        quorum: The fewest regions a sum may be of.
        catalogue: Digest of the public catalogue.
        n_items: Its number of items.
        window: Begin of the window and its end, exclusive, as `asking` has them.
        epsilon: ε of the run, a decimal string.
        planned_customers: Public planning size, over all regions.
        delta: δ, a decimal string.
        round_timeout_s: How long a round waits, in seconds.
        mode: Whose noise protects.
        honest_survivors_min: How many honest regions distributed noise is calibrated to.

    Formal guarantees:
        All questions together are (ε, δ)-DP for one customer, added or removed: 1/σ² is parted by
        the shares, and σ of each is rounded up.

    Raises:
        InputError: A value is out of range, or a name is no question; names it.
    """
    said = replace(asking, named=questions.names.named(), grouping=questions.clusters.grouping())
    made = [asked(each.name, each.put_into(said)) for each in questions.question]
    record: dict[str, JsonValue] = {
        "v": "fedpref-questions/1",
        "run_id": run_id,
        "federation": federation,
        "scenario": scenario,
        "model": MODEL_NAME,
        "strategy": "questions",
        "mode": mode,
        "aggregation": {
            "rule": questions.aggregation,
            "tolerated": 0,
            "honest_survivors_min": honest_survivors_min,
        },
        "regions": list(regions),
        "quorum": quorum,
        "purpose": QUESTIONS_PURPOSE,
        "catalogue": catalogue,
        "n_items": n_items,
        "train_from": window[0],
        "train_until": window[1],
        "epsilon": epsilon,
        "delta": delta,
        "neighboring_relation": NEIGHBORING_RELATION,
        "privacy_unit": PRIVACY_UNIT,
        "round_timeout_s": round_timeout_s,
        "planned_customers": planned_customers,
        "mechanisms": [
            *_mechanisms(
                questions, made, calibrated_sigma(epsilon, questions.delta_of_noise(delta))
            )
        ],
        "questions": [*_planned(questions, made)],
    }
    try:
        if questions.aggregation == "secure-sum":
            record["mechanisms"] = [*on_ring(record)]
        return RunPlan.from_record(record)
    except FormatError as error:
        raise InputError(error.message, remedy="Correct the value of that field.") from error


def _mechanisms(
    questions: QuestionsFile, made: Sequence[Asked], sigma: float
) -> Iterator[JsonValue]:
    """One mechanism a question: 1/σ² is parted by the shares, and evenly among its steps."""
    whole, first = math.fsum(float(each.share) for each in questions.question), 1
    for each, one in zip(questions.question, made, strict=True):
        steps = steps_of(one.question)
        noise = sigma * math.sqrt(whole * steps / float(each.share))
        rounds: list[JsonValue] = [*range(first, first + steps)]
        record = mechanism_record(each.name, rounds, noise, ROW_NORM, GRID_EXPONENT)
        yield record | each.stated_key_delta
        first += steps


def _planned(questions: QuestionsFile, asked_of: Sequence[Asked]) -> Iterator[JsonValue]:
    for each, made in zip(questions.question, asked_of, strict=True):
        yield {
            "scope": each.scope,
            "question": question_record(made.question),
            "parameters": made.parameters,
        }


def outlooks(plan: RunPlan) -> list[Outlook]:
    """What noise would do to each answer of a plan, by its public planning size.

    An answer of a region is reckoned with an even share of the planned customers, a sum with the
    noise and the customers of all regions. Of a question in both scopes the region's is told: it is
    the less certain one.

    Args:
        plan: A plan of questions.
    """
    found = []
    for question in plan.questions:
        by_region = question.scope == "regions"
        n_regions = 1 if by_region else len(plan.regions)
        stddev = answer_noise_stddev(plan, plan.mechanism_named(question.name), n_regions)
        customers = plan.planned_customers // (len(plan.regions) if by_region else 1)
        found.append(question.asked.outlook(max(1, customers), stddev))
    return found
