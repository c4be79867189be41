"""A region as witness of the others' logs, and its own log before the others.

Before each round, and once more after the last: `publish` gives the log's checkpoint with proofs
that it only appends to what others hold; `cosign` judges the others' checkpoints; `keep` stores
the cosignatures that others gave. None of it tells more than sizes, times and hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from client.engine.home import RegionHome
from client.engine.incidents import Incidents
from client.engine.request import CosignRequest, ForeignCheckpoint
from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.audit.witness.witness import ConflictError, StaleSizeError, Submission, Witness
from common.canonical_json import JsonValue
from common.errors import FedprefError, InputError
from common.keys import Registry

SPLIT_VIEW = "split-view"


class RegionWitness:
    """A region's witness and what it keeps; use `open_region_witness`.

    Args:
        witness: Judges the others' checkpoints.
        kept: The cosignatures of the region's own.
        cosigners: Who may cosign.
        log: The region's open log.
        region: The region's party name.
    """

    def __init__(
        self,
        witness: Witness,
        kept: CosignatureStore,
        cosigners: Cosigners,
        *,
        log: AuditLog,
        region: str,
    ) -> None:
        self.cosigners = cosigners
        self._witness = witness
        self._kept = kept
        self._log = log
        self._region = region

    def proofs(self, since: Sequence[int], size: int) -> dict[str, JsonValue]:
        """Consistency proofs to a size, in hex, from each size before it that others hold."""
        return {
            str(old): [node.hex() for node in self._log.consistency_proof(old, size)]
            if 0 < old < size
            else []
            for old in since
            # Whoever holds more of this log than there is has seen it before a rollback.
            if old <= size
        }

    def cosign(self, request: CosignRequest, incidents: Incidents) -> list[JsonValue]:
        """Judges others' checkpoints, each by itself: a cosignature, or why not."""
        answers = self._witness.cosign_all(
            [Submission(each.note, each.old_size, each.proof) for each in request.checkpoints]
        )
        return [
            self._told(each, answer, request.run, incidents)
            for each, answer in zip(request.checkpoints, answers, strict=True)
        ]

    def keep(self, size: int, lines: Sequence[str], *, renew: bool = False) -> int:
        """Stores those cosignatures of an own checkpoint that hold, and says how many did.

        Args:
            size: The checkpoint's size.
            lines: The cosignatures.
            renew: Whether later ones replace earlier ones although the log has grown since: only
                for the size that is about to be trained on. Otherwise whoever relays cosignatures
                could take a past round's evidence away.

        Raises:
            InputError: The log has no such size.
        """
        if not 0 <= size <= self._log.size:
            raise InputError(f"The log of {self._region} has no size {size}.")
        note = self._log.checkpoint_at(size)
        keys = self.cosigners.keys(but=self._region)
        # No round was trained on the newest size: that would have been logged after it.
        renew = renew or size == self._log.size
        return len(self._kept.keep(note, lines, keys, renew=renew))

    def _told(
        self, each: ForeignCheckpoint, answer: str | FedprefError, run: str, incidents: Incidents
    ) -> JsonValue:
        """What the coordinator is told of one checkpoint; a split view is an incident here."""
        if isinstance(answer, str):
            size = Checkpoint.parse(parse_note(each.note).text).size
            return {"origin": each.origin, "size": size, "line": answer}
        if isinstance(answer, StaleSizeError) and not answer.split_view:
            return {"origin": each.origin, "refused": "stale", "size": answer.known_size}
        if isinstance(answer, (ConflictError, StaleSizeError)):
            incidents.note(run, SPLIT_VIEW, f"Both notes are kept as evidence: {answer.message}")
            return {"origin": each.origin, "refused": "conflict", "size": each.old_size}
        return {"origin": each.origin, "refused": "invalid", "size": 0}


@contextmanager
def open_region_witness(
    home: RegionHome, registry: Registry, log: AuditLog, *, clock_ms: Callable[[], int]
) -> Iterator[RegionWitness]:
    """Opens what a region has witnessed, and who cosigned its own log; closes it on exit.

    Raises:
        InputError: Its witness key or its memory is missing.
        StorageError: Its memory is damaged.
    """
    with WitnessStore.open(home.witness) as store:
        yield RegionWitness(
            Witness(
                store,
                name=home.region,
                signer=home.signer("witness"),
                log_keys=RegistryLogs(lambda: registry, but=home.region, clock_ms=clock_ms),
                clock_s=lambda: clock_ms() // 1000,
            ),
            CosignatureStore(store, home.origin),
            Cosigners(registry),
            log=log,
            region=home.region,
        )
