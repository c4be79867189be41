"""Step 5: every round is bound to the consents in force, under the region's permit."""

from __future__ import annotations

from common.audit.sparse_merkle import position, sparse_root
from common.audit.verify.checkpoints import COSIGNATURE_GRAIN_MS
from common.audit.verify.fields import Record
from common.audit.verify.records import FEDERATED_TRAINING
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.verdict import ROUNDS
from common.timestamps import parse_time

# The greatest age of a consent snapshot when its round starts; a region's policy may ask for less.
MAX_CONSENT_AGE_MS = 600_000
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
        self._policies: list[Entry] = []
        self._discarded: set[tuple[str, int]] = set()
        self._last: dict[str, Entry] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._nonces: set[str] = set()
        self._charged_ms: dict[str, int] = {}

    def verify(self) -> None:
        for entry in self._replay.entries:
            if entry.kind == "permit":
                self._permits.setdefault(entry.text("permit_id"), entry)
                self._check_permit(entry)
            elif entry.kind == "policy":
                self._read_policy(entry)
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
        if entry.text("purpose") != FEDERATED_TRAINING:
            self._fail(
                "permit-purpose", entry, f"The permit is for {entry.text('purpose')}, not training."
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

    def _policy_at(self, size: int) -> Record:
        """The policy in force when a log had this size."""
        held = [entry for entry in self._policies if entry.index < size]
        return held[-1].part("policy") if held else {}

    def _read_policy(self, entry: Entry) -> None:
        self._policies.append(entry)

    def _max_age_ms(self, entry: Entry) -> int:
        """How old a round's consent snapshot may be: the policy's bound, 10 minutes at most."""
        age_s = self._policy_at(_size(entry.part("consent"))).get("consent_age_max_s")
        if type(age_s) is not int or age_s < 0:
            return MAX_CONSENT_AGE_MS
        return min(MAX_CONSENT_AGE_MS, age_s * 1000)

    def _check_round(self, entry: Entry) -> None:
        self._evidence.findings.count(ROUNDS, "rounds")
        self._check_order(entry)
        self._check_permitted(entry)
        if self._check_snapshot(entry):
            self._check_witnessed(entry)
            self._check_nonce(entry)
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

    def _check_snapshot(self, entry: Entry) -> bool:
        consent = entry.part("consent")
        if consent["origin"] != self._replay.origin:
            self._fail("consent-origin", entry, "It names the consents of another log.")
            return False
        size = _size(consent)
        if size > entry.index:
            self._fail(
                "consent-size", entry, f"It names {size} entries of a log that had {entry.index}."
            )
            return False
        root = self._replay.roots.get(size)
        if root is None:
            self._fail(
                "consent-checkpoint", entry, f"There is no valid signed checkpoint of size {size}."
            )
            return False
        if root != consent["root"]:
            self._fail("consent-root", entry, f"The log's root at size {size} is another.")
            return False
        return True

    def _check_witnessed(self, entry: Entry) -> None:
        """Enough others saw the consents it names, and saw them just before it began."""
        start_ms = entry.time_ms("start")
        size, cosigned = _size(entry.part("consent")), self._replay.cosigned
        # The later of what its own time and its place in the log say: a clock picks no quorum.
        quorum = max(self._evidence.ring.quorum_at(start_ms), self._replay.quorum_before(size))
        max_age_ms = self._max_age_ms(entry)
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

    def _check_nonce(self, entry: Entry) -> None:
        nonce = str(entry.part("train")["nonce"])
        if nonce in self._nonces:
            self._fail("nonce-reused", entry, "Its nonce is an earlier round's: customers link.")
        self._nonces.add(nonce)

    def _check_eligible(self, entry: Entry) -> None:
        train, size = entry.part("train"), _size(entry.part("consent"))
        nonce = bytes.fromhex(str(train["nonce"]))
        at_ms = parse_time(str(train["at"]))
        policy = self._policy_at(size)
        grace_s = policy.get("notice_grace_s")
        # Without a policy that says otherwise, a superseded notice has no grace.
        grace_ms = grace_s * 1000 if type(grace_s) is int else 0
        consents = self._replay.consents
        if policy.get("withdrawal_in_round") == "discard":
            included = frozenset(consents.eligible(size, at_ms, grace_ms))
            self._check_discard(entry, size, at_ms, included)
        positions = [position(nonce, sid) for sid in consents.eligible(size, at_ms, grace_ms)]
        self._evidence.findings.count(ROUNDS, "eligible customers", len(positions))
        if not positions:
            self._fail("no-consent", entry, "Nobody's consent was in force.")
            return
        # Subjects are distinct, so their positions are: the tree exists.
        root = sparse_root(positions).hex()
        if root != train["root"]:
            self._fail(
                "eligible-set",
                entry,
                f"It was trained on another set of customers than the {len(positions)} whose "
                f"consent was in force at size {size}.",
            )
        low = 1 << (len(positions).bit_length() - 1)
        if train["n_bucket"] != f"{low}-{2 * low - 1}":
            self._fail("size-bucket", entry, "Its stated number of customers is wrong.")

    def _check_discard(
        self, entry: Entry, size: int, at_ms: int, included: frozenset[bytes]
    ) -> None:
        """Under such a policy, nothing may leave once someone in the round has withdrawn."""
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
        size = _size(entry.part("consent"))
        at_ms = parse_time(str(entry.part("train")["at"]))
        start_ms, end_ms = entry.time_ms("start"), entry.time_ms("end")
        last = self._last.get(entry.text("run"))
        if last and size <= last.index:
            self._fail(
                "consent-stale",
                entry,
                f"Its consents end at size {size}, before the previous round (entry {last.index}).",
            )
        max_age_ms, latest_ms = self._max_age_ms(entry), end_ms + CLOCK_TOLERANCE_MS
        if not (start_ms - max_age_ms <= at_ms <= latest_ms and start_ms <= latest_ms):
            self._fail(
                "consent-age",
                entry,
                f"Its consent snapshot was not taken within {max_age_ms // 1000} s before "
                "its start and its end.",
            )
        if at_ms + CLOCK_TOLERANCE_MS < self._replay.times_ms.get(size, 0):
            self._fail(
                "clock-rollback", entry, "Its clock is behind the entries that it builds upon."
            )
        if latest_ms + max_age_ms < entry.after_ms:
            # Withdrawals could stand before it that it says came after.
            self._fail("clock-rollback", entry, "It was logged long after it says that it ended.")
        charged_ms = self._charged_ms.get(entry.text("charge_id"), 0)
        if end_ms + CLOCK_TOLERANCE_MS < charged_ms:
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


def _size(consent: Record) -> int:
    size = consent["size"]
    return size if isinstance(size, int) else 0
