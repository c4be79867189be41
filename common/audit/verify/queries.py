"""Steps 5 and 6 for queries: what a region computes of its customers besides a run's rounds.

A query is a permit of its own kind: the region has signed which mechanisms may run on whose data,
with which noise, for how much ε. Each of its answers is bound to consents as a round is, is paid
for by one charge before it, and is nothing that the query does not name.
"""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal

from common.audit.verify.epsilon import composed_epsilon, mechanism_in
from common.audit.verify.fields import Record
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.rounds import mechanism_of
from common.audit.verify.snapshots import SnapshotChecks, snapshot_size
from common.audit.verify.verdict import BUDGET, ROUNDS
from common.errors import VerificationError
from common.timestamps import parse_time

ITEM_BYTES = {"<f4": 4, "<f8": 8, "<i4": 4, "<i8": 8}
_CHARGED = ("noise_multiplier", "clipping_norm", "sampling_probability", "steps")
_STATED = (*_CHARGED, "epsilon_total", "delta", "honest_survivors_min")
# Room for floating-point rounding, relative.
_ROUNDING = 1e-8


def verify_queries(evidence: Evidence) -> None:
    """Checks every query and every answer of every region's log."""
    for replay in evidence.regions():
        _RegionQueries(evidence, replay).verify()


class _RegionQueries:
    """The queries and answers of one region's log, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._snapshots = SnapshotChecks(evidence, replay)
        self._queries: dict[str, Entry] = {}
        self._charges: dict[str, Entry] = {}
        self._answered: set[tuple[str, int]] = set()
        self._paid: set[str] = set()
        self._all_paid = True
        self._of_rounds: set[str] = set()
        self._of_answers: set[str] = set()
        self._later_charges = {each.text("charge_id") for each in replay.of_kind("charge")}

    def verify(self) -> None:
        for entry in self._replay.entries:
            if entry.kind == "policy":
                self._snapshots.take_policy(entry)
            elif entry.kind == "query":
                self._queries.setdefault(entry.text("permit_id"), entry)
                self._check_query(entry)
            elif entry.kind == "charge":
                self._charges[entry.text("charge_id")] = entry
            elif entry.kind == "round":
                nonce = str(entry.part("train")["nonce"])
                self._require_fresh(entry, nonce, self._of_answers)
                self._of_rounds.add(nonce)
            elif entry.kind == "answer":
                self._check_answer(entry)
        self._note_answers()

    def _fail(self, code: str, entry: Entry, message: str, *, step: int = ROUNDS) -> None:
        self._evidence.fail(step, code, entry, message)

    def _check_query(self, entry: Entry) -> None:
        self._evidence.findings.count(ROUNDS, "queries")
        wrong = [name for name, holds in _query_fields(entry) if not holds]
        if wrong:
            self._fail("query-fields", entry, f"Its {', '.join(wrong)} cannot be what it says.")
        # Each runs once, on everyone: anything else is wrong above.
        spent = Counter(mechanism_in(each) for each in entry.parts("mechanisms"))
        try:
            epsilon = composed_epsilon(spent, float(entry.text("delta")))
        except VerificationError as error:
            self._fail("query-epsilon", entry, error.message, step=BUDGET)
            return
        if not epsilon <= float(entry.text("epsilon_cap")) * (1 + _ROUNDING):
            self._fail(
                "query-epsilon",
                entry,
                f"Its mechanisms give ε = {epsilon:.6f}; it says {entry.text('epsilon_cap')}.",
                step=BUDGET,
            )

    def _check_answer(self, entry: Entry) -> None:
        self._evidence.findings.count(ROUNDS, "answers")
        name = (entry.text("run"), entry.number("round"))
        if name in self._answered:
            self._fail("answer-repeated", entry, "The same part of its query was answered before.")
        self._answered.add(name)
        self._all_paid &= self._check_paid(entry)
        query = self._queries.get(entry.text("permit_id"))
        if query is None:
            return  # Completeness reports it.
        self._check_permitted(entry, query)
        self._check_arrays(entry, query)
        included = entry.part("included")
        if self._snapshots.is_in_place(entry):
            self._require_fresh(entry, str(included["nonce"]), self._of_rounds | self._of_answers)
            self._of_answers.add(str(included["nonce"]))
            if self._replay.whole:
                self._check_included(entry, query, included)
        self._snapshots.check_age(entry, parse_time(str(included["at"])))

    def _require_fresh(self, entry: Entry, nonce: str, used: set[str]) -> None:
        if nonce in used:
            self._fail("nonce-reused", entry, "Its nonce is an earlier entry's: customers link.")

    def _check_permitted(self, entry: Entry, query: Entry) -> None:
        same = ("run", "catalogue", "engine", "deps")
        differing = [name for name in same if entry.record[name] != query.record[name]]
        if differing:
            self._fail(
                "query-mismatch", entry, f"Its {', '.join(differing)} is not what its query says."
            )
        if mechanism_of(query, entry) is None:
            self._fail("answer-not-permitted", entry, "Its query has no such part.")
        if not query.time_ms("issued_at") <= entry.time_ms("start") + CLOCK_TOLERANCE_MS:
            self._fail("permit-not-yet-valid", entry, "It was begun before its query.")
        if not entry.time_ms("end") <= query.time_ms("expires") + CLOCK_TOLERANCE_MS:
            self._fail("permit-expired", entry, "It ended after its query had expired.")

    def _check_included(self, entry: Entry, query: Entry, included: Record) -> None:
        purposes = _texts(query.record["consented"])
        counted = self._snapshots.check_included(entry, included, purposes)
        size = snapshot_size(entry)
        if self._snapshots.policy_at(size).get("withdrawal_in_round") != "discard":
            return
        at_ms = parse_time(str(included["at"]))
        still = self._snapshots.eligible(entry, entry.index, at_ms, purposes)
        if not counted.issubset(still):
            self._fail(
                "withdrawal-not-discarded",
                entry,
                "The policy discards what someone withdraws from before it is logged, and "
                "someone in it did.",
            )

    def _check_paid(self, entry: Entry) -> bool:
        """Whether a charge of the log, made before it and of what it says, paid for it alone."""
        charge_id, dp = entry.text("charge_id"), entry.part("dp")
        charge = self._charges.get(charge_id)
        if charge is None:
            if charge_id in self._later_charges:
                self._fail("charge-after", entry, "Its charge was logged after it.", step=BUDGET)
            return False  # A charge that is nowhere is for completeness to report.
        paid = True
        if charge_id in self._paid:
            paid = False
            self._fail("charge-reused", entry, "Its charge has paid for another.", step=BUDGET)
        self._paid.add(charge_id)
        same = ("run", "round", "attempt", "mechanism", "permit_id")
        differing = [name for name in same if entry.record[name] != charge.record[name]]
        differing += [name for name in _STATED if dp[name] != charge.record[name]]
        if (dp["mode"], dp["share_stddev"]) != ("local", None):
            differing.append("noise")
        if differing:
            paid = False
            message = f"Its {', '.join(differing)} is not its charge's."
            self._fail("answer-charge", entry, message, step=BUDGET)
        if entry.time_ms("end") + CLOCK_TOLERANCE_MS < charge.time_ms("time"):
            paid = False
            self._fail("clock-rollback", entry, "It ended before it was charged.")
        return paid

    def _check_arrays(self, entry: Entry, query: Entry) -> None:
        arrays = entry.parts("arrays")
        size_bytes = sum(ITEM_BYTES[str(each["dtype"])] * _elements(each) for each in arrays)
        permitted = [
            {name: each[name] for name in ("name", "dtype", "shape")}
            for each in query.parts("arrays")
            if each["mechanism"] == entry.text("mechanism")
        ]
        mechanism = mechanism_of(query, entry)
        holds = (
            size_bytes == entry.number("bytes")
            and sorted(arrays, key=_name) == sorted(permitted, key=_name)
            and mechanism is not None
            and mechanism["grid_exponent"] == entry.record["grid_exponent"]
        )
        if not holds:
            self._fail(
                "answer-arrays", entry, "Its arrays are not what its query names.", step=BUDGET
            )

    def _note_answers(self) -> None:
        answers = sum(1 for _ in self._replay.of_kind("answer"))
        if answers and self._all_paid:
            # No more than a log can show: not where the values went.
            self._evidence.findings.note(
                f"{self._replay.party} answered {answers} parts of queries: by its signed log each "
                "was charged, and by its queries the answers are for its own use."
            )


def _query_fields(entry: Entry) -> list[tuple[str, bool]]:
    """What must hold of a query by itself, by field."""
    mechanisms, consented = entry.parts("mechanisms"), _texts(entry.record["consented"])
    names = [str(each["name"]) for each in mechanisms]
    rounds = [each["rounds"] for each in mechanisms]
    numbers = [number[0] for number in rounds if isinstance(number, list) and len(number) == 1]
    window = entry.part("window")
    full = [Decimal(str(each["sampling_probability"])) == 1 for each in mechanisms]
    return [
        ("consented", len(set(consented)) == len(consented) > 0),
        ("purpose", entry.text("purpose") in consented),
        ("mechanisms", len(set(names)) == len(names) > 0),
        ("mechanisms", numbers == list(range(1, len(names) + 1))),
        ("mechanisms", all(full) and all(each["steps"] == 1 for each in mechanisms)),
        ("arrays", {str(each["mechanism"]) for each in entry.parts("arrays")} == set(names)),
        ("window", parse_time(str(window["start"])) < parse_time(str(window["end"]))),
        ("expires", entry.time_ms("issued_at") < entry.time_ms("expires")),
        # Nobody else asks for what stays in the region.
        ("requested_by", entry.text("requested_by") == entry.party),
    ]


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _name(array: Record) -> str:
    return str(array["name"])


def _elements(array: Record) -> int:
    shape = array["shape"]
    return math.prod(n for n in shape if isinstance(n, int)) if isinstance(shape, list) else 0
