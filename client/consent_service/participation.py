"""The rounds of a region's log, and for each whether one customer was in it, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.consent_service.registrar import LoggedConsent
from client.engine.log_state import LogState
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING, ConsentReplay, Standing
from common.envelope import Envelope
from common.errors import VerificationError
from common.notice import LoggedNotice
from common.timestamps import parse_time


@dataclass(frozen=True)
class RoundPart:
    """One round of the region, and one customer's part in it.

    Attributes:
        index: The round entry's index in the log.
        leaf_hash: Its leaf hash, in hex.
        run: The run.
        round: The round.
        consent_size: How many log entries the round took consents from.
        at: When consents were judged.
        standing: Whether the customer's consent was in force then, or why not.
    """

    index: int
    leaf_hash: str
    run: str
    round: int
    consent_size: int
    at: str
    standing: Standing

    @property
    def included(self) -> bool:
        """Whether the customer was in the round."""
        return self.standing is Standing.IN_FORCE

    def to_record(self) -> dict[str, JsonValue]:
        """As an export shows it."""
        return {
            "entry": self.index,
            "leaf_hash": self.leaf_hash,
            "run": self.run,
            "round": self.round,
            "consent_size": self.consent_size,
            "judged_at": self.at,
            "included": self.included,
            "standing": self.standing.value,
        }


def participation(
    log: AuditLog, state: LogState, consents: Sequence[LoggedConsent]
) -> list[RoundPart]:
    """One customer's part in each round of the region's log, in the log's order.

    Whether someone was in a round depends on their own records, the notices and the policy alone,
    as they stood at the size that the round took consents from.

    Args:
        log: The region's open log.
        state: Its replayed state.
        consents: All of the customer's records, oldest first.
    """
    with state.lock:
        rounds, graces = list(state.rounds), list(state.notice_graces)
        purposes = dict(state.purposes)
        known: list[LoggedConsent | LoggedNotice] = [*consents, *state.notices]
    known.sort(key=lambda each: each.index)
    return [_part(log, index, known, graces, purposes) for index in rounds]


def _part(
    log: AuditLog,
    index: int,
    known: Sequence[LoggedConsent | LoggedNotice],
    graces: Sequence[tuple[int, int]],
    purposes: Mapping[str, str],
) -> RoundPart:
    ((_, data),) = log.entries(index, index + 1)
    record = Envelope.decode(data).record()
    consent, train = record["consent"], record["train"]
    if not isinstance(consent, dict) or not isinstance(train, dict):
        raise VerificationError(f"Log entry {index} is no round entry.")
    size, at = int(str(consent["size"])), str(train["at"])
    replay, sid = ConsentReplay(), ""
    for each in known:
        if each.index >= size:
            break
        if isinstance(each, LoggedConsent):
            sid = each.record.sid
            replay.apply(each.index, each.record, each.sha256)
        else:
            replay.apply_notice(each.index, each.notice, each.sha256)
    grace_s = max((place, each) for place, each in [(-1, 0), *graces] if place < size)[1]
    # Training, or statistics where the round is a question: its run's permit says which.
    purpose = purposes.get(str(record["run"]), FEDERATED_TRAINING)
    subject = replay.state_of(sid, purpose, parse_time(at), notice_grace_s=grace_s)
    return RoundPart(
        index=index,
        leaf_hash=log.leaf_hash(index).hex(),
        run=str(record["run"]),
        round=int(str(record["round"])),
        consent_size=size,
        at=at,
        standing=subject.standing,
    )
