"""The witness phase: every log's checkpoint before every other party, before anything is trained.

publish (every region) → the coordinator's own checkpoint → the coordinator and the outside
witnesses cosign → cosign (every region) → count. What a witness holds of each log is remembered, so
that each log gives exactly the proofs that are needed; a witness that holds something else says so,
and the logs concerned are asked once more in the same phase.

A log that does not continue what the coordinator itself holds of it shows two histories. Both notes
are kept as evidence, and its region is refused from then on. What a region or an outside witness
says of a log is told, and is no ground for a refusal: it proves nothing here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from common.audit.cosigners import Cosignature, Cosigners
from common.audit.log import AuditLog
from common.audit.witness.channel import LocalWitness
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.audit.witness.witness import Witness
from common.canonical_json import JsonValue
from common.keys import Registry
from server.audit_trail import SPLIT_VIEW, AuditTrail
from server.config import SERVER_PARTY, ServerHome
from server.near_witnesses import NearWitnesses, Trouble
from server.outside_witnesses import outside_witnesses
from server.region_queries import RegionQueries
from server.reply_checks import ReplyRefusedError
from server.validation import NOT_WITNESSED
from server.witness_circle import WitnessCircle
from server.witness_replies import (
    CosignAnswer,
    PublishedLog,
    read_cosigned,
    read_kept,
    read_published,
)
from server.witness_sizes import WitnessSizes

#: How often a phase asks a log for proofs from the sizes that witnesses turned out to hold.
PASSES = 3


@dataclass
class PhaseOutcome:
    """What a phase came to.

    Attributes:
        cosigned: For each party whose checkpoint counts, the checkpoint and its cosignatures.
        refused: For each region that was asked and has none, a reason code and one sentence.
    """

    cosigned: dict[str, tuple[PublishedLog, list[Cosignature]]] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)

    def lines(self, party: str) -> list[str]:
        """The signature lines of a party's checkpoint; none if it does not count."""
        _, cosignatures = self.cosigned.get(party, (None, []))
        return [each.line for each in cosignatures]


class WitnessPhase:
    """Has checkpoints cosigned, round by round.

    Args:
        run: The run's id.
        registry: The verified key registry.
        log: The coordinator's open log.
        near: The coordinator's own witness and the outside ones.
        kept: Where the cosignatures of the coordinator's log are kept.
        sizes: What each witness holds of each log.
        queries: How regions are asked.
        barred: Regions that showed two histories before now.
        trouble: Told of split views, and of witnesses that fail.
    """

    def __init__(
        self,
        run: str,
        registry: Registry,
        log: AuditLog,
        *,
        near: NearWitnesses,
        kept: CosignatureStore,
        sizes: WitnessSizes,
        queries: RegionQueries,
        barred: Collection[str],
        trouble: Trouble,
    ) -> None:
        self._run = run
        self._cosigners = Cosigners(registry)
        self._log_keys = RegistryLogs(lambda: registry, but=SERVER_PARTY)
        self._log = log
        self._near = near
        self._kept = kept
        self._sizes = sizes
        self._queries = queries
        #: Regions whose logs have shown two histories: refused for good.
        self.barred = set(barred)
        self._trouble = trouble

    def run(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        subjects: Collection[str],
        server_round: int | None,
    ) -> PhaseOutcome:
        """Has the subjects' checkpoints and the coordinator's own cosigned by others.

        Args:
            grid: Flower's connection to the nodes.
            nodes: The node of each region that has one: who may be asked to cosign.
            subjects: The regions whose checkpoints are wanted.
            server_round: The round that begins with it; None once the last one is over.
        """
        outcome = PhaseOutcome()
        for region in sorted(self.barred & set(subjects)):
            outcome.refused[region] = (SPLIT_VIEW, f"The log of {region} has shown two histories.")
        able = {name: node for name, node in nodes.items() if name not in self.barred}
        wanted = [SERVER_PARTY, *(region for region in sorted(subjects) if region in able)]
        circle: WitnessCircle | None = WitnessCircle(self._run, able, self._cosigners.quorum)
        for _ in range(PASSES):
            logs = self._publish(grid, able, wanted, server_round, outcome)
            lines: dict[str, list[str]] = {party: [] for party in logs}
            corrected = self._ask_near(logs, lines, outcome)
            corrected |= self._ask_regions(grid, able, logs, lines, circle)
            lacking = self._count(logs, lines, outcome)
            # Asking again helps only where a proof from another size was lacking, or not all were
            # asked; now all are.
            wanted = [
                party
                for party in lacking
                if party in corrected or (circle is not None and not circle.whole)
            ]
            circle = None
            if not wanted:
                break
        return outcome

    def keep(self, grid: Grid, nodes: Mapping[str, int], outcome: PhaseOutcome) -> set[str]:
        """Gives each region the cosignatures of its checkpoint; the regions that now keep them."""
        headers: dict[str, dict[str, JsonValue]] = {
            region: {"run": self._run, "size": log.size, "cosignatures": [*outcome.lines(region)]}
            for region, (log, _) in outcome.cosigned.items()
            if region in nodes
        }
        kept = set()
        for region, reply in self._queries.ask(grid, "keep", nodes, headers, None):
            try:
                if read_kept(reply, nodes[region]) >= self._cosigners.quorum:
                    kept.add(region)
            except ReplyRefusedError as error:
                self._trouble(region, error.reason, f"{region} keeps nothing: {error.message}")
        return kept

    def _publish(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        wanted: Sequence[str],
        server_round: int | None,
        outcome: PhaseOutcome,
    ) -> dict[str, PublishedLog]:
        headers: dict[str, dict[str, JsonValue]] = {
            region: {
                "run": self._run,
                "round": server_round,
                "since": [*self._sizes.held_of(self._cosigners.origin(region))],
            }
            for region in wanted
            if region != SERVER_PARTY
        }
        logs = {SERVER_PARTY: self._own_log()} if SERVER_PARTY in wanted else {}
        for region in headers:
            outcome.refused[region] = ("no-reply", f"{region} did not answer in time.")
        for region, reply in self._queries.ask(grid, "publish", nodes, headers, server_round):
            keys = self._log_keys.get(self._cosigners.origin(region), ())
            try:
                logs[region] = read_published(reply, nodes[region], region, keys)
                del outcome.refused[region]
            except ReplyRefusedError as error:
                outcome.refused[region] = (error.reason, error.message)
        return logs

    def _own_log(self) -> PublishedLog:
        origin, size = self._cosigners.origin(SERVER_PARTY), self._log.size
        proofs = {
            old: tuple(self._log.consistency_proof(old, size)) if 0 < old < size else ()
            for old in self._sizes.held_of(origin)
            if old <= size
        }
        return PublishedLog(SERVER_PARTY, origin, self._log.checkpoint_at(size), size, proofs)

    def _ask_near(
        self, logs: dict[str, PublishedLog], lines: dict[str, list[str]], outcome: PhaseOutcome
    ) -> set[str]:
        """Has the coordinator and the outside witnesses cosign; logs that fork are left out."""
        answers = self._near.cosign(list(logs.values()))
        for party, found in answers.lines.items():
            lines[party].extend(found)
        for party, detail in answers.forked.items():
            logs.pop(party, None)
            self._trouble(party, SPLIT_VIEW, detail)
            if party != SERVER_PARTY:
                self.barred.add(party)
                outcome.refused[party] = (SPLIT_VIEW, detail)
        return answers.stale

    def _ask_regions(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        logs: Mapping[str, PublishedLog],
        lines: dict[str, list[str]],
        circle: WitnessCircle | None,
    ) -> set[str]:
        items: dict[str, list[JsonValue]] = {}
        for party, log in logs.items():
            for region in nodes if circle is None else circle.witnesses_of(party):
                if region != party and region not in self.barred:
                    items.setdefault(region, []).append(self._item(region, log))
        headers: dict[str, dict[str, JsonValue]] = {
            region: {"run": self._run, "checkpoints": checkpoints}
            for region, checkpoints in sorted(items.items())
        }
        by_origin = {log.origin: log for log in logs.values()}
        corrected: set[str] = set()
        for region, reply in self._queries.ask(grid, "cosign", nodes, headers, None):
            try:
                answers = read_cosigned(reply, nodes[region])
            except ReplyRefusedError as error:
                self._trouble(region, error.reason, f"{region} cosigned nothing: {error.message}")
                continue
            for answer in answers:
                about = by_origin.get(answer.origin)
                if about is not None and self._take(region, about, answer, lines):
                    corrected.add(about.party)
        return corrected

    def _item(self, region: str, log: PublishedLog) -> JsonValue:
        old, proof = self._sizes.way_to(region, log)
        return {
            "origin": log.origin,
            "note": log.note.decode(),
            "old": old,
            "proof": [node.hex() for node in proof],
        }

    def _take(
        self, region: str, log: PublishedLog, answer: CosignAnswer, lines: dict[str, list[str]]
    ) -> bool:
        """Takes an answer in; whether asking once more, from another size, would help."""
        if answer.line is not None and answer.size == log.size:
            lines[log.party].append(answer.line)
            self._sizes.learn(region, log.origin, log.size)
        elif answer.refused == "stale":
            return self._sizes.corrected(region, log, answer.size, self._trouble)
        elif answer.refused == "conflict":
            detail = f"{region} says it holds a checkpoint that the log of {log.party} contradicts."
            self._trouble(log.party, "conflict-claimed", detail)
        return False

    def _count(
        self,
        logs: Mapping[str, PublishedLog],
        lines: Mapping[str, Sequence[str]],
        outcome: PhaseOutcome,
    ) -> list[str]:
        """Counts the cosignatures that hold; gives the parties that lack the quorum."""
        lacking = []
        for party, log in logs.items():
            held = self._cosigners.verified(log.note, lines[party], party=party)
            if len(held) >= self._cosigners.quorum:
                outcome.cosigned[party] = (log, held)
            else:
                lacking.append(party)
                outcome.refused[party] = (
                    NOT_WITNESSED,
                    f"{len(held)} of the {self._cosigners.quorum} other parties needed have "
                    f"cosigned the log of {party}.",
                )
            if party == SERVER_PARTY:
                keys = self._cosigners.keys(but=SERVER_PARTY)
                self._kept.keep(log.note, [each.line for each in held], keys)
        return lacking


@contextmanager
def open_witness_phase(
    home: ServerHome,
    registry: Registry,
    trail: AuditTrail,
    *,
    timeout_s: float,
    outside_timeout_s: float,
) -> Iterator[WitnessPhase]:
    """Opens what the coordinator has witnessed, and its way to the other witnesses.

    Args:
        home: The coordinator's home.
        registry: The verified key registry.
        trail: Its open log, which takes incidents.
        timeout_s: For how long regions may take for each answer, in seconds.
        outside_timeout_s: For how long an outside witness may take for each answer, in seconds.

    Raises:
        InputError: The witness key, its memory or the list of outside witnesses is not as it should
            be.
        StorageError: Its memory is damaged.
    """
    told: set[tuple[str, str, str]] = set()

    def trouble(who: str, reason: str, detail: str) -> None:
        if (who, reason, detail) not in told:
            told.add((who, reason, detail))
            region = who if who in trail.plan.regions else None
            trail.log_incident(server_round=None, region=region, reason=reason, detail=detail)

    own_origin = Cosigners(registry).origin(SERVER_PARTY)
    with WitnessStore.open(home.witness) as store:
        witness = Witness(
            store,
            name=SERVER_PARTY,
            signer=home.signer("witness"),
            log_keys=RegistryLogs(lambda: registry, but=SERVER_PARTY),
        )
        kept = CosignatureStore(store, own_origin)
        guess = {origin: seen.size for origin, seen in witness.heads().items()}
        guess[own_origin] = max(kept.sizes(), default=0)
        sizes = WitnessSizes(guess)
        channels = {
            SERVER_PARTY: LocalWitness(witness),
            **outside_witnesses(home, timeout_s=outside_timeout_s),
        }
        yield WitnessPhase(
            trail.plan.run_id,
            registry,
            trail.log,
            near=NearWitnesses(channels, sizes, trouble),
            kept=kept,
            sizes=sizes,
            queries=RegionQueries(timeout_s),
            barred=trail.forked,
            trouble=trouble,
        )
