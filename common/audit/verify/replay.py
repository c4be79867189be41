"""What the later steps work on: the verified entries of every log of a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.audit.verify.consents import ConsentHistory
from common.audit.verify.cosigned import CosignedSizes
from common.audit.verify.fields import Record
from common.audit.verify.key_ring import KeyRing
from common.audit.verify.plan_facts import PlanFacts
from common.audit.verify.verdict import Findings
from common.timestamps import parse_time

SERVER = "server"

# Clocks of one party may disagree this much before the order of its log calls them wrong; those of
# two parties, this much before the order of their messages does.
CLOCK_TOLERANCE_MS = 60_000
PARTIES_TOLERANCE_MS = 600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry whose bytes, fields, signature and signer's role were checked.

    Attributes:
        party: Whose log it is in.
        index: Its index there.
        leaf: Its leaf hash, in hex.
        kind: Its record's kind.
        record: Its fields.
        after_ms: The latest time that any entry before it in its log states, in milliseconds.
        signers: The ids of the keys that signed it.
    """

    party: str
    index: int
    leaf: str
    kind: str
    record: Record
    after_ms: int = 0
    signers: tuple[str, ...] = ()

    def text(self, name: str) -> str:
        """A field that is a text."""
        return str(self.record[name])

    def number(self, name: str) -> int:
        """A field that is a whole number."""
        value = self.record[name]
        return value if isinstance(value, int) else 0

    def time_ms(self, name: str) -> int:
        """A field that is a time, in milliseconds since the epoch."""
        return parse_time(str(self.record[name]))

    def part(self, name: str) -> Record:
        """A field that is an object."""
        value = self.record[name]
        return value if isinstance(value, dict) else {}

    def parts(self, name: str) -> list[Record]:
        """A field that is a list of objects."""
        value = self.record[name]
        return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclass
class LogReplay:
    """One party's log, replayed.

    Attributes:
        party: The party.
        origin: The log's origin, as its checkpoints name it.
        size: The newest checkpoint's tree size.
        entries: All accepted entries but consents, in the log's order.
        consents: The consents.
        roots: Every size with a signed checkpoint that holds, and the root hash there, in hex.
        quorums: For each registry version in the log, its index and the witness quorum it sets.
        times_ms: The latest time that an entry before such a size states.
        cosigned: Which other parties cosigned such a size, and when.
        whole: Whether every entry is in the bundle; if not, no consent is.
        files: What was read of a log that is not whole, by path in the bundle.
    """

    party: str
    origin: str
    size: int = 0
    entries: list[Entry] = field(default_factory=list)
    consents: ConsentHistory = field(default_factory=ConsentHistory)
    roots: dict[int, str] = field(default_factory=dict)
    times_ms: dict[int, int] = field(default_factory=dict)
    quorums: list[tuple[int, int]] = field(default_factory=list)
    cosigned: CosignedSizes = field(default_factory=CosignedSizes)
    whole: bool = True
    files: set[str] = field(default_factory=set)

    def quorum_before(self, index: int) -> int:
        """The witness quorum of the newest registry version logged before an entry; 0 if none."""
        held = [quorum for at, quorum in self.quorums if at < index]
        return held[-1] if held else 0

    def of_kind(self, kind: str) -> Iterator[Entry]:
        """The accepted entries of one kind, in the log's order."""
        return (entry for entry in self.entries if entry.kind == kind)


@dataclass(frozen=True)
class Evidence:
    """The verified content of a bundle.

    Attributes:
        federation: The federation's name.
        run: The run the bundle is about.
        ring: The verified registry.
        plan: The run's plan; None if it is missing or malformed.
        parties: The server and every region that takes part: those with a log to show.
        replays: The replayed logs by party.
        findings: Where failures go.
    """

    federation: str
    run: str
    ring: KeyRing
    plan: PlanFacts | None
    parties: frozenset[str]
    replays: Mapping[str, LogReplay]
    findings: Findings

    @property
    def plan_sha256(self) -> str | None:
        """Digest of the plan, in hex."""
        return self.plan.sha256 if self.plan else None

    def regions(self) -> Iterator[LogReplay]:
        """The regions' logs, by name."""
        return (replay for party, replay in sorted(self.replays.items()) if party != SERVER)

    def fail(self, step: int, code: str, entry: Entry, message: str) -> None:
        """Records a failure of one entry."""
        self.findings.fail(step, code, message, party=entry.party, index=entry.index)
