"""Who may cosign whose checkpoints, and which cosignatures of a checkpoint count.

A checkpoint counts once enough *other* parties have cosigned it (``witness_quorum`` of the key
registry). What a party says of its own log is worth nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    NoteKey,
    cosignature_time_s,
    open_note,
    parse_note,
)
from common.errors import FedprefError
from common.keys import Registry, key_id

#: A line is a party's name and 76 bytes in base64.
MAX_LINE_CHARACTERS = 1024
#: No party has so many witnesses; what comes after is not read.
MAX_LINES = 64


@dataclass(frozen=True)
class Cosignature:
    """A verified cosignature of a checkpoint by another party than the log's own.

    Attributes:
        party: The witness.
        time_s: The POSIX time it states, in seconds.
        line: The signature line, with its newline.
    """

    party: str
    time_s: int
    line: str


class Cosigners:
    """The logs and witnesses of one federation, by its key registry.

    Args:
        registry: The verified key registry.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._keys: dict[str, tuple[NoteKey, ...]] = {}
        for entry in registry.entries:
            if entry.role == "witness":
                key = NoteKey(entry.party, entry.public_key, COSIGNATURE_V1)
                self._keys[entry.party] = (*self._keys.get(entry.party, ()), key)

    @property
    def quorum(self) -> int:
        """How many other parties must cosign a checkpoint for it to count."""
        return self._registry.witness_quorum

    def origin(self, party: str) -> str:
        """The origin of a party's log."""
        return f"{self._registry.federation}/{party}"

    def keys(self, *, but: str) -> tuple[NoteKey, ...]:
        """The keys of all witnesses but one party's own."""
        return tuple(key for party, keys in self._keys.items() if party != but for key in keys)

    def verified(self, note: bytes, lines: Iterable[str], *, party: str) -> list[Cosignature]:
        """Those cosignatures of a party's checkpoint that hold; others are passed over.

        Args:
            note: The checkpoint, signed by its log.
            lines: Signature lines that others gave for it.
            party: Whose log it is.

        Returns:
            One for each other party, its latest.
        """
        text = parse_note(note).text
        found: dict[str, Cosignature] = {}
        for line, _ in zip(lines, range(MAX_LINES), strict=False):
            cosignature = self._verify(text, line, but=party)
            if cosignature is None:
                continue
            earlier = found.get(cosignature.party)
            if earlier is None or earlier.time_s < cosignature.time_s:
                found[cosignature.party] = cosignature
        return [found[name] for name in sorted(found)]

    def _verify(self, text: str, line: str, *, but: str) -> Cosignature | None:
        if len(line) > MAX_LINE_CHARACTERS or not line.endswith("\n") or "\n" in line[:-1]:
            return None
        # A line names its key: with many parties, looking at all keys would be most of the work.
        _, _, rest = line.partition(" ")
        party = rest.partition(" ")[0]
        keys = self._keys.get(party, ())
        if party == but or not keys:
            return None
        try:
            (signature,) = open_note(f"{text}\n{line}".encode(), keys).verified
            time_s = cosignature_time_s(signature)
            (public_key,) = (key.public_key for key in keys if key.id == signature.key_id)
            self._registry.find(
                key_id(public_key),
                party=party,
                role="witness",
                # The statement was made within the second that it names.
                at_ms=time_s * 1000 + 999,
            )
        except (FedprefError, UnicodeEncodeError):
            return None
        return Cosignature(party, time_s, line)


def within(
    cosignatures: Iterable[Cosignature], *, earliest_s: float, latest_s: float
) -> Mapping[str, Cosignature]:
    """Those made in a span of time, by party."""
    return {each.party: each for each in cosignatures if earliest_s <= each.time_s <= latest_s}
