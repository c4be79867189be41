"""Step 7 for runs of questions: the published answers, reckoned anew from what regions released.

A run of questions hands sums on from round to round, so every digest in the chain can be computed
from the sums that were published last. Where the plan publishes regions' own answers, each is the
very array whose digest the region signed, and the sum is their sum to the bit. What
``answers.json`` says of noise, ε and customers is worked out here from plan and logs. That a region
counted its customers as it says, no log can show.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from common import canonical_json
from common.audit.verify.arrays_file import FileArray, arrays_digest, read_file_arrays
from common.audit.verify.epsilon import composed_epsilon, mechanism_in
from common.audit.verify.fields import Record
from common.audit.verify.files import BundleFolder
from common.audit.verify.key_answers import asks_keys, keys_array, problem_of_keys
from common.audit.verify.plan_facts import STEPWISE, PlanFacts
from common.audit.verify.replay import SERVER, Entry, Evidence
from common.audit.verify.steps import first_steps, last_centres
from common.audit.verify.verdict import CHAIN
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError, InputError, VerificationError

ARRAYS_FILE, FACTS_FILE = "answers.safetensors", "answers.json"
_FILE_VERSION = "fedpref-answers-file/1"
_GLOBAL = "global"
_MAX_BYTES = 1 << 30
_MAX_FACTS_BYTES = 8 << 20
_SUM_DTYPE = "<f8"
# Statements of noise have nine digits.
_ROUNDING = 1e-8
_ITEMS = {"<f4": "f", "<f8": "d"}


def verify_answers(evidence: Evidence, folder: BundleFolder) -> None:
    """Checks what a run of questions published; that any other run published no answers."""
    plan = evidence.plan
    if plan is None:
        return
    asks = plan.asks
    published = _published(evidence, "answers")
    for entry in _published(evidence, "model") if asks else published:
        evidence.fail(CHAIN, "published-kind", entry, "Its run publishes something else.")
    if asks and published:
        _Answers(evidence, plan).verify(published, folder)


def _published(evidence: Evidence, kind: str) -> list[Entry]:
    server = evidence.replays.get(SERVER)
    entries = [] if server is None else server.of_kind(kind)
    return [entry for entry in entries if entry.record["run"] == evidence.run]


class _Answers:
    """The answers of the bundle's run, beside the plan and the logs."""

    def __init__(self, evidence: Evidence, plan: PlanFacts) -> None:
        self._evidence = evidence
        self._plan = plan
        self._aggregates = {
            each.number("round"): each for each in _published(evidence, "aggregate")
        }
        self._buckets = {
            entry.leaf: str(entry.part("train")["n_bucket"])
            for replay in evidence.regions()
            for entry in replay.of_kind("round")
        }

    def verify(self, published: Sequence[Entry], folder: BundleFolder) -> None:
        for entry in published:
            self._check_entry(entry)
        if folder.run_folder is None:
            return
        try:
            arrays = read_file_arrays(folder.run_folder / ARRAYS_FILE, max_bytes=_MAX_BYTES)
        except (InputError, FormatError) as error:
            self._fail_file("answers-file", ARRAYS_FILE, error.message)
            return
        self._evidence.findings.count(CHAIN, "answers")
        if arrays_digest(arrays) != published[-1].record["answers"]:
            message = "They are not the answers that were published."
            self._fail_file("answers-file", ARRAYS_FILE, message)
            return
        self._check_arrays(arrays)
        self._check_facts(arrays, folder)

    def _check_entry(self, entry: Entry) -> None:
        last = max(self._aggregates, default=0)
        if last and self._aggregates[last].index > entry.index:
            self._fail("answers-early", entry, "They are published before the last round.")
        if entry.number("rounds") != last:
            self._fail("answers-rounds", entry, "Its number of rounds is not the server's.")
        if entry.record["plan"] != self._evidence.plan_sha256:
            self._fail("plan-mismatch", entry, "It is for another plan than plan.json.")
        if entry.record["catalogue"] != self._plan.record["catalogue"]:
            self._fail("answers-catalogue", entry, "Its catalogue is not the plan's.")

    def _check_arrays(self, arrays: Mapping[str, FileArray]) -> None:
        """Each digest of the chain, each region's answer and each sum, from the arrays alone."""
        expected: set[str] = set()
        sums: dict[str, FileArray] = {}
        for question, rounds in self._plan.asked:
            name = _array_name(question)
            if asks_keys(question):
                expected |= self._check_keys(question, rounds[0], name, arrays, sums)
                continue
            found = arrays.get(name)
            aggregates = [self._aggregates.get(number) for number in rounds]
            if found is None or not _is_sums(found, question, len(rounds)):
                self._fail_file("answers-missing", ARRAYS_FILE, f"There is no sum for {name}.")
                return
            expected.add(name)
            for steps, aggregate in enumerate(aggregates, start=1):
                if aggregate is None:
                    self._fail_file("answers-missing", ARRAYS_FILE, f"There is no sum for {name}.")
                    return
                sums[name] = first_steps(found, steps) if _has_steps(question) else found
                if arrays_digest(sums) != aggregate.record["model_out"]:
                    message = f"Its sums are not those published: {name}."
                    self._fail("answers-chain", aggregate, message)
                if question["scope"] == "regions":
                    expected |= self._check_regions(aggregate, name, arrays)
        if arrays.keys() != expected:
            self._fail_file("answers-more", ARRAYS_FILE, "It has arrays that answer no question.")

    def _check_regions(
        self, aggregate: Entry, name: str, arrays: Mapping[str, FileArray]
    ) -> set[str]:
        """Whether each region's answer is what it released, and the sum their sum."""
        parts = {str(part["region"]): part for part in aggregate.parts("regions")}
        own = {region: arrays.get(f"{region}/{name}") for region in parts}
        released = [each for each in own.values() if each is not None]
        for region, each in own.items():
            if each is None or arrays_digest({name: each}) != parts[region]["update"]:
                self._fail(
                    "answer-of-region",
                    aggregate,
                    f"The answer of {region} is not what it released.",
                )
        if len(released) == len(own) and not _is_sum(arrays[name], released):
            self._fail("answers-sum", aggregate, f"{name} is not the sum of the regions' answers.")
        return {f"{region}/{name}" for region in parts}

    def _check_keys(
        self,
        question: Record,
        number: int,
        name: str,
        arrays: Mapping[str, FileArray],
        sums: Mapping[str, FileArray],
    ) -> set[str]:
        """Whether each region's keys are what it released, and what may be released; no sum is."""
        aggregate = self._aggregates.get(number)
        if aggregate is None:
            self._fail_file("answers-missing", ARRAYS_FILE, f"There are no keys for {name}.")
            return set()
        if arrays_digest(sums) != aggregate.record["model_out"]:
            self._fail("answers-chain", aggregate, f"Keys have changed the sums: {name}.")
        names = (name, keys_array(name))
        for part in aggregate.parts("regions"):
            region = str(part["region"])
            found = {each: arrays.get(f"{region}/{each}") for each in names}
            own = {each: array for each, array in found.items() if array is not None}
            if arrays_digest(own) != part["update"]:
                message = f"The answer of {region} is not what it released."
                self._fail("answer-of-region", aggregate, message)
            mechanism = self._plan.mechanism(number)
            problem = problem_of_keys(arrays, region, name, question, mechanism)
            if problem is not None:
                self._fail("answer-keys", aggregate, f"Of the keys of {region} {problem}.")
        return {f"{part['region']}/{each}" for part in aggregate.parts("regions") for each in names}

    def _check_facts(self, arrays: Mapping[str, FileArray], folder: BundleFolder) -> None:
        """Whether ``answers.json`` says what plan and logs give, field by field."""
        path = None if folder.run_folder is None else folder.run_folder / FACTS_FILE
        try:
            if path is None or path.is_symlink() or path.stat().st_size > _MAX_FACTS_BYTES:
                raise InputError("It is no regular file of a moderate size.")
            stated = canonical_json.decode(path.read_bytes(), max_bytes=_MAX_FACTS_BYTES)
            answers = stated.get("answers") if isinstance(stated, dict) else None
            if not isinstance(stated, dict) or not isinstance(answers, list):
                raise FormatError("It is no file of answers.")
            wrong = [
                name
                for name, value in self._facts(arrays).items()
                if stated.get(name) != value or len(stated) != len(self._facts(arrays)) + 1
            ]
            expected = list(self._answers(arrays))
            if len(answers) != len(expected) or not all(map(_same, answers, expected)):
                wrong.append("answers")
        except OSError as error:
            self._fail_file("answers-facts", FACTS_FILE, f"It cannot be read: {error.strerror}.")
            return
        except FedprefError as error:
            self._fail_file("answers-facts", FACTS_FILE, error.message)
            return
        if wrong:
            message = f"Its {', '.join(wrong)} is not what plan and logs give."
            self._fail_file("answers-facts", FACTS_FILE, message)

    def _facts(self, arrays: Mapping[str, FileArray]) -> Record:
        plan = self._plan.record
        same = ("federation", "catalogue", "mode", "regions", "epsilon", "delta")
        return {
            "v": _FILE_VERSION,
            "plan_name": plan["scenario"],
            "run": self._evidence.run,
            "plan": self._plan.sha256,
            "window": {"start": plan["train_from"], "end": plan["train_until"]},
            "rule": self._plan.rule,
            "arrays": arrays_digest(arrays),
            **{name: plan[name] for name in (*same, "neighboring_relation", "privacy_unit")},
        }

    def _answers(self, arrays: Mapping[str, FileArray]) -> Iterator[Record]:
        """What ``answers.json`` has to say of each answer, in its order.

        Raises:
            VerificationError: The noise is out of range, or sums are not what they are said to be.
        """
        for question, rounds in self._plan.asked:
            # Of a question with steps, the last one is its answer, and all of them are its ε.
            number = rounds[-1]
            aggregate = self._aggregates.get(number)
            parts = [] if aggregate is None else aggregate.parts("regions")
            regions = [str(part["region"]) for part in parts]
            least = [_least(self._buckets.get(str(part["round_entry"]))) for part in parts]
            scopes = [(_GLOBAL, regions, sum(least))]
            if question["scope"] == "regions":
                scopes += [(name, [name], n) for name, n in zip(regions, least, strict=True)]
            mechanism = self._plan.mechanism(number)
            spent = {mechanism_in(mechanism): len(rounds)}
            stepped = self._stepped(question, mechanism, arrays)
            epsilon = composed_epsilon(spent, float(str(self._plan.record["delta"])))
            # Keys have no sum: the noise is that in each region's own values.
            keys = asks_keys(question)
            for scope, of, customers in scopes:
                yield {
                    "round": number,
                    "question": question["question"],
                    "parameters": question["parameters"],
                    "scope": scope,
                    "regions": [*of],
                    "noise_stddev": repr(self._noise_stddev(mechanism, 1 if keys else len(of))),
                    "epsilon": repr(epsilon),
                    "customers_at_least": max(1, customers),
                    **stepped,
                }

    def _stepped(
        self, question: Record, mechanism: Record, arrays: Mapping[str, FileArray]
    ) -> Record:
        """Where the last step of a question counted customers; nothing if it has no steps."""
        asked, sums = question["question"], arrays.get(_array_name(question))
        if not _has_steps(question) or sums is None or not isinstance(asked, dict):
            return {}
        return {"centres": last_centres(self._plan, mechanism, asked, sums)}

    def _noise_stddev(self, mechanism: Record, n_regions: int) -> float:
        """The standard deviation of the noise in an answer's values.

        A region's own is σ·C, rounded to the grid γ afterwards, which adds γ²/12 of variance. A
        share s of distributed noise is the least with √(K·s² − 4) ≥ σ·C/γ grid units (see
        `common.audit.verify.epsilon.shared_noise_multiplier`), up to 2^-23 of it.
        """
        sigma = float(str(mechanism["noise_multiplier"])) * float(str(mechanism["clipping_norm"]))
        exponent = mechanism["grid_exponent"]
        grid = math.ldexp(1.0, exponent if isinstance(exponent, int) else 0)
        if self._plan.record["mode"] == "local":
            return math.sqrt(n_regions * (sigma**2 + grid**2 / 12))
        least = self._plan.honest_survivors_min
        if least < 1:
            raise VerificationError("Its plan names no least survivors.")
        return math.sqrt(n_regions * ((sigma / grid) ** 2 + 4.0) / least) * grid

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(CHAIN, code, entry, message)

    def _fail_file(self, code: str, file: str, message: str) -> None:
        self._evidence.findings.fail(CHAIN, code, f"{file}: {message}", file=file)


def _array_name(question: Record) -> str:
    stated = question["question"]
    return str(stated["name"] if isinstance(stated, dict) else "").replace("-", "_")


def _has_steps(question: Record) -> bool:
    asked = question["question"]
    return isinstance(asked, dict) and asked.get("kind") == STEPWISE


def _is_sums(array: FileArray, question: Record, steps: int) -> bool:
    """Whether an array is what a question's sums come to by form: of one with steps a row each."""
    stepwise = len(array.shape) == 2 and array.shape[0] == steps
    return array.dtype == _SUM_DTYPE and (stepwise or not _has_steps(question))


def _least(bucket: str | None) -> int:
    """The lower end of a logged interval; 1 where a round entry is not in the bundle."""
    digits = "" if bucket is None else bucket.partition("-")[0]
    return int(digits) if digits.isdecimal() else 1


def _is_sum(total: FileArray, parts: Sequence[FileArray]) -> bool:
    """Whether an array is the exact sum of others; nothing is rounded, in whatever order."""
    values, others = _values(total), [_values(part) for part in parts]
    if any(len(each) != len(values) for each in others):
        return False
    try:
        return all(
            Fraction(value) == sum(map(Fraction, column))
            for value, *column in zip(values, *others, strict=True)
        )
    except (OverflowError, ValueError):
        return False  # A value that is not finite is no sum.


def _values(array: FileArray) -> tuple[float, ...]:
    item = _ITEMS.get(array.dtype)
    if item is None:
        return ()
    return struct.unpack(f"<{len(array.data) // struct.calcsize(item)}{item}", array.data)


def _same(stated: JsonValue, expected: Record) -> bool:
    """Whether an answer says what was worked out: its decimals within their rounding."""
    if not isinstance(stated, dict) or stated.keys() != expected.keys():
        return False
    exact = expected.keys() - {"noise_stddev", "epsilon"}
    if any(stated[name] != expected[name] for name in exact):
        return False
    try:
        noise, wanted = float(str(stated["noise_stddev"])), float(str(expected["noise_stddev"]))
        spent, least = float(str(stated["epsilon"])), float(str(expected["epsilon"]))
    except ValueError:
        return False
    # Shares are rounded up on the way, by 2^-23 at the most. ε is stated rounded up.
    near = abs(noise - wanted) <= wanted * (_ROUNDING + 2.0**-22)
    return near and least * (1 - _ROUNDING) <= spent <= least + 1e-5
