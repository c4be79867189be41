"""Answers that left regions: what a finished run of questions published, for whoever reads it.

A run's folder has two files of them. ``answers.safetensors`` has the values, and the coordinator's
log their digest; ``answers.json`` says what each array answers and with how much noise. Everything
in them is released, so reading costs no ε. Whether they are what regions gave is for
``fedpref-audit verify``, which reckons both files anew from the logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from common import canonical_json
from common.analytics.array_names import array_of, region_array
from common.analytics.clusters import Clusters
from common.analytics.estimates import LEVEL
from common.analytics.key_tables import KeyTable, key_lines, key_table
from common.analytics.key_union import KeyUnion
from common.analytics.lines import Line, lines_of
from common.analytics.question_records import Question, question_of
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError, VerificationError
from common.parameters import arrays_digest, load_arrays

__all__ = [
    "ARRAYS_NAME",
    "FACTS_NAME",
    "FILE_VERSION",
    "GLOBAL",
    "MAX_FACTS_BYTES",
    "ReleasedAnswer",
    "ReleasedAnswers",
    "Scope",
    "answers_bytes",
    "array_of",
    "region_array",
]

FloatArray = npt.NDArray[np.float64]

FILE_VERSION: Final = "fedpref-answers-file/1"
ARRAYS_NAME: Final = "answers.safetensors"
FACTS_NAME: Final = "answers.json"
#: What an answer is called that is the sum over all regions that took part.
GLOBAL: Final = "global"
#: Of whom answers are: of all regions together, or of each by itself and of all.
Scope = Literal["global", "regions"]

#: The longest that ``answers.json`` may be.
MAX_FACTS_BYTES: Final = 8 << 20
_MAX_ARRAYS_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class ReleasedAnswer:
    """One answer, of one region or of all that took part.

    Attributes:
        question: What was asked; of one with steps the last, with the centres that those before it
            came to.
        scope: `GLOBAL`, or the region whose own answer it is.
        regions: Whose customers are in it.
        noise_stddev: Standard deviation of the noise in each value.
        released: float64[size], the noisy sum of the customers' rows.
        epsilon: ε of this question alone, for one customer, at the run's δ, a decimal string.
        customers_at_least: How many customers it is of at the least, by the powers of two that
            regions log with each round.
        keys: The released keys, where keys were asked for that nobody can list; `released` has the
            sums of their values, and `noise_stddev` is of each region's own values.
    """

    question: Question
    scope: str
    regions: tuple[str, ...]
    noise_stddev: float
    released: FloatArray = field(repr=False)
    epsilon: str
    customers_at_least: int
    keys: KeyTable | None = field(default=None, repr=False)

    def lines(self, *, level: float = LEVEL) -> list[Line]:
        """What it says, line by line, with intervals.

        Args:
            level: How often an interval shall cover the truth.

        Raises:
            InputError: Answers to this kind of question are not shown by lines.
        """
        if self.keys is not None and isinstance(self.question, KeyUnion):
            return key_lines(self.question, self.keys, self.noise_stddev, level=level)
        return lines_of(self.question, self.released, self.noise_stddev, level=level)


@dataclass(frozen=True, eq=False)
class ReleasedAnswers:
    """What a finished run of questions published.

    Attributes:
        plan: What the run's plan calls itself: its scenario's or federation's name for people.
        run: The run's id.
        plan_sha256: The plan's digest, in hex.
        federation: The federation.
        window: Begin of the window that was asked about, inclusive, and its end, exclusive.
        mode: Whose noise protects: ``local`` or ``distributed``.
        regions: The plan's regions.
        epsilon: ε of the whole run for one customer, a decimal string.
        delta: δ, a decimal string.
        unit: Whose records the guarantee covers, and which data sets count as neighbours.
        answers: In the order in which they were asked; of one question the sum first.
    """

    plan: str
    run: str
    plan_sha256: str
    federation: str
    window: tuple[str, str]
    mode: str
    regions: tuple[str, ...]
    epsilon: str
    delta: str
    unit: str
    answers: tuple[ReleasedAnswer, ...] = field(repr=False)

    def of(self, name: str, scope: str = GLOBAL) -> ReleasedAnswer:
        """The answer to a question.

        Args:
            name: The question's name.
            scope: `GLOBAL`, or a region.

        Raises:
            InputError: There is none.
        """
        for answer in self.answers:
            if (answer.question.name, answer.scope) == (name, scope):
                return answer
        raise InputError(
            f"The run {self.run} has no answer to {name[:64]!r} for {scope[:64]!r}.",
            remedy="Ask it by a plan of questions that has it, with that scope.",
        )

    @classmethod
    def load(cls, folder: Path) -> ReleasedAnswers:
        """Reads the answers of a run's folder.

        Raises:
            InputError: A file is missing.
            FormatError: ``answers.json`` is malformed.
            VerificationError: The two files do not belong together.
        """
        facts = _read(folder / FACTS_NAME, MAX_FACTS_BYTES)
        arrays = load_arrays(_read(folder / ARRAYS_NAME, _MAX_ARRAYS_BYTES), _MAX_ARRAYS_BYTES)
        record = canonical_json.decode(facts, max_bytes=MAX_FACTS_BYTES)
        try:
            return _answers(record, arrays)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / FACTS_NAME} is malformed: {error!r}.") from error


def answers_bytes(facts: Mapping[str, JsonValue]) -> bytes:
    """``answers.json`` as bytes.

    Raises:
        FormatError: It would be too long.
    """
    return canonical_json.encode(dict(facts), max_bytes=MAX_FACTS_BYTES)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise FormatError(f"{path} is longer than {max_bytes} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"There are no answers: {path} cannot be read: {error.strerror}.",
            remedy="Name the folder of a finished run of questions.",
        ) from error


def _answers(record: JsonValue, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ReleasedAnswers:
    if not isinstance(record, dict) or record["v"] != FILE_VERSION:
        raise ValueError(f"it is no {FILE_VERSION}")
    if record["arrays"] != arrays_digest(arrays):
        raise VerificationError(
            f"{ARRAYS_NAME} is not the file that {FACTS_NAME} is about.",
            remedy="Take both files from one run's folder.",
        )
    window, answers, regions = record["window"], record["answers"], record["regions"]
    if not (isinstance(window, dict) and isinstance(answers, list) and isinstance(regions, list)):
        raise TypeError("a field is of another type")
    return ReleasedAnswers(
        plan=str(record["plan_name"]),
        run=str(record["run"]),
        plan_sha256=str(record["plan"]),
        federation=str(record["federation"]),
        window=(str(window["start"]), str(window["end"])),
        mode=str(record["mode"]),
        regions=tuple(map(str, regions)),
        epsilon=str(record["epsilon"]),
        delta=str(record["delta"]),
        unit=f"one {record['privacy_unit']}; {record['neighboring_relation']}",
        answers=tuple(_answer(each, arrays) for each in answers),
    )


def _answer(record: JsonValue, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ReleasedAnswer:
    if not isinstance(record, dict):
        raise TypeError("an answer is no object")
    stated, scope, regions = record["question"], str(record["scope"]), record["regions"]
    if not (isinstance(stated, dict) and isinstance(regions, list)):
        raise TypeError("an answer's question is no object")
    question: Question = question_of(stated)
    if isinstance(question, KeyUnion):
        table = key_table(question, [*map(str, regions)], arrays)
        return _released(record, question, table.sums, table)
    name = question.name
    values = arrays[array_of(name) if scope == GLOBAL else region_array(scope, name)]
    shape: tuple[int, ...] = (question.size,)
    if isinstance(question, Clusters):
        shape = (question.steps, question.size)
        # Who is counted in the last step is the answer: at the centres that the others came to.
        question = question_of({**stated, "centres": record["centres"]})
    if values.shape != shape:
        raise ValueError(f"the array of {name} has another shape")
    released = values.reshape(-1, question.size)[-1].astype(np.float64)
    return _released(record, question, released)


def _released(
    record: Mapping[str, JsonValue],
    question: Question,
    released: FloatArray,
    keys: KeyTable | None = None,
) -> ReleasedAnswer:
    noise_stddev, customers = float(str(record["noise_stddev"])), record["customers_at_least"]
    if not (noise_stddev > 0 and type(customers) is int and customers >= 1):
        raise ValueError(f"the noise or the number of customers of {question.name} is none")
    regions = record["regions"]
    return ReleasedAnswer(
        question=question,
        scope=str(record["scope"]),
        regions=tuple(map(str, regions if isinstance(regions, list) else [])),
        noise_stddev=noise_stddev,
        released=released,
        epsilon=str(record["epsilon"]),
        customers_at_least=customers,
        keys=keys,
    )
