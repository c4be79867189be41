"""Erasing a person: a last record in the log, then the key that links the log to them is destroyed.

Killed at any moment, an erasure leaves either the state before or one that the same call completes.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.consent_service.participation import participation
from client.consent_service.registrar import ConsentRegistrar
from client.engine.log_state import LogState
from client.engine.subjects import SubjectKeys
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.errors import ConsentError


@dataclass(frozen=True)
class Erasure:
    """What an erasure did, and what it left; it names nobody.

    Attributes:
        withdrawal: The index of the withdrawal that it logged; None if nothing was on record, or an
            earlier attempt had logged it.
        records: How many records stay in the log, under a pseudonym that nobody can link any more.
        rounds: In how many training rounds the person had been.
        runs: The runs that these rounds are of: what was learnt in them stays in their models.
        evidence: How many pieces of evidence were destroyed.
        resumed: Whether an earlier attempt had destroyed the key and was only completed: what it
            found is not known any more.
    """

    withdrawal: int | None
    records: int
    rounds: int
    runs: tuple[str, ...]
    evidence: int
    resumed: bool = False

    def to_record(self) -> dict[str, JsonValue]:
        """As ``erase --json`` and the desk show it."""
        return {
            "withdrawal": self.withdrawal,
            "records": self.records,
            "rounds": self.rounds,
            "runs": list(self.runs),
            "evidence": self.evidence,
            "resumed": self.resumed,
        }


def erase_customer(
    log: AuditLog,
    state: LogState,
    subjects: SubjectKeys,
    registrar: ConsentRegistrar,
    customer_ref: str,
) -> Erasure:
    """Erases one customer; to be called in the process that owns the log.

    Args:
        log: The region's open log.
        state: Its replayed state.
        subjects: The subjects' table.
        registrar: The registrar of that log.
        customer_ref: The region's reference of the customer.

    Raises:
        ConsentError: The region has no key of such a customer.
        StorageError: A store refuses; calling it again completes what was begun.
    """
    with state.lock:
        if subjects.pseudonym(customer_ref) is None:
            if subjects.finished_erasure:
                return Erasure(None, 0, 0, (), 0, resumed=True)
            raise ConsentError(
                "The region holds no key of a customer with this reference.",
                remedy="They were erased already, or never known: check the reference's spelling. "
                "If an erasure was interrupted, it is complete: replace your copy of "
                "keys/storage.key and make a new backup.",
            )
        withdrawal = registrar.erase_record(customer_ref)
        consents = registrar.history(customer_ref)
        parts = [part for part in participation(log, state, consents) if part.included]
        evidence = len(subjects.evidence(customer_ref))
        subjects.erase([customer_ref])
    return Erasure(
        withdrawal=withdrawal,
        records=len(consents),
        rounds=len(parts),
        runs=tuple(dict.fromkeys(part.run for part in parts)),
        evidence=evidence,
    )
