"""What an attack on a deployment came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What an attacker's process reports, as JSON has it.
Found = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an attacker has in the end, and what the defenders know of it.

    Attributes:
        succeeded: Whether the attacker has what the attack was for.
        what: In one line, with the reason by which it was refused if it was.
        logged: Where the attack is on record, in the record's own words; empty if nowhere.
        figures: The same as names and values, for machines.
    """

    succeeded: bool
    what: str
    logged: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "succeeds": self.succeeded,
            "what": self.what,
            "logged": self.logged,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True)
class Shown:
    """An attack carried out on both deployments.

    Attributes:
        name: What the attack is called on the command line.
        title: What is done, in a few words.
        flower: What came of it in a deployment of stock Flower.
        ours: What came of it in a deployment of this system.
        seconds: How long both took.
    """

    name: str
    title: str
    flower: Outcome
    ours: Outcome
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the attack is real, and is refused and on record here."""
        return self.flower.succeeded and not self.ours.succeeded and bool(self.ours.logged)

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "attack": self.name,
            "title": self.title,
            "holds": self.holds,
            "seconds": round(self.seconds, 2),
            "flower": self.flower.to_record(),
            "ours": self.ours.to_record(),
        }
