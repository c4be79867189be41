"""How a constant of local training changes over a range of steps that everybody knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from common.errors import InputError

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """A factor for each step of a public range: of a learning rate, or of a clipping norm.

    Only the step's number enters, never data: what a region trained on cannot show in it.

    Attributes:
        shape: How the factor falls from 1 to `final_share`: not at all, along a line, or along half
            a cosine (Loshchilov and Hutter, "SGDR", 2017).
        final_share: What the factor falls to, within 0 and 1; one step later it would be reached.
        warm_up_steps: Over so many steps the factor first rises, along a line.
        first_step: Where in the range this training begins, counted from 0.
        total_steps: How long the range is; 0 for the steps of this training.
    """

    shape: Shape = "constant"
    final_share: float = 0.0
    warm_up_steps: int = 0
    first_step: int = 0
    total_steps: int = 0

    def __post_init__(self) -> None:
        counts = (self.warm_up_steps, self.first_step, self.total_steps)
        if self.shape not in ("constant", "linear", "cosine") or not (
            0 <= self.final_share <= 1 and min(counts) >= 0
        ):
            raise InputError(
                f"{self} is no schedule: its shape is unknown, its final share is not within 0 and "
                "1, or a number of steps is negative.",
                remedy="Correct the run plan that states it.",
            )

    def factor(self, step: int, steps: int) -> float:
        """The factor of one step.

        Args:
            step: The step of this training, from 0.
            steps: How many steps this training has.

        Returns:
            Within (0, 1]; 0 only beyond the end of a range that falls to 0.
        """
        total = self.total_steps or self.first_step + steps
        position = self.first_step + step
        if position < self.warm_up_steps:
            return (position + 1) / (self.warm_up_steps + 1)
        if self.shape == "constant":
            return 1.0
        gone = min(1.0, (position - self.warm_up_steps) / max(1, total - self.warm_up_steps))
        left = 1.0 - gone if self.shape == "linear" else (1.0 + math.cos(math.pi * gone)) / 2.0
        return self.final_share + (1.0 - self.final_share) * left
