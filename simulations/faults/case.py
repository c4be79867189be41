"""What a row of the fault matrix is."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from simulations.faults.recordings import Recordings
from simulations.faults.trial import Trial


@dataclass(frozen=True)
class Given:
    """What a case is given beside its federation.

    Attributes:
        model_sha256: The model's digest if nothing happens, with the same seeds.
        other_run: Replies of the regions in another run.
        random: What the case's own choices are drawn from.
    """

    model_sha256: str
    other_run: Recordings
    random: random.Random


@dataclass(frozen=True)
class Case:
    """One fault, and what must hold.

    Attributes:
        group: The kind of fault.
        name: The fault, unique.
        invariant: What was checked, beside what every trial checks.
        act: Carries it out and holds the trial to it.
        waits: Whether it mostly waits for a timeout, and takes no processor meanwhile.
    """

    group: str
    name: str
    invariant: str
    act: Callable[[Trial, Given], None]
    waits: bool = False

    def is_called(self, part: str) -> bool:
        """Whether some whole words of its group or name are these."""
        words = rf"(?<!\w){re.escape(part)}(?!\w)"
        return re.search(words, f"{self.group}: {self.name}") is not None
