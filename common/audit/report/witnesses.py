"""The report's section on witnesses: what others have seen of each log, and what contradicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from common.audit.report.material import Material
from common.audit.verify.replay import Evidence, LogReplay
from common.audit.verify.tiles import WITNESSES, conflict_files


@dataclass(frozen=True)
class WitnessedLog:
    """What others have seen of one log.

    Attributes:
        party: Whose log.
        size: How many entries it has.
        root: Its root hash, in hex; None if no signed checkpoint of that size holds.
        covered: How many of them the newest checkpoint covers that enough others cosigned.
        cosigned: By witness, how many of its checkpoints, and the largest size.
    """

    party: str
    size: int
    root: str | None
    covered: int
    cosigned: Mapping[str, tuple[int, int]]

    @property
    def tail(self) -> int:
        """How many entries at its end not enough others have seen."""
        return max(self.size - self.covered, 0)


@dataclass(frozen=True)
class Conflict:
    """Two notes of one log that cannot both be true, as a witness keeps them.

    Attributes:
        witness: Who keeps them.
        party: Whose log it is.
        files: The two files in the bundle.
    """

    witness: str
    party: str
    files: tuple[str, str]


def witnessed_logs(evidence: Evidence) -> list[WitnessedLog]:
    """What others have seen of each log."""
    quorum = evidence.ring.witness_quorum
    return [_witnessed(replay, quorum) for _, replay in sorted(evidence.replays.items())]


def _witnessed(replay: LogReplay, quorum: int) -> WitnessedLog:
    sizes: dict[str, list[int]] = defaultdict(list)
    for size, witness, _ in replay.cosigned:
        sizes[witness].append(size)
    return WitnessedLog(
        party=replay.party,
        size=replay.size,
        root=replay.roots.get(replay.size),
        covered=replay.cosigned.newest(quorum) if quorum else replay.size,
        cosigned={witness: (len(seen), max(seen)) for witness, seen in sizes.items()},
    )


def conflicts(material: Material) -> list[Conflict]:
    """The conflicting notes that witnesses keep."""
    if material.evidence is None:
        return []
    return [
        Conflict(witness, party, files)
        for witness in material.folder.list_folder(WITNESSES)
        for party in sorted(material.evidence.replays)
        for files in conflict_files(material.folder, witness, party)
    ]
