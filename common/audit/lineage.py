"""What a customer was part of: their records, rounds and answers with the reason, and models.

It says what a withdrawal means for models in careful words: it works forward, it is not unlearning,
and what a published model can tell about the customer is what its ε and δ bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.audit.participation import CustomerRecord, EntryStanding, Participation, Standing
from common.audit.receipt import grants_training
from common.audit.verify.replay import SERVER, Entry
from common.canonical_json import JsonValue
from common.privacy import UNIT_AND_RELATION

#: Why a customer was in a round or not, for a person to read.
REASONS: dict[Standing, str] = {
    Standing.CONSENTED: "consent in force",
    Standing.NO_RECORD: "no consent on record then",
    Standing.REFUSED: "consent refused",
    Standing.WITHDRAWN: "consent withdrawn",
    Standing.ERASED: "erased at the customer's request",
    Standing.NOT_FOR_TRAINING: "consent given, but not to federated training",
    Standing.NOT_FOR_PURPOSE: "consent given, but not to all that this needs",
    Standing.EXPIRED: "consent expired",
    Standing.NOTICE_LAPSED: "a newer notice came into force; consent to the old one has lapsed",
}
NO_PART = "the region's data took no part"

MEANING_FORWARD = (
    "A withdrawal works forward: from the next consent snapshot on no round may use this "
    "customer's data. It does not reach back into rounds and models made before."
)
MEANING_NOT_UNLEARNING = (
    "It is not unlearning: a model that descends from a round with this customer's data stays as "
    "it was published, and models trained further from it descend from that round too."
)
MEANING_NONE = "No published model in this bundle descends from a round with this customer's data."


@dataclass(frozen=True)
class RoundPart:
    """One round and the customer's part in it.

    Attributes:
        run: The run.
        number: The round.
        index: The region's round entry; None if the region logged none.
        member: Whether the customer's data were in it.
        reason: Why, or why not.
        used: Whether an aggregate of the server used the region's update.
    """

    run: str
    number: int
    index: int | None
    member: bool
    reason: str
    used: bool

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "run": self.run,
            "round": self.number,
            "entry": self.index,
            "member": self.member,
            "reason": self.reason,
            "used": self.used,
        }


@dataclass(frozen=True)
class AnswerPart:
    """An answer of the region's to a query of its own, and the customer's part in it.

    Attributes:
        query: The query, as its run is called.
        mechanism: What was asked.
        index: The region's answer entry.
        purposes: What customers had to consent to.
        member: Whether the customer's data were in it.
        reason: Why, or why not.
    """

    query: str
    mechanism: str
    index: int
    purposes: tuple[str, ...]
    member: bool
    reason: str

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "query": self.query,
            "mechanism": self.mechanism,
            "entry": self.index,
            "purposes": list(self.purposes),
            "member": self.member,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Descent:
    """A published model that descends from rounds with the customer's data.

    Attributes:
        run: The run that made it.
        model: Its digest.
        index: The entry in the server's log that publishes it.
        rounds: Those rounds.
        epsilon: What the region had spent in this run by then, at ``delta``.
        delta: δ of that statement.
    """

    run: str
    model: str
    index: int
    rounds: tuple[int, ...]
    epsilon: str
    delta: str

    @property
    def bound(self) -> str:
        """What the model can tell about the customer, in words."""
        return (
            f"What this model, and all else the region released in run {self.run}, can tell about "
            f"whether and with what data this customer took part is bounded by "
            f"(ε = {self.epsilon}, δ = {self.delta})-differential privacy "
            f"({UNIT_AND_RELATION}), if the region's statements about its noise are true."
        )

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "run": self.run,
            "model": self.model,
            "entry": self.index,
            "rounds": list(self.rounds),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Lineage:
    """What a verified bundle shows of one customer.

    Attributes:
        region: The customer's region.
        sid: Their pseudonym.
        records: Their consent records.
        rounds: The rounds, in order.
        answers: The region's answers to queries, in the log's order.
        models: The published models that descend from rounds with their data.
    """

    region: str
    sid: str
    records: tuple[CustomerRecord, ...]
    rounds: tuple[RoundPart, ...]
    answers: tuple[AnswerPart, ...]
    models: tuple[Descent, ...]

    @property
    def meaning(self) -> tuple[str, ...]:
        """What a withdrawal means here, in words."""
        if not self.models:
            return (MEANING_FORWARD, MEANING_NONE)
        return (MEANING_FORWARD, MEANING_NOT_UNLEARNING)

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values, for ``--json``."""
        return {
            "v": "fedpref-lineage/2",
            "region": self.region,
            "sid": self.sid,
            "records": [
                {
                    "entry": each.index,
                    "state": each.record["state"],
                    "training": grants_training(each.record),
                    "method": each.record["method"],
                    "event_time": each.record["event_time"],
                    "expires": each.record["expires"],
                }
                for each in self.records
            ],
            "rounds": [part.to_record() for part in self.rounds],
            "answers": [part.to_record() for part in self.answers],
            "models": [model.to_record() for model in self.models],
            "meaning": list(self.meaning),
        }


def trace_lineage(participation: Participation) -> Lineage:
    """Follows a customer from their records to the models that descend from their data."""
    evidence = participation.bundle.evidence
    server = evidence.replays.get(SERVER)
    entries = [] if server is None else server.entries
    standings = list(participation.rounds())
    used = {
        str(part["round_entry"])
        for entry in entries
        if entry.kind == "aggregate"
        for part in entry.parts("regions")
    }
    parts = [_part(each, used) for each in standings]
    parts += _without_part(participation, standings, entries)
    # Earlier runs as they were logged, then the bundle's own, round by round.
    parts.sort(key=lambda part: (part.run == evidence.run, _order(part, evidence.run)))
    models = [
        descent
        for entry in entries
        if entry.kind == "model"
        for descent in [_descent(participation, entry, parts)]
        if descent is not None
    ]
    return Lineage(
        participation.region,
        participation.sid,
        tuple(participation.records),
        tuple(parts),
        tuple(_answer(each) for each in participation.answers()),
        tuple(models),
    )


def _order(part: RoundPart, run: str) -> tuple[int, int]:
    return (part.number if part.run == run else 0, part.index or 0)


def _answer(standing: EntryStanding) -> AnswerPart:
    entry = standing.entry
    return AnswerPart(
        query=entry.text("run"),
        mechanism=entry.text("mechanism"),
        index=entry.index,
        purposes=standing.purposes,
        member=standing.member,
        reason=REASONS[standing.standing],
    )


def _part(standing: EntryStanding, used: set[str]) -> RoundPart:
    entry = standing.entry
    return RoundPart(
        run=entry.text("run"),
        number=entry.number("round"),
        index=entry.index,
        member=standing.member,
        reason=REASONS[standing.standing],
        used=entry.leaf in used,
    )


def _without_part(
    participation: Participation, standings: list[EntryStanding], server: list[Entry]
) -> list[RoundPart]:
    """The bundle's run's rounds of which the region's log has no round entry, and why."""
    run = participation.bundle.evidence.run
    logged = {each.entry.number("round") for each in standings if each.entry.text("run") == run}
    closed = {e.number("round"): e for e in server if e.kind == "aggregate" and _of_run(e, run)}
    own = {
        entry.number("round"): entry.text("reason")
        for entry in participation.replay.of_kind("incident")
        if _of_run(entry, run)
    }
    parts = []
    for number in sorted((closed.keys() | own.keys()) - logged - {0}):
        refused = [
            str(part["reason"])
            for part in (closed[number].parts("refused") if number in closed else [])
            if part["region"] == participation.region
        ]
        why = own.get(number) or next(iter(refused), None)
        reason = f"{NO_PART} ({why})" if why else NO_PART
        parts.append(RoundPart(run, number, None, member=False, reason=reason, used=False))
    return parts


def _of_run(entry: Entry, run: str) -> bool:
    return entry.record["run"] == run


def _descent(participation: Participation, model: Entry, parts: list[RoundPart]) -> Descent | None:
    run = model.text("run")
    rounds = {
        part.number
        for part in parts
        if part.run == run and part.member and part.used and part.number <= model.number("rounds")
    }
    if not rounds:
        return None
    # The verifier has recomputed that what a charge states covers all charges of the run so far.
    charge = [each for each in participation.replay.of_kind("charge") if _of_run(each, run)][-1]
    return Descent(
        run=run,
        model=model.text("model"),
        index=model.index,
        rounds=tuple(sorted(rounds)),
        epsilon=charge.text("epsilon_run"),
        delta=charge.text("delta"),
    )
