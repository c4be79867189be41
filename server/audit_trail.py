"""The coordinator's audit log: what it aggregated, what it refused, what it published.

At opening, the log is read back: which rounds of the run it has aggregated already decides where
the run goes on. The log is the truth; a checkpoint only spares work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash
from common.audit.registry_entry import named_registry, registry_entry
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, StorageError, VerificationError
from common.keys import Registry, Signer
from common.plan import RunPlan
from common.timestamps import format_time, now_ms
from server.config import SERVER_PARTY, ServerHome

_MAX_DETAIL_CHARACTERS = 500
#: The incident that a region's log has shown two histories: it is refused from then on.
SPLIT_VIEW = "split-view"


@dataclass(frozen=True)
class UsedRound:
    """A region's part of an aggregate, as its entry names it.

    Attributes:
        region: The region.
        round_entry: Leaf hash of its signed round entry, in hex.
        update: Digest of its update.
    """

    region: str
    round_entry: str
    update: str

    def to_record(self) -> dict[str, JsonValue]:
        """As it stands in an aggregate entry."""
        return {
            "region": self.region,
            "round_entry": self.round_entry,
            "update": self.update,
        }


@dataclass(frozen=True)
class Aggregate:
    """One round's aggregate as logged, or about to be.

    Attributes:
        server_round: The round.
        attempt: The attempt that every request of the round named.
        mechanism: The round's mechanism.
        used: What was summed, by region in order.
        refused: For every other region of the plan, why not.
        signal: The round's signal if the plan may end early by it; see `common.plan.EarlyStop`.
        model_in: Digest of the model that was sent out.
        model_out: Digest of the model that came of it.
        start: When the round began.
        end: When it was closed.
    """

    server_round: int
    attempt: int
    mechanism: str
    used: tuple[UsedRound, ...]
    refused: tuple[tuple[str, str], ...]
    model_in: str
    model_out: str
    start: str
    end: str
    signal: str | None = None


class AuditTrail:
    """The coordinator's open log. Use `open_audit_trail`."""

    def __init__(self, log: AuditLog, signer: Signer, registry: Registry, plan: RunPlan) -> None:
        self.log = log
        self._signer = signer
        #: The run plan.
        self.plan = plan
        #: Leaf hash (hex) and record of each round's aggregate entry of this run, by round.
        self.aggregates: dict[int, tuple[str, Aggregate]] = {}
        #: The run's published model, or its published answers, by digest, once there is one.
        self.model: str | None = None
        #: The regions whose logs have shown two histories in this run.
        self.forked: set[str] = set()
        # The digests of the registry's versions that the log has.
        self._logged_keys: set[str] = set()
        self._read_back(registry)

    @property
    def last_round(self) -> int:
        """The last round of the run that has an aggregate; 0 before the first."""
        return len(self.aggregates)

    def log_registry(self, envelopes: Sequence[bytes]) -> None:
        """Logs the key registry's versions that are not in the log yet."""
        missing = {hashlib.sha256(data).hexdigest(): data for data in envelopes}
        for digest in self._logged_keys & missing.keys():
            del missing[digest]
        self.log.append([registry_entry(data, self._signer) for data in missing.values()])
        self._logged_keys.update(missing)

    def log_aggregate(self, aggregate: Aggregate) -> str:
        """Logs a round's aggregate, durably, and gives its leaf hash in hex.

        Raises:
            StorageError: The round has one already, is not the next, or the log refuses.
        """
        if aggregate.server_round != self.last_round + 1:
            raise StorageError(
                f"The log's next aggregate is of round {self.last_round + 1}, not "
                f"{aggregate.server_round}."
            )
        record: dict[str, JsonValue] = {
            "v": "fedpref-aggregate/1",
            "run": self.plan.run_id,
            "round": aggregate.server_round,
            "attempt": aggregate.attempt,
            "mechanism": aggregate.mechanism,
            "rule": self.plan.aggregation.rule,
            "mode": self.plan.mode,
            "regions": [used.to_record() for used in aggregate.used],
            "refused": [
                {"region": region, "reason": reason} for region, reason in aggregate.refused
            ],
            "quorum": self.plan.quorum,
            "signal": aggregate.signal,
            "model_in": aggregate.model_in,
            "model_out": aggregate.model_out,
            "start": aggregate.start,
            "end": aggregate.end,
        }
        leaf = self._append(record)
        self.aggregates[aggregate.server_round] = (leaf, aggregate)
        return leaf

    def log_incident(
        self, *, server_round: int | None, region: str | None, reason: str, detail: str
    ) -> None:
        """Logs a refusal or a fault.

        Args:
            server_round: The round, if it was in one.
            region: The region, if it is one's.
            reason: A kebab-case code.
            detail: One sentence of our own; never a stranger's text.
        """
        self._append(
            {
                "v": "fedpref-incident/1",
                "run": self.plan.run_id,
                "round": server_round,
                "region": region,
                "party": SERVER_PARTY,
                "reason": reason,
                "detail": detail[:_MAX_DETAIL_CHARACTERS],
                "time": format_time(now_ms()),
            }
        )

    def log_model(self, digest: str) -> None:
        """Logs that the run's model, or its answers, are published; a second time does nothing.

        Answers are an entry of their own kind, so that nobody can take them for a model.

        Raises:
            VerificationError: The run has published something else already.
        """
        kind = "answers" if self.plan.asks else "model"
        if self.model is not None:
            if self.model != digest:
                raise VerificationError(
                    f"Run {self.plan.run_id} published another {kind} than what is at hand."
                )
            return
        self._append(
            {
                "v": f"fedpref-{kind}/1",
                "run": self.plan.run_id,
                kind: digest,
                "rounds": self.last_round,
                "plan": self.plan.digest,
                "catalogue": self.plan.catalogue,
                "time": format_time(now_ms()),
            }
        )
        self.model = digest

    def _append(self, record: dict[str, JsonValue]) -> str:
        entry = make_entry(record, self._signer)
        self.log.append([entry])
        return leaf_hash(entry).hex()

    def _read_back(self, registry: Registry) -> None:
        keys = {key.key_id: key.public_key for key in registry.keys_of(SERVER_PARTY, "aggregator")}
        for index, data in self.log.entries():
            try:
                envelope = Envelope.decode(data)
                if envelope.kind == "keys":
                    self._logged_keys.add(hashlib.sha256(data).hexdigest())
                    continue
                verify_envelope(envelope, keys)
                if (digest := named_registry(data)) is not None:
                    self._logged_keys.add(digest)
                    continue
                record = envelope.record()
                if record["run"] != self.plan.run_id:
                    continue
                if envelope.kind == "aggregate":
                    self._read_aggregate(leaf_hash(data).hex(), record)
                elif envelope.kind in ("model", "answers"):
                    self.model = str(record[envelope.kind])
                elif envelope.kind == "incident" and record["reason"] == SPLIT_VIEW:
                    self.forked.add(str(record["region"]))
            except (FedprefError, KeyError, TypeError, ValueError) as error:
                raise VerificationError(
                    f"Entry {index} of the coordinator's log does not hold: {error}",
                    remedy="Verify the log with fedpref-audit; nothing is aggregated till then.",
                ) from error

    def _read_aggregate(self, leaf: str, record: dict[str, JsonValue]) -> None:
        aggregate = _parse_aggregate(record)
        if aggregate.server_round != self.last_round + 1:
            raise VerificationError(
                f"it aggregates round {aggregate.server_round} after round {self.last_round}."
            )
        self.aggregates[aggregate.server_round] = (leaf, aggregate)


@contextmanager
def open_audit_trail(home: ServerHome, plan: RunPlan, registry: Registry) -> Iterator[AuditTrail]:
    """Opens the coordinator's log, making it if it is not there, and reads it back.

    Raises:
        StorageError: Another process writes to it, or it is damaged.
        VerificationError: An entry is not what it claims to be; names it.
    """
    origin = f"{plan.federation}/{SERVER_PARTY}"
    with AuditLog.open(home.log, origin=origin, signer=home.signer("log"), create=True) as log:
        trail = AuditTrail(log, home.signer("aggregator"), registry, plan)
        trail.log_registry(home.registry_envelopes())
        yield trail


def _parse_aggregate(record: dict[str, JsonValue]) -> Aggregate:
    regions, refused = record["regions"], record["refused"]
    server_round, attempt = record["round"], record["attempt"]
    if not (isinstance(regions, list) and isinstance(refused, list)):
        raise TypeError("its regions are no list")
    if not (isinstance(server_round, int) and isinstance(attempt, int)):
        raise TypeError("its round is no number")
    return Aggregate(
        server_round=server_round,
        attempt=attempt,
        mechanism=str(record["mechanism"]),
        used=tuple(_parse_used(each) for each in regions),
        refused=tuple(_parse_refused(each) for each in refused),
        model_in=str(record["model_in"]),
        model_out=str(record["model_out"]),
        start=str(record["start"]),
        end=str(record["end"]),
        signal=None if record["signal"] is None else str(record["signal"]),
    )


def _parse_used(value: JsonValue) -> UsedRound:
    if not isinstance(value, dict):
        raise TypeError("one of its regions is no object")
    return UsedRound(
        region=str(value["region"]),
        round_entry=str(value["round_entry"]),
        update=str(value["update"]),
    )


def _parse_refused(value: JsonValue) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise TypeError("one of its refusals is no object")
    return str(value["region"]), str(value["reason"])
