"""Step 5: every round is bound to the consents in force, under the region's permit."""

from __future__ import annotations

from common.audit.verify.checkpoints import COSIGNATURE_GRAIN_MS
from common.audit.verify.fields import Record
from common.audit.verify.records import FEDERATED_ANALYTICS, FEDERATED_TRAINING
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.snapshots import SnapshotChecks, snapshot_size
from common.audit.verify.verdict import ROUNDS
from common.timestamps import parse_time

# The reason of the incident that stands in a region's log for a round it did not send.
DISCARDED = "discarded-for-withdrawal"


def verify_rounds(evidence: Evidence) -> None:
    """Checks every round entry of every region's log."""
    evidence.findings.begin(ROUNDS)
    for replay in evidence.regions():
        _RegionRounds(evidence, replay).verify()


class _RegionRounds:
    """The rounds of one region's log, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._permits: dict[str, Entry] = {}
        self._snapshots = SnapshotChecks(evidence, replay)
        self._discarded: set[tuple[str, int]] = set()
        self._last: dict[str, Entry] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._charged_ms: dict[str, int] = {}

    def verify(self) -> None:
        for entry in self._replay.entries:
            if entry.kind == "permit":
                self._permits.setdefault(entry.text("permit_id"), entry)
                self._check_permit(entry)
            elif entry.kind == "policy":
                self._snapshots.take_policy(entry)
            elif entry.kind == "round":
                self._check_round(entry)
            elif entry.kind == "incident":
                self._read_incident(entry)
            elif entry.kind == "charge":
                self._charged_ms[entry.text("charge_id")] = entry.time_ms("time")

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(ROUNDS, code, entry, message)

    def _check_permit(self, entry: Entry) -> None:
        self._evidence.findings.count(ROUNDS, "permits")
        if entry.text("purpose") not in (FEDERATED_TRAINING, FEDERATED_ANALYTICS):
            self._fail(
                "permit-purpose",
                entry,
                f"The permit is for {entry.text('purpose')}, not training, nor statistics.",
            )
        if entry.text("run") != self._evidence.run:
            return
        if entry.text("plan") != self._evidence.plan_sha256:
            self._fail("plan-mismatch", entry, "The permit is for another plan than plan.json.")
        plan = self._evidence.plan
        if plan is None:
            return
        names = {name: name for name in ("purpose", "model", "mechanisms", "delta")}
        names["epsilon_cap"] = "epsilon"
        differing = [
            name for name, planned in names.items() if entry.record[name] != plan.record[planned]
        ]
        if differing:
            self._fail("permit-plan", entry, f"Its {', '.join(differing)} is not the plan's.")

    def _read_incident(self, entry: Entry) -> None:
        run, number = entry.record["run"], entry.record["round"]
        if entry.record["reason"] == DISCARDED and isinstance(number, int):
            self._evidence.findings.count(ROUNDS, "discarded rounds")
            self._discarded.add((str(run), number))

    def _check_round(self, entry: Entry) -> None:
        self._evidence.findings.count(ROUNDS, "rounds")
        self._check_order(entry)
        self._check_permitted(entry)
        if self._snapshots.is_in_place(entry):
            self._check_witnessed(entry)
            self._snapshots.take_nonce(entry, str(entry.part("train")["nonce"]))
            if self._replay.whole:
                self._check_eligible(entry)
        self._check_freshness(entry)
        self._last[entry.text("run")] = entry

    def _check_order(self, entry: Entry) -> None:
        last = self._last.get(entry.text("run"))
        if entry.record["prev_round"] != (last.leaf if last else None):
            self._fail(
                "round-chain", entry, "It does not name the region's previous round of the run."
            )
        name = (entry.text("run"), entry.number("round"), entry.number("attempt"))
        if name in self._seen:
            self._fail("round-repeated", entry, "The same round and attempt is logged twice.")
        self._seen.add(name)
        if last and entry.number("round") < last.number("round"):
            self._fail("round-order", entry, "An earlier round is logged after a later one.")
        if (entry.text("run"), entry.number("round")) in self._discarded:
            self._fail(
                "round-after-discard", entry, "The same round was discarded for a withdrawal."
            )

    def _check_permitted(self, entry: Entry) -> None:
        permit = self._permits.get(entry.text("permit_id"))
        if permit is None:
            return  # Completeness reports it.
        differing = [
            name
            for name in ("run", "app", "engine", "deps", "plan")
            if entry.record[name] != permit.record[name]
        ]
        if differing:
            self._fail(
                "permit-mismatch", entry, f"Its {', '.join(differing)} is not what was permitted."
            )
        if mechanism_of(permit, entry) is None:
            self._fail(
                "round-not-permitted", entry, "The permit lacks this mechanism in this round."
            )
        issued, expires = permit.time_ms("issued_at"), permit.time_ms("expires")
        if not issued <= entry.time_ms("start") + CLOCK_TOLERANCE_MS:
            self._fail("permit-not-yet-valid", entry, "The round began before its permit.")
        if not entry.time_ms("end") <= expires + CLOCK_TOLERANCE_MS:
            self._fail("permit-expired", entry, "The round ended after its permit had expired.")

    def _check_witnessed(self, entry: Entry) -> None:
        """Enough others saw the consents it names, and saw them just before it began."""
        start_ms = entry.time_ms("start")
        size, cosigned = snapshot_size(entry), self._replay.cosigned
        # The later of what its own time and its place in the log say: a clock picks no quorum.
        quorum = max(self._evidence.ring.quorum_at(start_ms), self._replay.quorum_before(size))
        max_age_ms = self._snapshots.max_age_ms(entry)
        if cosigned.count(size) < quorum:
            self._fail(
                "not-witnessed",
                entry,
                f"{cosigned.count(size)} other parties cosigned the checkpoint of its consents "
                f"(size {size}); the registry asks for {quorum}.",
            )
            return
        fresh = cosigned.count(
            size,
            earliest_ms=start_ms - max_age_ms,
            latest_ms=start_ms + CLOCK_TOLERANCE_MS + COSIGNATURE_GRAIN_MS,
        )
        if fresh < quorum:
            self._fail(
                "witness-stale",
                entry,
                f"{fresh} other parties cosigned the checkpoint of its consents (size {size}) "
                f"within {max_age_ms // 1000} s before its start; the registry asks for "
                f"{quorum}.",
            )

    def _check_eligible(self, entry: Entry) -> None:
        train, size = entry.part("train"), snapshot_size(entry)
        purpose = self._purpose_of(entry)
        included = self._snapshots.check_included(entry, train, (purpose,))
        if self._snapshots.policy_at(size).get("withdrawal_in_round") == "discard":
            self._check_discard(entry, parse_time(str(train["at"])), included, purpose)

    def _purpose_of(self, entry: Entry) -> str:
        """What those in a round must have consented to: what its permit is for."""
        permit = self._permits.get(entry.text("permit_id"))
        asks = permit is not None and permit.text("purpose") == FEDERATED_ANALYTICS
        # Whatever else a permit is for was reported with it.
        return FEDERATED_ANALYTICS if asks else FEDERATED_TRAINING

    def _check_discard(
        self, entry: Entry, at_ms: int, included: frozenset[bytes], purpose: str
    ) -> None:
        """Under such a policy, nothing may leave once someone in the round has withdrawn."""
        size = snapshot_size(entry)
        if purpose != FEDERATED_TRAINING:
            still = self._snapshots.eligible(entry, entry.index, at_ms, (purpose,))
            if not included.issubset(still):
                self._fail(
                    "withdrawal-not-discarded",
                    entry,
                    "The policy discards a round when someone in it withdraws, and someone in it "
                    "did before its answer was released.",
                )
            return
        ended = [
            index
            for index, sid in self._replay.consents.ended(size, entry.index, at_ms)
            if sid in included
        ]
        if ended:
            self._fail(
                "withdrawal-not-discarded",
                entry,
                f"The policy discards a round when someone in it withdraws; entry {ended[0]} ended "
                "the consent of one of its customers before its update was released.",
            )

    def _check_freshness(self, entry: Entry) -> None:
        last = self._last.get(entry.text("run"))
        size = snapshot_size(entry)
        if last and size <= last.index:
            self._fail(
                "consent-stale",
                entry,
                f"Its consents end at size {size}, before the previous round (entry {last.index}).",
            )
        self._snapshots.check_age(entry, parse_time(str(entry.part("train")["at"])))
        charged_ms = self._charged_ms.get(entry.text("charge_id"), 0)
        if entry.time_ms("end") + CLOCK_TOLERANCE_MS < charged_ms:
            self._fail("clock-rollback", entry, "It ended before it was charged.")


def mechanism_of(permit: Entry, entry: Entry) -> Record | None:
    """What a permit says of the mechanism and round of a charge or round entry, if anything."""
    for mechanism in permit.parts("mechanisms"):
        rounds = mechanism["rounds"]
        if (
            mechanism["name"] == entry.text("mechanism")
            and isinstance(rounds, list)
            and entry.number("round") in rounds
        ):
            return mechanism
    return None
