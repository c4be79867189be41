"""How a run's plan says that the regions' updates become one: the rules, and what each needs.

Three names, of which a run has one. ``open``: the coordinator sums updates that it sees, each of
them differentially private by itself. ``robust``: it sees them, and a rule takes them together that
a few hostile regions cannot move far. ``confidential``: it sees nothing but their sum. Nothing is
robust and confidential at once: a rule that compares updates must see them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

RuleName = Literal["sum", "median", "trimmed-mean", "krum", "secure-sum"]
AggregationName = Literal["open", "robust", "confidential"]
NoiseMode = Literal["local", "distributed"]

RULES: tuple[RuleName, ...] = ("sum", "median", "trimmed-mean", "krum", "secure-sum")
AGGREGATIONS: tuple[AggregationName, ...] = ("open", "robust", "confidential")
NOISE_MODES: tuple[NoiseMode, ...] = ("local", "distributed")
#: A sum of two updates tells either region the other's.
SECURE_SUM_QUORUM = 3


class Aggregation(BaseModel):
    """By which rule a round's updates become one.

    Attributes:
        rule: ``sum``; ``median`` and ``trimmed-mean`` (Yin et al., 2018) in each coordinate;
            ``krum`` (Blanchard et al., 2017); ``secure-sum``, of which the coordinator sees the sum
            alone.
        tolerated: f, how many hostile regions a round withstands; 0 where the rule withstands none.
        honest_survivors_min: K_min, the number of honest regions in a round that each region's
            share of the noise is calibrated to; 0 where each region's noise suffices by itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rule: RuleName
    tolerated: int = Field(ge=0, le=10_000)
    honest_survivors_min: int = Field(ge=0, le=10_000)

    @property
    def name(self) -> AggregationName:
        """``open``, ``robust`` or ``confidential``: what log, report and policy call it."""
        if self.rule == "sum":
            return "open"
        return "confidential" if self.rule == "secure-sum" else "robust"

    @property
    def least_regions(self) -> int:
        """The fewest updates that the rule may be applied to."""
        return least_regions(self.rule, self.tolerated)

    def problem(self, mode: NoiseMode, quorum: int) -> str | None:
        """What does not hold together in a plan of this mode and quorum; None if all does."""
        if (self.tolerated > 0) != (self.name == "robust"):
            return "a robust rule tolerates at least one hostile region, and no other rule any"
        if quorum < self.least_regions:
            return f"the rule {self.rule} needs a quorum of at least {self.least_regions}"
        if mode == "local":
            return None if self.honest_survivors_min == 0 else "local noise has no least survivors"
        if self.rule != "secure-sum":
            return "distributed noise protects sums that are secure, so the rule is secure-sum"
        if not 2 <= self.honest_survivors_min <= quorum:
            return "with distributed noise honest_survivors_min is from 2 to the quorum"
        return None


def least_regions(rule: RuleName, tolerated: int) -> int:
    """The fewest updates that a rule may be applied to, of which `tolerated` may be hostile.

    A median or a trimmed mean needs a majority of honest updates in every coordinate; Krum needs
    2f + 2 < n (Blanchard et al., "Machine Learning with Adversaries", 2017, section 4).
    """
    if rule == "krum":
        return 2 * tolerated + 3
    if rule == "secure-sum":
        return SECURE_SUM_QUORUM
    return 1 if rule == "sum" else 2 * tolerated + 1
