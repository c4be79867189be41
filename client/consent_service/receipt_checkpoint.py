"""Which of a log's checkpoints proves a receipt: one that enough other parties have cosigned."""

from __future__ import annotations

from common.audit.checkpoint import parse_note
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.audit.witness.store import CosignatureStore, WitnessStore


def checkpoint_above(
    log: AuditLog, store: WitnessStore | None, cosigners: Cosigners, *, party: str, index: int
) -> bytes:
    """The checkpoint by which a receipt of a log entry is proved.

    Args:
        log: The party's log.
        store: The party's witness file, which keeps what others cosigned; None if there is none.
        cosigners: Who may cosign.
        party: The log's party.
        index: The entry's index.

    Returns:
        The first checkpoint above the index that enough other parties have cosigned, with their
        signatures; while there is none, the newest one with what it has.
    """
    if store is None:
        return log.checkpoint()
    kept = CosignatureStore(store, log.origin)
    for size in kept.sizes():
        if index < size <= log.size:
            note = kept.note(size, log.checkpoint_at(size))
            lines = [line.line for line in parse_note(note).signatures]
            if len(cosigners.verified(note, lines, party=party)) >= max(cosigners.quorum, 1):
                return note
    return kept.note(log.size, log.checkpoint())
