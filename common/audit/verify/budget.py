"""Step 6: every release is paid for before it, and the ε that was charged is recomputed.

What a query permits is charged as a run's rounds are; its answers are for
`common.audit.verify.queries`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from functools import lru_cache

from common import canonical_json
from common.audit.verify.epsilon import Mechanism, composed_epsilon, mechanism_in
from common.audit.verify.fields import Record
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.rounds import mechanism_of
from common.audit.verify.verdict import BUDGET
from common.errors import VerificationError
from common.timestamps import format_time

GENESIS_HEAD = "0" * 64

_ITEM_BYTES = {"<f4": 4, "<f8": 8, "<i4": 4, "<i8": 8}
_PARAMETERS = ("noise_multiplier", "clipping_norm", "sampling_probability")
# Room for floating-point rounding, relative; statements are rounded up by far more.
_ROUNDING = 1e-8


def verify_budget(evidence: Evidence) -> None:
    """Checks every charge, and every round and release against its charge."""
    evidence.findings.begin(BUDGET)
    for replay in evidence.regions():
        _RegionBudget(evidence, replay).verify()


@lru_cache(maxsize=4096)
def _epsilon(mechanisms: frozenset[tuple[Mechanism, int]], delta: str) -> float:
    # Regions of one run charge the same mechanisms, so most compositions are computed once.
    return composed_epsilon(dict(mechanisms), float(delta))


class _RegionBudget:
    """The charges, rounds and releases of one region's log, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._permits: dict[str, Entry] = {}
        self._charges: dict[str, Entry] = {}
        self._rounds: dict[str, Entry] = {}
        self._released: set[str] = set()
        self._by_run: dict[str, Counter[Mechanism]] = {}
        self._by_year: dict[str, Counter[Mechanism]] = {}
        self._head: tuple[int, str] | None = (0, GENESIS_HEAD)
        self._logged_charges = {
            entry.text("charge_id"): entry.index for entry in replay.of_kind("charge")
        }

    def verify(self) -> None:
        for entry in self._replay.entries:
            if entry.kind in ("permit", "query"):
                self._permits.setdefault(entry.text("permit_id"), entry)
            elif entry.kind == "charge":
                self._check_charge(entry)
            elif entry.kind == "round":
                self._check_round(entry)
            elif entry.kind == "release":
                self._check_release(entry)

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(BUDGET, code, entry, message)

    def _check_year(self, entry: Entry) -> None:
        """A charge is booked on the year in which it was logged, not on an earlier one's rest."""
        before_ms = max(entry.after_ms - CLOCK_TOLERANCE_MS, 0)
        if entry.text("time")[:4] < format_time(before_ms)[:4]:
            self._fail("clock-rollback", entry, "Its year is before that of the entries before it.")

    def _check_charge(self, entry: Entry) -> None:
        self._evidence.findings.count(BUDGET, "charges")
        self._charges[entry.text("charge_id")] = entry
        self._check_year(entry)
        self._check_head(entry)
        self._check_permitted(entry)
        try:
            self._check_epsilon(entry)
        except VerificationError as error:
            self._fail("epsilon-parameters", entry, error.message)

    def _check_head(self, entry: Entry) -> None:
        seq = entry.number("ledger_seq")
        previous, self._head = self._head, (seq, entry.text("ledger_head"))
        if previous is None or seq != previous[0] + 1:
            # A gap is for completeness to report; a step back is a rolled-back ledger.
            if previous is not None and seq <= previous[0]:
                self._fail("ledger-order", entry, f"Ledger row {seq} follows row {previous[0]}.")
            return
        row: Record = {
            name: entry.record[name]
            for name in (
                "attempt",
                "charge_id",
                "mechanism",
                "model",
                *_PARAMETERS,
                "permit_id",
                "purpose",
                "round",
                "run",
                "steps",
                "time",
            )
        }
        row |= {"previous_head": previous[1], "seq": seq, **_of_keys(entry.record)}
        if hashlib.sha256(canonical_json.encode(row)).hexdigest() != entry.record["ledger_head"]:
            self._fail("ledger-chain", entry, "Its ledger head does not follow from the last one.")

    def _check_permitted(self, entry: Entry) -> None:
        permit = self._permits.get(entry.text("permit_id"))
        if permit is None:
            return  # Completeness reports it.
        mechanism = mechanism_of(permit, entry)
        if permit.record["run"] != entry.record["run"] or mechanism is None:
            self._fail("charge-not-permitted", entry, "Its permit does not cover this round.")
            return
        wanted = (*_PARAMETERS, "steps")
        differing = [name for name in wanted if entry.record[name] != mechanism[name]]
        if _of_keys(entry.record) != _of_keys(mechanism):
            differing.append("key_delta")
        # On whose part of the budget it is booked.
        differing += [
            name for name in ("model", "purpose") if entry.record[name] != permit.record[name]
        ]
        if differing:
            self._fail(
                "charge-parameters", entry, f"Its {', '.join(differing)} is not the permit's."
            )

    def _check_epsilon(self, entry: Entry) -> None:
        mechanism = mechanism_in(entry.record)
        of_run = self._by_run.setdefault(entry.text("run"), Counter())
        of_year = self._by_year.setdefault(entry.text("time")[:4], Counter())
        of_run[mechanism] += entry.number("steps")
        of_year[mechanism] += entry.number("steps")
        delta = entry.text("delta")
        for name, spent in (("epsilon_run", of_run), ("epsilon_total", of_year)):
            recomputed = _composed(spent, delta)
            if not _covers(entry.text(name), recomputed):
                self._fail(
                    "epsilon-understated",
                    entry,
                    f"Its {name} is {entry.text(name)}, its parameters give {recomputed:.6f}.",
                )
        # Statements are rounded up in the sixth decimal.
        if not float(entry.text("epsilon_total")) <= float(entry.text("epsilon_cap")) + 1e-6:
            self._fail("ledger-cap", entry, "Its epsilon_total is above the ledger's cap.")
        permit = self._permits.get(entry.text("permit_id"))
        if permit is not None:
            spent_of_run = _composed(of_run, permit.text("delta"))
            if not _covers(permit.text("epsilon_cap"), spent_of_run):
                self._fail(
                    "permit-cap",
                    entry,
                    f"The run has spent ε = {spent_of_run:.6f}, above the permit's cap of "
                    f"{permit.text('epsilon_cap')}.",
                )

    def _check_round(self, entry: Entry) -> None:
        charge = self._find_charge(entry)
        if charge is None:
            return
        if charge.text("charge_id") in self._rounds:
            self._fail("charge-reused", entry, "An earlier round has used the same charge.")
        self._rounds[charge.text("charge_id")] = entry
        dp = entry.part("dp")
        same = ("run", "round", "mechanism", "permit_id")
        differing = [name for name in same if entry.record[name] != charge.record[name]]
        differing += [
            name
            for name in (*_PARAMETERS, "steps", "epsilon_total")
            if dp[name] != charge.record[name]
        ]
        if _of_keys(dp) != _of_keys(charge.record):
            differing.append("key_delta")
        if entry.number("attempt") < charge.number("attempt"):
            differing.append("attempt")
        if differing:
            self._fail("round-charge", entry, f"Its {', '.join(differing)} is not its charge's.")
        if dp["delta"] != charge.record["delta"]:
            self._fail("round-delta", entry, "Its δ is not its charge's.")
        self._check_stated(entry, charge, dp)

    def _check_stated(self, entry: Entry, charge: Entry, dp: Record) -> None:
        try:
            spent = self._by_year[charge.text("time")[:4]]
            recomputed = _composed(spent, str(dp["delta"]))
        except (KeyError, VerificationError):
            return  # The charge itself was reported.
        if not _covers(str(dp["epsilon_total"]), recomputed):
            self._fail(
                "epsilon-understated",
                entry,
                f"Its epsilon_total is {dp['epsilon_total']} at δ = {dp['delta']}; what was "
                f"charged gives {recomputed:.6f}.",
            )

    def _check_release(self, entry: Entry) -> None:
        self._evidence.findings.count(BUDGET, "releases")
        charge = self._find_charge(entry)
        if charge is None:
            return
        if charge.text("charge_id") in self._released:
            self._fail("second-release", entry, "Its charge has paid for an earlier release.")
        self._released.add(charge.text("charge_id"))
        paired = self._rounds.get(charge.text("charge_id"))
        if paired is None:
            self._fail("release-without-round", entry, "No round entry of its charge precedes it.")
            return
        same = ("run", "round", "attempt", "update")
        differing = [name for name in same if entry.record[name] != paired.record[name]]
        if differing:
            self._fail(
                "release-mismatch", entry, f"Its {', '.join(differing)} is not its round entry's."
            )
        self._check_arrays(entry, paired)

    def _check_arrays(self, entry: Entry, paired: Entry) -> None:
        arrays = entry.parts("arrays")
        size_bytes = sum(_ITEM_BYTES[str(a["dtype"])] * _elements(a) for a in arrays)
        if size_bytes != entry.number("bytes"):
            self._fail("release-bytes", entry, f"Its arrays have {size_bytes} bytes.")
        permit = self._permits.get(paired.text("permit_id"))
        if permit is None:
            return
        mechanism = mechanism_of(permit, paired)
        if mechanism and entry.record["grid_exponent"] != mechanism["grid_exponent"]:
            self._fail("release-grid", entry, "It was not rounded to its mechanism's grid.")
        permitted = [
            {name: array[name] for name in ("name", "dtype", "shape")}
            for array in permit.parts("arrays")
            if array["mechanism"] == paired.text("mechanism")
        ]
        if _by_name(arrays) != _by_name(permitted):
            self._fail("release-arrays", entry, "What left is not what the permit lets out.")

    def _find_charge(self, entry: Entry) -> Entry | None:
        charge = self._charges.get(entry.text("charge_id"))
        if charge is None and entry.text("charge_id") in self._logged_charges:
            later = self._logged_charges[entry.text("charge_id")]
            self._fail("charge-after", entry, f"Its charge was logged after it, as entry {later}.")
        return charge  # A charge that is nowhere is for completeness to report.


def _of_keys(record: Record) -> Record:
    """What a record states of a δ for keys; nothing where no keys are released."""
    return {name: record[name] for name in ("key_delta",) if name in record}


def _composed(spent: Counter[Mechanism], delta: str) -> float:
    return _epsilon(frozenset(spent.items()), delta)


def _covers(stated: str, recomputed: float) -> bool:
    return recomputed <= float(stated) * (1 + _ROUNDING)


def _elements(array: Record) -> int:
    shape = array["shape"]
    return math.prod(n for n in shape if isinstance(n, int)) if isinstance(shape, list) else 0


def _by_name(arrays: list[Record]) -> list[Record]:
    return sorted(arrays, key=lambda array: str(array["name"]))
