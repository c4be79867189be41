"""What the verifier needs of the run plan that every permit and round names by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeGuard

from common import canonical_json
from common.audit.verify import fields as f
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder, Manifest
from common.audit.verify.key_answers import check_key_questions
from common.audit.verify.records import FEDERATED_ANALYTICS, MECHANISM_SCHEMA, MODES, RULES
from common.audit.verify.tiles import PLAN_NAME
from common.audit.verify.verdict import MANIFEST, Findings
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError

_MAX_PLAN_BYTES = 1 << 20

# A plan has more constants; those below bind what is logged.
_FIELDS: dict[str, f.Check] = {
    "v": f.one_of("fedpref-plan/1", "fedpref-questions/1"),
    "run_id": f.text,
    "federation": f.text,
    "mode": f.one_of(*MODES),
    "aggregation": f.object_of(
        rule=f.one_of(*RULES), tolerated=f.natural, honest_survivors_min=f.natural
    ),
    "regions": f.texts,
    "quorum": f.positive,
    "purpose": f.text,
    "model": f.text,
    "catalogue": f.digest,
    "epsilon": f.decimal,
    "delta": f.decimal,
    "mechanisms": f.list_of(MECHANISM_SCHEMA),
}
# What only one kind of plan has.
_OF_TRAINING: dict[str, f.Check] = {
    "early_stop": f.nullable(f.object_of(patience_rounds=f.positive, least_signal=f.decimal)),
}
_OF_QUESTIONS: dict[str, f.Check] = {
    "strategy": f.one_of("questions"),
    "scenario": f.text,
    "train_from": f.time,
    "train_until": f.time,
    "neighboring_relation": f.one_of("add-or-remove-one-customer"),
    "privacy_unit": f.one_of("customer"),
    "questions": f.list_of(
        f.object_of(
            scope=f.one_of("global", "regions"), question=f.any_object, parameters=f.any_object
        )
    ),
}
#: The kind of question whose rounds are steps, each of which begins where the last one ended.
STEPWISE = "clusters"
_MOST_STEPS = 1000
# What a customer's row in an answer is held to; answers are read as if nothing was cut.
_ROW_NORM = "1"


@dataclass(frozen=True)
class PlanFacts:
    """A run plan's digest, and its constants that bind what is logged.

    Attributes:
        sha256: Digest of ``plan.json``, in hex.
        record: The plan's fields.
        regions: The regions that take part.
        rounds: The number of its last round.
    """

    sha256: str
    record: Record
    regions: frozenset[str]
    rounds: int

    @property
    def asks(self) -> bool:
        """Whether it is a plan of questions, whose rounds are answers."""
        return self.record["v"] == "fedpref-questions/1"

    @property
    def questions(self) -> list[Record]:
        """What it asks, in the order of the rounds; nothing where it trains."""
        questions = self.record["questions"] if self.asks else None
        return [each for each in _list(questions) if _is(each)]

    @property
    def asked(self) -> list[tuple[Record, list[int]]]:
        """What it asks, each with its rounds."""
        if not self.asks:
            return []
        return [*zip(self.questions, _question_rounds(self.record), strict=True)]

    def mechanism(self, number: int) -> Record:
        """What the plan has in a round; empty where it has nothing."""
        return self._in_round(number) or {}

    @property
    def rule(self) -> str:
        """By which rule the plan makes one update of the regions'."""
        return str(_aggregation(self.record)["rule"])

    @property
    def tolerated(self) -> int:
        """How many hostile regions that rule is to withstand."""
        tolerated = _aggregation(self.record)["tolerated"]
        return tolerated if isinstance(tolerated, int) else 0

    @property
    def may_end_early(self) -> bool:
        """Whether its run may end before the last round, by the signals of its rounds."""
        return self.record.get("early_stop") is not None

    def ends(self, signals: Sequence[JsonValue]) -> bool:
        """Whether the plan ends its run after rounds with these logged signals."""
        rule = self.record.get("early_stop")
        if not isinstance(rule, dict):
            return False
        patience, least = rule["patience_rounds"], Decimal(str(rule["least_signal"]))
        if not isinstance(patience, int) or len(signals) < patience:
            return False
        return all(x is not None and Decimal(str(x)) < least for x in signals[-patience:])

    @property
    def honest_survivors_min(self) -> int:
        """With how many honest regions in a sum distributed noise is as strong as it says."""
        least = _aggregation(self.record)["honest_survivors_min"]
        return least if isinstance(least, int) else 0

    def mechanism_of(self, number: int) -> str | None:
        """The name of the mechanism that the plan has in a round."""
        mechanism = self._in_round(number)
        return None if mechanism is None else str(mechanism["name"])

    def grid_exponent_of(self, number: int) -> int | None:
        """The grid of what is released in a round: values are multiples of 2 to this power."""
        mechanism = self._in_round(number)
        exponent = None if mechanism is None else mechanism["grid_exponent"]
        return exponent if isinstance(exponent, int) else None

    def _in_round(self, number: int) -> Record | None:
        for mechanism in _mechanisms(self.record):
            if number in _rounds(mechanism):
                return mechanism
        return None


def read_plan(folder: BundleFolder, manifest: Manifest, findings: Findings) -> PlanFacts | None:
    """Reads ``plan.json``; a fault is recorded and gives None."""
    try:
        data = folder.read(PLAN_NAME, max_bytes=_MAX_PLAN_BYTES)
        record = canonical_json.decode(data, max_bytes=_MAX_PLAN_BYTES)
        if not isinstance(record, dict) or not record.keys() >= _FIELDS.keys():
            raise FormatError("It lacks constants that a run plan has.")
        for name, check in _FIELDS.items():
            check(record[name], name)
        asks = record["v"] == "fedpref-questions/1"
        for name, check in (_OF_QUESTIONS if asks else _OF_TRAINING).items():
            if name not in record:
                raise FormatError(f"It lacks {name}.")
            check(record[name], name)
        _check_kind(record, asks=asks)
        if (record["run_id"], record["federation"]) != (manifest.run, manifest.federation):
            raise FormatError("It is the plan of another run.")
    except FedprefError as error:
        findings.fail(MANIFEST, "plan", f"{PLAN_NAME}: {error.message}", file=PLAN_NAME)
        return None
    regions = record["regions"]
    return PlanFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        record=record,
        regions=frozenset(map(str, regions if isinstance(regions, list) else [])),
        rounds=max((n for m in _mechanisms(record) for n in _rounds(m)), default=0),
    )


def _check_kind(record: Record, *, asks: bool) -> None:
    """Whose consent a plan is on, and that a plan of questions asks what its rounds answer.

    Raises:
        FormatError: It does not hold.
    """
    if (record["purpose"] == FEDERATED_ANALYTICS) != asks:
        raise FormatError("Its purpose is not that of its kind of run.")
    if not asks:
        return
    questions, mechanisms = record["questions"], _mechanisms(record)
    names = [
        each["question"].get("name") if _is(each) and _is(each["question"]) else None
        for each in _list(questions)
    ]
    full = all(
        (each["steps"], each["sampling_probability"], each["clipping_norm"]) == (1, "1", _ROW_NORM)
        for each in mechanisms
    )
    asked = [(each["name"], each["rounds"]) for each in mechanisms]
    planned = [(name, rounds) for name, rounds in zip(names, _question_rounds(record), strict=True)]
    if not names or not full or len(set(map(_array_name, names))) != len(names):
        raise FormatError("Its questions are not asked of every customer, once each.")
    if asked != planned:
        raise FormatError("Its mechanisms are not its questions, one in each round.")
    rule = _aggregation(record)["rule"]
    by_region = [
        each["question"] for each in _list(questions) if _is(each) and each["scope"] == "regions"
    ]
    if rule not in ("sum", "secure-sum") or (by_region and rule != "sum"):
        raise FormatError("Its rule does not make its answers.")
    stated = [each for each in _list(questions) if _is(each)]
    check_key_questions(stated, mechanisms, rule=rule, mode=record["mode"])
    if any(_is(question) and question.get("kind") == STEPWISE for question in by_region):
        raise FormatError("A question of several steps is asked by region.")


def _question_rounds(plan: Record) -> list[list[int]]:
    """The rounds of each question: as many as it has steps, one after the other.

    Raises:
        FormatError: A question has no number of steps.
    """
    found: list[list[int]] = []
    first = 1
    for each in _list(plan["questions"]):
        question = each["question"] if _is(each) else None
        steps: JsonValue = 1
        if _is(question) and question.get("kind") == STEPWISE:
            steps = question.get("steps")
        if type(steps) is not int or not 1 <= steps <= _MOST_STEPS:
            raise FormatError("A question has no number of steps.")
        found.append([*range(first, first + steps)])
        first += steps
    return found


def _array_name(name: JsonValue) -> str:
    """What the array that answers a question is called."""
    return str(name).replace("-", "_")


def _is(value: JsonValue) -> TypeGuard[Record]:
    return isinstance(value, dict)


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _aggregation(plan: Record) -> Record:
    aggregation = plan["aggregation"]
    return aggregation if isinstance(aggregation, dict) else {}


def _mechanisms(plan: Record) -> list[Record]:
    mechanisms = plan["mechanisms"]
    if not isinstance(mechanisms, list):
        return []
    return [mechanism for mechanism in mechanisms if isinstance(mechanism, dict)]


def _rounds(mechanism: Record) -> list[int]:
    rounds = mechanism["rounds"]
    return [n for n in rounds if isinstance(n, int)] if isinstance(rounds, list) else []
